"""TitansConfig: everything that decides what a Titans language model is."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from titans.configuration import Configuration
from titans.memory.config import MemoryConfig
from titans.parsing import check_types, require

Variant = Literal["mac", "mag", "mal", "lmm", "attention"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True, kw_only=True)
class TitansConfig(Configuration):
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
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "num_persistent_tokens", self.num_persistent_tokens >= 0, "at least 0")
        require(self, "hidden_size", self.hidden_size is None or self.hidden_size >= 1, "at least 1")
        require(self, "norm_eps", self.norm_eps > 0, "above 0")
        require(self, "rope_base", self.rope_base > 1, "above 1")
        if self.memory_layers is not None:
            valid = all(0 <= layer < self.num_layers for layer in self.memory_layers)
            require(self, "memory_layers", valid, f"block numbers from 0 to {self.num_layers - 1}")
        if self.variant != "lmm" or not all(map(self.has_memory, range(self.num_layers))):
            require(
                self, "dim", self.dim % (2 * self.num_heads) == 0, f"a multiple of 2 num_heads = {2 * self.num_heads}"
            )
        if self.variant != "attention" and self.memory.head_dim is None:
            heads = self.memory.num_heads
            expected = f"a multiple of memory.num_heads = {heads}, or memory.head_dim given"
            require(self, "dim", self.dim % heads == 0, expected)
        if self.variant == "mac":
            chunk = self.memory.chunk_size
            require(self, "segment_size", self.segment_size % chunk == 0, f"a multiple of memory.chunk_size = {chunk}")
            tokens = self.num_memory_tokens
            divides = tokens is None or (1 <= tokens <= self.segment_size and self.segment_size % tokens == 0)
            require(self, "num_memory_tokens", divides, f"a divisor of segment_size = {self.segment_size}")

    @property
    def mlp_size(self) -> int:
        """Width of the SwiGLU."""
        return self.hidden_size if self.hidden_size is not None else -(-8 * self.dim // 24) * 8

    def has_memory(self, layer: int) -> bool:
        """Whether a block has a memory."""
        return self.variant != "attention" and (self.memory_layers is None or layer in self.memory_layers)
