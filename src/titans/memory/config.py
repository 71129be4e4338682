"""MemoryConfig: what a neural memory is made of."""

from dataclasses import dataclass
from typing import Literal

from titans.configuration import Configuration
from titans.parsing import check_types, require


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(Configuration):
    """Settings of one `NeuralMemory`. The defaults are the paper's where it gives one."""

    num_heads: int = 4
    """independent memories"""
    head_dim: int | None = None
    """channels that each of them works on; None: dim / num_heads"""
    depth: int = 2
    """layers of the memory network, L_M; 1 is the linear (matrix) memory"""
    expansion: int = 4
    """hidden width of the memory network as a multiple of the head dimension"""
    chunk_size: int = 16
    """tokens whose gradients are taken at the same weights; part of the model, never changed after training"""
    activation: Literal["gelu", "silu", "relu"] = "gelu"
    """non-linearity between the memory network's layers"""
    gate_granularity: Literal["head", "channel"] = "head"
    """forget gate alpha per head, or per input channel of every memory layer (exact too, but slower)"""
    max_step: float | None = None
    """upper end of the step size theta; None: 1 for the linear memory and 0.4 / expansion for a deep one, where that
    moves the answer about as far. Above 1 a linear memory gets negative eigenvalues; above 2 a wide-open gate gets
    exactly what the guard lets through"""
    guard_limit: float = 1.0
    """largest step that the guard lets through, as a fraction of a full correction; below 2"""
    conv_size: int = 4
    """taps of the causal depthwise convolution after the query, key and value projections"""
    momentum: bool = True
    """carry past surprise (eta); off: eq. 8 instead of eq. 9-10"""
    initial_momentum: float = 0.5
    """eta at a zero input, before training; low where a write has to be over before the next one"""
    forgetting: bool = True
    """decay the memory (alpha); off: eq. 9-10 instead of eq. 13-14"""
    convolution: bool = True
    """the causal convolution"""
    guard: bool = True
    """the step-size guard that keeps repeated keys from making the memory diverge"""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_heads", "expansion", "chunk_size", "conv_size"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "head_dim", self.head_dim is None or self.head_dim >= 1, "at least 1, or None")
        require(self, "depth", 1 <= self.depth <= 4, "1, 2, 3 or 4")
        allowed = "above 0 and at most 4" if self.guard else "above 0 and at most 2 without the guard"
        require(self, "max_step", 0 < self.largest_step <= (4 if self.guard else 2), allowed)
        require(self, "initial_momentum", 0 < self.initial_momentum < 1, "above 0 and below 1")
        require(self, "guard_limit", 0 < self.guard_limit < 2, "above 0 and below 2")

    @property
    def largest_step(self) -> float:
        """`max_step`, or what it is by default."""
        if self.max_step is not None:
            return self.max_step
        return 1.0 if self.depth == 1 else 0.4 / self.expansion

    def head_dim_in(self, dim: int) -> int:
        """`head_dim`, or what it is by default in a layer of width `dim`."""
        return self.head_dim if self.head_dim is not None else dim // self.num_heads
