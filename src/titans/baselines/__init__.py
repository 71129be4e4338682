"""Other models behind the interface of ours, to train and measure side by side: transformers' own, never rewritten.

    config.py         which model, and how large
    architectures.py  the model of transformers that a configuration names
    backbone.py       reads tokens with it, going on from a state
    state.py          what it carries between calls
    model.py          all of it as a language model with a tied head
    rows.py           reading documents that begin anywhere
    matching.py       as many parameters as another model
    loading.py        one of these or one of ours, by what a folder holds

transformers is only imported when a baseline is built: `pip install 'titans[hf]'`.
"""

from titans.baselines.config import NAMES, BaselineConfig
from titans.baselines.loading import load_model
from titans.baselines.matching import baseline_like, match_parameters
from titans.baselines.model import BaselineLM
from titans.baselines.rows import RowByRow
from titans.baselines.state import BaselineState

__all__ = [
    "NAMES",
    "BaselineConfig",
    "BaselineLM",
    "BaselineState",
    "RowByRow",
    "baseline_like",
    "load_model",
    "match_parameters",
]
