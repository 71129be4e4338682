"""The causal depthwise convolution in C (convolution.c), with what follows it.

Letters: B rows, T tokens, D channels, J taps, P parts.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans.memory.kernels.build import DTYPES, compiled, fields, point, run_in_threads, unavailable
from titans.memory.kernels.first_order import first_order

MAX_TAPS, MAX_PARTS, LANES = 16, 3, 16  # LANES: channels of the widest vector


class Finish(NamedTuple):
    """What follows the convolution."""

    silu: bool = False
    parts: int = 1
    """equal parts that the channels are cut into"""
    unit_parts: int = 0
    """of these, how many from the first on have every head brought to L2 norm 1"""
    head_dim: int = 1
    """channels of a head"""


SUM_ALONE = Finish()


class _Arguments(ctypes.Structure):
    """`Call` of convolution.c."""

    _fields_ = (
        *fields(ctypes.c_int64, "B T D J silu P unit d"),
        *fields(ctypes.c_void_p, "position x w tail"),
        *fields(ctypes.c_void_p * MAX_PARTS, "y dy"),
        *fields(ctypes.c_void_p, "dx dw dtail"),
    )


def supported(x: Tensor, weight: Tensor, finish: Finish) -> bool:
    """Whether the kernel can compute this convolution; torch.compile cannot see into it."""
    channels, taps = weight.shape
    fits = channels % (LANES * finish.parts) == 0 and finish.parts <= MAX_PARTS and taps <= MAX_TAPS
    here = x.device.type == "cpu" and x.dtype in DTYPES and not torch.compiler.is_compiling()
    return fits and here and unavailable() is None


def native_convolution(
    x: Tensor, weight: Tensor, tail: Tensor, position: Tensor | None, finish: Finish
) -> tuple[Tensor, ...]:
    """sum_j weight[:, j] x_{t-j}, finished.

    x: [B, T, D]; weight: [D, J]; tail: [B, J - 1, D], all of one dtype; position: [B, T] where a document may begin in
    this call, else None -> the parts, [B, T, D / P] each.
    """
    wanted = (len(x), weight.shape[1] - 1, x.shape[2])
    if tail.shape != wanted:
        raise ValueError(f"the convolution's tail should be [B, J - 1, D] = {wanted}, got {tuple(tail.shape)}")
    position = None if position is None else position.contiguous()
    return _Convolution.apply(position, finish, x.contiguous(), weight.t().contiguous(), tail.contiguous())  # pyright: ignore


def _call(
    position: Tensor | None,
    finish: Finish,
    inputs: tuple[Tensor, Tensor, Tensor],
    results: dict[str, Tensor | Sequence[Tensor]],
    *,
    backward: bool,
) -> None:
    x, w, tail = inputs
    arguments = _Arguments(B=x.shape[0], T=x.shape[1], D=x.shape[2], J=len(w), silu=finish.silu)
    arguments.P, arguments.unit, arguments.d = finish.parts, finish.unit_parts, finish.head_dim
    point(arguments, x=x, w=w, tail=tail, position=position, **results)
    run_in_threads(compiled("convolution", x.dtype), arguments, len(x), backward=backward)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, position: Tensor | None, finish: Finish, x: Tensor, w: Tensor, tail: Tensor
    ) -> tuple[Tensor, ...]:
        shape = *x.shape[:2], x.shape[2] // finish.parts
        y = tuple(x.new_empty(shape) for _ in range(finish.parts))
        _call(position, finish, (x, w, tail), {"y": y}, backward=False)
        ctx.position, ctx.finish = position, finish
        ctx.save_for_backward(x, w, tail)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, tail = inputs = ctx.saved_tensors
        dx, dw, dtail = torch.empty_like(x), w.new_zeros(len(x), *w.shape), torch.zeros_like(tail)
        given = tuple(part.contiguous() for part in dy)
        _call(ctx.position, ctx.finish, inputs, {"dy": given, "dx": dx, "dw": dw, "dtail": dtail}, backward=True)
        return None, None, dx, dw.sum(0), dtail
