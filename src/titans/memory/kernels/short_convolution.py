"""The causal depthwise convolution in C (convolution.c), with SiLU after it where asked for.

Letters: B rows, T tokens, D channels, J taps.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from titans.memory.kernels.build import DTYPES, compiled, fields, run_in_threads, unavailable

MAX_TAPS, LANES = 16, 16  # LANES: channels of the widest vector


class _Arguments(ctypes.Structure):
    """`Call` of convolution.c."""

    _fields_ = (
        *fields(ctypes.c_int64, "B T D J silu"),
        *fields(ctypes.c_void_p, "position x w tail y dy dx dw dtail"),
    )


def supported(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel can compute this convolution; torch.compile cannot see into it."""
    channels, taps = weight.shape
    fits = x.device.type == "cpu" and x.dtype in DTYPES and channels % LANES == 0 and taps <= MAX_TAPS
    return fits and not torch.compiler.is_compiling() and unavailable() is None


def native_convolution(x: Tensor, weight: Tensor, tail: Tensor, position: Tensor | None, silu: bool) -> Tensor:
    """act(sum_j weight[:, j] x_{t-j}).

    x: [B, T, D]; weight: [D, J]; tail: [B, J - 1, D], all of one dtype; position: [B, T] where a document may begin in
    this call, else None -> [B, T, D].
    """
    position = None if position is None else position.contiguous()
    return _Convolution.apply(position, silu, x.contiguous(), weight.t().contiguous(), tail.contiguous())  # pyright: ignore


def _call(position: Tensor | None, silu: bool, tensors: dict[str, Tensor], *, backward: bool) -> None:
    x, taps = tensors["x"], len(tensors["w"])
    arguments = _Arguments(B=x.shape[0], T=x.shape[1], D=x.shape[2], J=taps, silu=silu)
    for name, tensor in tensors.items():
        setattr(arguments, name, tensor.data_ptr())
    if position is not None:
        arguments.position = position.data_ptr()
    run_in_threads(compiled("convolution", x.dtype), arguments, len(x), backward=backward)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, position: Tensor | None, silu: bool, x: Tensor, w: Tensor, tail: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _call(position, silu, {"x": x, "w": w, "tail": tail, "y": y}, backward=False)
        ctx.position, ctx.silu = position, silu
        ctx.save_for_backward(x, w, tail)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, tail = ctx.saved_tensors
        dx, dw, dtail = torch.zeros_like(x), w.new_zeros(len(x), *w.shape), torch.zeros_like(tail)
        tensors = {"x": x, "w": w, "tail": tail, "dy": dy.contiguous(), "dx": dx, "dw": dw, "dtail": dtail}
        _call(ctx.position, ctx.silu, tensors, backward=True)
        return None, None, dx, dw.sum(0), dtail
