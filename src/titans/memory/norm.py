"""RMSNorm, with a gate where asked for."""

from torch import Tensor, nn

from titans.memory.kernels.elementwise import rms_norm


class RMSNorm(nn.RMSNorm):
    """RMSNorm in the precision of its weight, whatever autocast made of the input."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x / rms(x) weight, times SiLU(gate) where there is one; x, gate: [..., D] -> [..., D]."""
        dtype = self.weight.dtype
        return rms_norm(x.to(dtype), self.weight, self.eps or 0.0, None if gate is None else gate.to(dtype))
