"""titans: neural long-term memory that learns at test time (arXiv 2501.00663).

from titans import NeuralMemory, MemoryConfig, MemoryState, TitansConfig, TitansLM
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titans.errors import TitansError
    from titans.memory import MemoryConfig, MemoryState, NeuralMemory
    from titans.models import LMState, TitansConfig, TitansLM

__version__ = "0.1.0"
__all__ = ["LMState", "MemoryConfig", "MemoryState", "NeuralMemory", "TitansConfig", "TitansError", "TitansLM"]

# Imported on first use, so that `titans --help` need not wait for torch.
_HOME = {
    "LMState": "titans.models",
    "MemoryConfig": "titans.memory",
    "MemoryState": "titans.memory",
    "NeuralMemory": "titans.memory",
    "TitansConfig": "titans.models",
    "TitansError": "titans.errors",
    "TitansLM": "titans.models",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'titans' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
