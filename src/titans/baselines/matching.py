"""Baselines of a given size, to compare with models that have as many parameters."""

import torch

from titans.baselines.config import BaselineConfig
from titans.baselines.model import BaselineLM


def match_parameters(config: BaselineConfig, parameters: float) -> BaselineConfig:
    """The same model with `hidden_size` such that it has about as many parameters as asked for.

    That is the width of the SwiGLU, of Mamba the inner width, and of Mamba-2 the size of its state, since its inner
    width is a whole multiple of dim. How far it is from the target is at most half of what one more unit adds, which is
    far below 5 %.

    Raises:
        ValueError: the model has more parameters whatever its `hidden_size`.
        TitansError: transformers is not installed.
    """
    least, next_ = (num_parameters(config.replace(hidden_size=size)) for size in (1, 2))
    size = 1 + round((parameters - least) / (next_ - least))
    if size < 1:
        raise ValueError(f"{parameters:,.0f} parameters are too few: a {config.name} like this has at least {least:,}")
    return config.replace(hidden_size=size)


def num_parameters(config: BaselineConfig) -> int:
    """Parameters of a model, without building it."""
    with torch.device("meta"):
        return BaselineLM(config).num_parameters
