"""The memory put to work: MAC, MAG, MAL, LMM and the attention-only control."""

from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.models.state import LMState

__all__ = ["LMState", "TitansConfig", "TitansLM"]
