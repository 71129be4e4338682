"""Named sizes: two to try things on, and the paper's (NeurIPS 2025 version, table 5 and appendix E)."""

from typing import Any

import torch

from titans.errors import TitansError
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM

# Parameters, dim, blocks, heads of each size. The paper gives no shape for 400M; this one is 340M's, wider.
PAPER_SHAPES = {
    "170m": (170e6, 768, 12, 16),
    "340m": (340e6, 1024, 24, 16),
    "400m": (400e6, 1088, 24, 16),
    "760m": (760e6, 1536, 24, 16),
    "1.3b": (1.3e9, 2048, 18, 8),
}


def _tiny() -> TitansConfig:
    """About 0.18 M parameters, bytes: trains in minutes on two processor cores."""
    memory = MemoryConfig(num_heads=2, expansion=2, chunk_size=32)
    return TitansConfig(dim=64, num_layers=2, num_heads=2, window_size=32, segment_size=32, memory=memory)


def _small() -> TitansConfig:
    """About 5 M parameters, bytes: hours on a processor, minutes on a GPU."""
    memory = MemoryConfig(num_heads=4, chunk_size=32)
    return TitansConfig(dim=256, num_layers=4, num_heads=4, window_size=128, segment_size=128, memory=memory)


def preset(name: str, **overrides: Any) -> TitansConfig:
    """The configuration of a named size, with some fields changed.

    Args:
        name: tiny, small, 170m, 340m, 400m, 760m or 1.3b.
        overrides: fields of `TitansConfig`.

    Raises:
        TitansError: there is no such size.
    """
    name = name.lower()
    if name in _OWN:
        return _OWN[name]().replace(**overrides)
    if name not in PAPER_SHAPES:
        raise TitansError(f"there is no preset {name!r}; choose one of {', '.join([*_OWN, *PAPER_SHAPES])}")
    parameters, dim, blocks, heads = PAPER_SHAPES[name]
    config = TitansConfig(
        vocab_size=32_000,
        dim=dim,
        num_layers=blocks,
        num_heads=heads,
        segment_size=512,
        window_size=2048,
        num_persistent_tokens=128,
        num_memory_tokens=256,
        memory=MemoryConfig(num_heads=heads),
    ).replace(**overrides)
    return config if "hidden_size" in overrides else match_parameters(config, parameters)


def match_parameters(config: TitansConfig, parameters: float) -> TitansConfig:
    """The same model with the SwiGLU so wide that it has about as many parameters as asked for.

    The way to compare variants fairly, and to meet the paper's names, whose widths it does not give.

    Raises:
        ValueError: what is not SwiGLU alone has more parameters.
    """
    per_unit = 3 * config.dim * config.num_layers
    rest = num_parameters(config.replace(hidden_size=1)) - per_unit
    if parameters < rest + per_unit:
        raise ValueError(f"{parameters:,.0f} parameters are too few: without the SwiGLU there are {rest:,}")
    width = (parameters - rest) / per_unit
    multiple = 8 if config.dim >= 512 else 1  # large matrices want round sizes
    return config.replace(hidden_size=multiple * round(width / multiple))


def control_of(config: TitansConfig) -> TitansConfig:
    """The model without its memory: attention alone, with a wider SwiGLU, so that it has as many parameters."""
    return match_parameters(config.replace(variant="attention"), num_parameters(config))


def num_parameters(config: TitansConfig) -> int:
    """Parameters of a model, without building it."""
    with torch.device("meta"):
        return TitansLM(config).num_parameters


_OWN = {"tiny": _tiny, "small": _small}
