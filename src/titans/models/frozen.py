"""A memory that is read but never written, to measure what the writing is worth."""

import copy

from titans.memory.layer import GateProjections
from titans.models.language_model import TitansLM


def without_writes(model: TitansLM) -> TitansLM:
    """A copy whose memories keep their initial weights for ever: nothing is learned or forgotten at test time."""
    frozen = copy.deepcopy(model)
    for module in frozen.modules():
        if isinstance(module, GateProjections):
            module.shut()
    return frozen
