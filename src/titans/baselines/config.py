"""BaselineConfig: which of the other models, and how large."""

from dataclasses import dataclass
from typing import Literal, get_args

from titans.configuration import Configuration
from titans.parsing import check_types, require

Name = Literal[
    "llama", "llama-swa", "mamba", "mamba2", "delta", "delta-neg", "gated-delta", "gated-delta-neg", "hybrid"
]
NAMES: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(Configuration):
    """Settings of a `BaselineLM`.

    llama            full attention (Llama, arXiv 2302.13971)
    llama-swa        the same with a sliding window (Mistral, arXiv 2310.06825)
    mamba            selective state space (arXiv 2312.00752)
    mamba2           the same as structured attention (arXiv 2405.21060)
    delta            delta rule (DeltaNet, arXiv 2406.06484)
    delta-neg        the same with steps up to 2, whose eigenvalues may be negative (arXiv 2411.12537)
    gated-delta      delta rule with forgetting (Gated DeltaNet, arXiv 2412.06464)
    gated-delta-neg  the same with steps up to 2
    hybrid           three layers of gated delta, then one of full attention (Qwen3-Next)
    """

    name: Name
    """which model"""
    vocab_size: int = 256
    """number of token ids; 256 for bytes"""
    dim: int = 128
    """width of the residual stream"""
    num_layers: int = 4
    """blocks"""
    num_heads: int = 4
    """heads of attention or the delta rule; Mamba-2 has as many or more, of 64 channels at most, and Mamba has none"""
    window_size: int = 64
    """llama-swa: tokens that attention sees, the current one included"""
    conv_size: int = 4
    """taps of the convolution of the Mambas and the delta rule; 4 is what they were published with"""
    hidden_size: int | None = None
    """width of the SwiGLU; None for 8/3 of dim, rounded up to a multiple of 8. The Mambas have no SwiGLU: of Mamba it
    is the inner width (None: 2 dim), of Mamba-2 the state's size per channel (None: 64)"""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "conv_size"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "hidden_size", self.hidden_size is None or self.hidden_size >= 1, "at least 1")
        if self.name == "llama-swa":  # transformers keeps the last window_size - 1 keys, and takes -0 for all of them
            require(self, "window_size", self.window_size >= 2, "at least 2")
        if self.name == "hybrid":
            require(self, "num_layers", self.num_layers >= 2, "at least 2, one of each kind")
        if self.name != "mamba":
            even = 2 * self.num_heads
            require(self, "dim", self.dim % even == 0, f"a multiple of 2 num_heads = {even}")

    @property
    def width(self) -> int:
        """`hidden_size` or what stands in for it."""
        if self.hidden_size is not None:
            return self.hidden_size
        return {"mamba": 2 * self.dim, "mamba2": 64}.get(self.name, -(-8 * self.dim // 24) * 8)

    def attends(self, layer: int) -> bool:
        """Whether a block is one of attention; the others are recurrent."""
        if self.name == "hybrid":
            return layer % 4 == 3 or layer == self.num_layers - 1 < 3
        return self.name in ("llama", "llama-swa")
