"""Normalisation, SwiGLU and rotary positions, each in one pass of compiled code (elementwise.c) where it can be had.

On processors torch takes several passes forward and a dozen backward. Elsewhere, and in other precisions, these are
torch's own operations.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory.kernels.build import DTYPES, compiled, fields, point, run_in_threads, unavailable
from titans.memory.kernels.first_order import first_order

ROWS = 64  # of a job
_NORM, _SWIGLU, _ROTARY = range(3)


class _Arguments(ctypes.Structure):
    """`Call` of elementwise.c."""

    _fields_ = (
        *fields(ctypes.c_int64, "kind N D H rows"),
        ("eps", ctypes.c_double),
        *fields(ctypes.c_void_p, "x w gate cos sin y dy dx dw dgate"),
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None) -> Tensor:
    """x / rms(x) weight, times SiLU(gate) where there is one; x, gate: [..., D], weight: [D] -> [..., D]."""
    alike = x.shape[-1:] == weight.shape and (gate is None or gate.shape == x.shape)
    if alike and _native(x, weight, gate):
        gate = None if gate is None else gate.contiguous()
        return _Norm.apply(eps, x.contiguous(), weight.contiguous(), gate)  # pyright: ignore
    y = F.rms_norm(x, weight.shape, weight, eps)
    return y if gate is None else y * F.silu(gate)


def swiglu(x: Tensor) -> Tensor:
    """SiLU(a) b of x = [a, b] [..., 2 D] -> [..., D]."""
    if x.shape[-1] % 2 == 0 and _native(x):
        return _SwiGLU.apply(x.contiguous())  # pyright: ignore
    a, b = x.chunk(2, -1)
    return F.silu(a) * b


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [B, T, H, d]; cos, sin: [B or 1, T, 1, d / 2], without gradient."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if _native(x, cos, sin):
        cos, sin = (part.expand(*x.shape[:2], 1, -1).contiguous() for part in (cos, sin))
        return _Rotary.apply(x.contiguous(), cos, sin)  # pyright: ignore
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _native(x: Tensor, *others: Tensor | None) -> bool:
    alike = all(other is None or other.dtype == x.dtype for other in others)
    here = x.device.type == "cpu" and x.dtype in DTYPES and x.numel() > 0
    return alike and here and not torch.compiler.is_compiling() and unavailable() is None


def _call(kind: int, width: int, tensors: dict[str, Tensor | None], *, heads: int = 1, eps: float = 0.0) -> None:
    """Runs the kernel, backwards if there is a `dx`. width: D."""
    given = next(x for name, x in tensors.items() if name in ("y", "dy") and x is not None)
    count = given.numel() // width
    arguments = _Arguments(kind=kind, N=count, D=width, H=heads, rows=ROWS, eps=eps)
    point(arguments, **tensors)
    run_in_threads(compiled("elementwise", given.dtype), arguments, _jobs(count), backward="dx" in tensors)


def _jobs(rows: int) -> int:
    return -(-rows // ROWS)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: float, x: Tensor, weight: Tensor, gate: Tensor | None) -> Tensor:
        y = torch.empty_like(x)
        _call(_NORM, len(weight), {"x": x, "w": weight, "gate": gate, "y": y}, eps=eps)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, gate)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gate = ctx.saved_tensors
        width = len(weight)
        dx, dgate = torch.empty_like(x), None if gate is None else torch.empty_like(gate)
        dw = weight.new_zeros(_jobs(x.numel() // width), width)
        given = {"x": x, "w": weight, "gate": gate, "dy": dy.contiguous()}
        _call(_NORM, width, {**given, "dx": dx, "dw": dw, "dgate": dgate}, eps=ctx.eps)
        return None, dx, dw.sum(0), dgate


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        _call(_SWIGLU, y.shape[-1], {"x": x, "y": y})
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        _call(_SWIGLU, dy.shape[-1], {"x": x, "dy": dy.contiguous(), "dx": dx})
        return dx


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y, (heads, head_dim) = torch.empty_like(x), x.shape[-2:]
        _call(_ROTARY, heads * head_dim, {"x": x, "cos": cos, "sin": sin, "y": y}, heads=heads)
        ctx.save_for_backward(cos, sin)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        dx, (heads, head_dim) = torch.empty_like(dy, memory_format=torch.contiguous_format), dy.shape[-2:]
        given = {"cos": cos, "sin": sin, "dy": dy.contiguous()}
        _call(_ROTARY, heads * head_dim, {**given, "dx": dx}, heads=heads)
        return dx, None, None
