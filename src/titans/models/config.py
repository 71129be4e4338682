"""TitansConfig: everything that decides what a Titans language model is."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from titans.errors import TitansError
from titans.memory.config import MemoryConfig
from titans.parsing import check_types, parse

Variant = Literal["mac", "mag", "mal", "lmm", "attention"]
VARIANTS = ("mac", "mag", "mal", "lmm", "attention")


@dataclass(frozen=True, kw_only=True)
class TitansConfig:
    """Settings of a `TitansLM`."""

    variant: Variant = "mag"
    """how memory and attention are joined: as context, as gate, as layer, memory alone, or no memory (the control)"""
    vocab_size: int = 256
    """number of token ids; 256 for bytes"""
    dim: int = 128
    """width of the residual stream"""
    num_layers: int = 4
    """blocks"""
    num_heads: int = 4
    """attention heads; the memory has its own, MemoryConfig.num_heads"""
    segment_size: int = 64
    """MAC: tokens per segment, which attention sees whole; a multiple of the memory's chunk_size"""
    window_size: int = 64
    """MAG, MAL and the control: tokens that attention sees, the current one included"""
    num_persistent_tokens: int = 4
    """learned tokens N_p that attention always sees; the memory alone has no attention and ignores them"""
    num_memory_tokens: int | None = None
    """MAC: memory tokens per segment that attention sees; None for one per token, else a divisor of segment_size"""
    memory_layers: tuple[int, ...] | None = None
    """blocks that have a memory, from 0; None for all, the others are attention blocks"""
    hidden_size: int | None = None
    """width of the SwiGLU; None for 8/3 of dim, rounded up to a multiple of 8"""
    norm_eps: float = 1e-6
    """added to the mean square in RMSNorm"""
    rope_base: float = 10_000.0
    """longest wavelength of the rotary embedding, over 2 pi"""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """the neural memory of each block"""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "segment_size", "window_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("num_persistent_tokens", self.num_persistent_tokens >= 0, "at least 0")
        self._require("hidden_size", self.hidden_size is None or self.hidden_size >= 1, "at least 1")
        self._require("norm_eps", self.norm_eps > 0, "above 0")
        self._require("rope_base", self.rope_base > 1, "above 1")
        if self.memory_layers is not None:
            valid = all(0 <= layer < self.num_layers for layer in self.memory_layers)
            self._require("memory_layers", valid, f"block numbers from 0 to {self.num_layers - 1}")
        if self.variant != "lmm" or not all(map(self.has_memory, range(self.num_layers))):
            self._require(
                "dim", self.dim % (2 * self.num_heads) == 0, f"a multiple of 2 num_heads = {2 * self.num_heads}"
            )
        if self.variant != "attention":
            heads = self.memory.num_heads
            self._require("dim", self.dim % heads == 0, f"a multiple of memory.num_heads = {heads}")
        if self.variant == "mac":
            chunk = self.memory.chunk_size
            self._require("segment_size", self.segment_size % chunk == 0, f"a multiple of memory.chunk_size = {chunk}")
            tokens = self.num_memory_tokens
            divides = tokens is None or (1 <= tokens <= self.segment_size and self.segment_size % tokens == 0)
            self._require("num_memory_tokens", divides, f"a divisor of segment_size = {self.segment_size}")

    @property
    def mlp_size(self) -> int:
        """Width of the SwiGLU."""
        return self.hidden_size if self.hidden_size is not None else -(-8 * self.dim // 24) * 8

    def has_memory(self, layer: int) -> bool:
        """Whether a block has a memory."""
        return self.variant != "attention" and (self.memory_layers is None or layer in self.memory_layers)

    def replace(self, **changes: Any) -> "TitansConfig":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path | None = None) -> "TitansConfig":
        """The inverse of `to_dict`, also after a way through JSON; what is missing gets its default.

        Args:
            path: the file that holds it, for the messages.

        Raises:
            TitansError: a key is unknown or a value impossible.
        """
        try:
            return parse(values, cls, all_known=True)
        except ValueError as error:
            place = "" if path is None else f" in {path}"
            raise TitansError(f"impossible configuration{place}: {error}") from error

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"TitansConfig.{name} is {getattr(self, name)!r}; it must be {expected}")
