"""Baselines of a given size, to compare with models that have as many parameters."""

import torch

from titans.baselines.config import BaselineConfig, Name
from titans.baselines.model import BaselineLM
from titans.errors import TitansError
from titans.models import presets
from titans.models.config import TitansConfig


def baseline_like(name: Name, config: TitansConfig) -> BaselineConfig:
    """A baseline in a Titans model's place: as wide and deep, with as many heads and parameters.

    Its convolution, if it has one, reaches as far back as that of the model's memory, and never less far than its own.

    A block of the Mambas has no SwiGLU, so that two of them stand for one (arXiv 2312.00752, section 3.4): with one, a
    Mamba-2 of as many parameters would have a state several times the usual size.

    Raises:
        TitansError: there is no such model in one block, or transformers is not installed.
        ValueError: the model has more parameters whatever its `hidden_size`.
    """
    if name == "hybrid" and config.num_layers < 2:
        raise TitansError("hybrid takes a block of each of two kinds, and this model has one block: choose another")
    own_taps, convolves = BaselineConfig.conv_size, config.memory.convolution and not name.startswith("llama")
    like = BaselineConfig(
        name=name,
        vocab_size=config.vocab_size,
        dim=config.dim,
        num_layers=config.num_layers * (2 if name in ("mamba", "mamba2") else 1),
        num_heads=config.num_heads,
        window_size=config.window_size,
        conv_size=max(own_taps, config.memory.conv_size) if convolves else own_taps,
    )
    return match_parameters(like, presets.num_parameters(config))


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
