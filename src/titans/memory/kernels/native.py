"""The dual form in C (chunk.c): forward and backward of the whole loop over chunks as one function of autograd.

Keeps the weights and momentum before every `group`th chunk and computes everything else anew in the backward pass.
Rows and heads are independent and are shared out over torch's threads. For processors; float32 and float64; every
switch but channel-wise forgetting. Equals `chunk_titans`.

Letters: B rows, T tokens, H heads, d head dimension, L memory layers, C chunk length, R rounds, G gates per head.
"""

import ctypes
import functools
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from titans.memory.arguments import Call, memory_operation
from titans.memory.gates import MOMENTUM_SHARE, Gates
from titans.memory.kernels.build import BuildError, library
from titans.memory.layout import Layout, layout, take
from titans.memory.networks import MAX_SLOPE
from titans.memory.state import MemoryState

MAX_LAYERS, MAX_CHUNK = 4, 1024
_ACTIVATIONS = ("gelu", "silu", "relu")
_POINTER, _POINTERS = ctypes.c_void_p, ctypes.c_void_p * MAX_LAYERS
_log = logging.getLogger("titans")


class _Arguments(ctypes.Structure):
    """`Call` of chunk.c."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in "B T H d hidden L C R G activation momentum norm group".split()]
        + [(name, ctypes.c_double) for name in "limit share max_slope".split()]
        + [(name, _POINTER) for name in "source fresh fill first q k v keep eta theta gamma beta pending".split()]
        + [(name, _POINTER) for name in "slope_old keep_old eta_old theta_old".split()]
        + [(name, _POINTERS) for name in "w0 w s a_old e_old".split()]
        + [(name, _POINTER) for name in "y pending_end slope_open".split()]
        + [(name, _POINTERS) for name in "w_end s_end a_open e_open".split()]
        + [(name, _POINTER) for name in "starts divisors dy".split()]
        + [(name, _POINTERS) for name in "dw_end ds_end da_open de_open".split()]
        + [(name, _POINTER) for name in "dq dk dv dkeep deta dtheta dgamma dbeta dkeep_old deta_old dtheta_old".split()]
        + [(name, _POINTERS) for name in "dw0 dw ds da_old de_old".split()]
    )


def unsupported(device: torch.device, chunk_size: int, granularity: str) -> str | None:
    """Why a memory cannot be computed by this kernel, or None if it can."""
    if device.type != "cpu":
        return f"it computes on processors, not on {device.type}"
    if granularity == "channel":
        return "it has no channel-wise forgetting"
    if chunk_size > MAX_CHUNK:
        return f"chunk_size is above {MAX_CHUNK}"
    return _build_failure()


@functools.cache
def _build_failure() -> str | None:
    try:
        library("float32")
    except BuildError as error:
        _log.warning("the fast memory kernel is not used, a slower form takes its place: %s", error)
        return str(error)
    return None


def _native_titans(call: Call) -> tuple[Tensor, MemoryState]:
    """The memory over whole sequences, compiled for the processor. Arguments: see `titans.memory.arguments`."""
    state, network = call.state, call.network
    length = call.q.shape[1]
    if length == 0:
        return call.q, state
    channel_wise = call.gates.g.shape[-1] not in (1, network.depth)
    reason = unsupported(call.q.device, state.chunk_size, "channel" if channel_wise else "head")
    if reason is not None:
        raise ValueError(f"the native kernel cannot be used here: {reason}; chunk_titans can")

    plan = layout(state.position, length, state.chunk_size, call.mask, call.reset)
    gates, old = _one_width(call.gates, network.depth), _one_width(_open_gates(state), network.depth)
    shape = _Shape(call, plan, gates.theta.shape[-1])
    tensors = (
        *(call.q, call.k, call.v),
        *_decays(gates),
        *((None, None) if call.norm is None else call.norm),
        *_decays(old),
        *(*call.weights, *state.weights, *state.momentum, *state.inputs, *state.errors),
    )
    tensors = tuple(None if x is None else x.contiguous() for x in tensors)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    results = list(_Native.apply(shape, state.pending, state.slope, differentiable, *tensors))  # pyright: ignore
    y, pending, slope = results[:3]
    per_layer = [tuple(results[i : i + network.depth]) for i in range(3, len(results), network.depth)]
    weights, *momentum, inputs, errors = per_layer
    return y, state.replace(
        position=plan.end,
        weights=weights,
        momentum=momentum[0] if momentum else (),
        pending=pending,
        inputs=inputs,
        errors=errors,
        slope=slope,
        gates=_open_chunk(call, plan).as_state(),
    )


native_titans = memory_operation(_native_titans)


def _open_gates(state: MemoryState) -> Gates:
    g, theta, *rest = state.gates
    return Gates(g, rest[0] if rest else None, theta)


def _one_width(gates: Gates, depth: int) -> Gates:
    """The same number of gates per head for all three, 1 or L."""
    width = depth if depth in (gates.g.shape[-1], gates.theta.shape[-1]) else 1
    return gates.map(lambda x: x.expand(*x.shape[:-1], width))


def _decays(gates: Gates) -> tuple[Tensor, Tensor | None, Tensor]:
    """1 - alpha, eta, theta."""
    return gates.g.exp(), None if gates.log_eta is None else gates.log_eta.exp(), gates.theta


def _open_chunk(call: Call, plan: Layout) -> Gates:
    """The gates of the chunk that is open after the call [B, H, C, ·], zero in its empty slots."""
    state, size = call.state, plan.unit
    filled = torch.arange(size) < (plan.end % size).unsqueeze(1)  # [B, C]; nowhere if the last chunk is full
    slots = torch.arange(plan.num_rounds * size).expand(len(filled), -1) if plan.source is None else plan.source
    length = call.q.shape[1]
    tokens = slots[:, -size:].clamp_max(length)
    old = None if plan.old is None else plan.old[-1]

    def pick(new: Tensor, before: Tensor) -> Tensor:
        padded = torch.cat([new, new.new_zeros(new.shape[0], 1, *new.shape[2:])], 1)
        found = take(padded, tokens).transpose(1, 2)  # [B, H, C, ·]
        if old is not None:
            found = torch.where(old[:, None, :, None], before, found)
        return found.masked_fill(~filled[:, None, :, None], 0)

    return call.gates.merge(_open_gates(state), pick)


@dataclass
class _Shape:
    """What the kernel must know besides the tensors."""

    def __init__(self, call: Call, plan: Layout, num_gates: int) -> None:
        rows, length, heads, head_dim = call.q.shape
        self.depth, self.num_rounds = call.network.depth, plan.num_rounds
        self.chunk_size, self.num_gates = plan.unit, num_gates
        self.momentum = call.gates.log_eta is not None
        self.norm = call.norm is not None
        self.sizes = dict(
            B=rows, T=length, H=heads, d=head_dim, hidden=call.network.layer_dims[-1][0], L=self.depth, C=plan.unit,
            R=plan.num_rounds, G=num_gates, activation=_ACTIVATIONS.index(call.network.activation),
            momentum=self.momentum, norm=self.norm, group=max(1, math.isqrt(plan.num_rounds)),
            limit=call.guard_limit or 0.0, share=MOMENTUM_SHARE, max_slope=MAX_SLOPE[call.network.activation],
        )  # fmt: skip
        self.source = None if plan.source is None else plan.source.contiguous()
        self.fresh = None if plan.fresh is None else plan.fresh.to(torch.uint8).contiguous()
        position = call.state.position
        self.fill = (position % plan.unit).contiguous() if plan.old is not None else torch.zeros_like(position)
        self.first = torch.zeros_like(position) if plan.old is None else plan.old.any(-1).int().argmax(0)

    def arguments(self, **tensors: Tensor | None | Sequence[Tensor]) -> _Arguments:
        """The kernel's arguments; a sequence has one tensor per memory layer."""
        arguments = _Arguments(**self.sizes)
        tensors |= {"source": self.source, "fresh": self.fresh, "fill": self.fill, "first": self.first}
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                setattr(arguments, name, value.data_ptr())
            elif value is not None:
                setattr(arguments, name, _POINTERS(*(x.data_ptr() for x in value)))
        return arguments

    def name(self, tensors: Sequence[Tensor | None]) -> dict[str, Any]:
        """The differentiable arguments by their names in the kernel."""
        single = ("q", "k", "v", "keep", "eta", "theta", "gamma", "beta", "keep_old", "eta_old", "theta_old")
        layered = ("w0", "w", "s", "a_old", "e_old") if self.momentum else ("w0", "w", "a_old", "e_old")
        rest = tensors[len(single) :]
        groups = [rest[i : i + self.depth] for i in range(0, len(rest), self.depth)]
        return dict(zip(single, tensors, strict=False)) | dict(zip(layered, groups, strict=True))


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shape: _Shape, pending: Tensor, slope: Tensor, differentiable: bool, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        named = shape.name(tensors)
        q, weights = named["q"], named["w"]
        inner = library(str(q.dtype).removeprefix("torch."))
        absent = shape.source is not None  # tokens that are not there are not written
        y = torch.zeros_like(q) if absent else torch.empty_like(q)
        w_end = [torch.empty_like(x) for x in weights]
        s_end = [torch.empty_like(x) for x in named.get("s", ())]
        a_open, e_open = ([torch.zeros_like(x) for x in named[name]] for name in ("a_old", "e_old"))
        pending_end, slope_open = torch.empty_like(pending, memory_format=torch.contiguous_format), torch.zeros_like(
            slope, memory_format=torch.contiguous_format
        )
        starts = divisors = None
        if differentiable:
            jobs, group = q.shape[0] * q.shape[2], shape.sizes["group"]
            sized = shape.arguments()
            inner.state_size.restype = ctypes.c_int64
            size = inner.state_size(ctypes.byref(sized))
            starts = q.new_empty(jobs, -(-shape.num_rounds // group), size)
            divisors = q.new_empty(jobs, shape.num_rounds, 2, shape.chunk_size)
        arguments = shape.arguments(
            **named, pending=pending.contiguous(), slope_old=slope.contiguous(), y=y, pending_end=pending_end,
            slope_open=slope_open, w_end=w_end, s_end=s_end or None, a_open=a_open, e_open=e_open, starts=starts,
            divisors=divisors,
        )  # fmt: skip
        _run(inner, arguments, backward=False)
        ctx.shape, ctx.starts, ctx.divisors = shape, starts, divisors
        ctx.save_for_backward(slope.contiguous(), *tensors)
        ctx.mark_non_differentiable(pending_end, slope_open)
        return y, pending_end, slope_open, *w_end, *s_end, *a_open, *e_open

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor, __: Tensor, *ends: Tensor) -> tuple[Tensor | None, ...]:
        shape: _Shape = ctx.shape
        slope, *tensors = ctx.saved_tensors
        named = shape.name(tensors)
        inner = library(str(dy.dtype).removeprefix("torch."))
        ends = tuple(x.contiguous() for x in ends)
        dw_end, *ds_end, da_open, de_open = (
            ends[i : i + shape.depth] for i in range(0, len(ends), shape.depth)
        )  # fmt: skip
        rows, heads = dy.shape[0], dy.shape[2]

        def like(x: Tensor | None, name: str) -> Tensor | None:
            """Room for a gradient; those of parameters get one per row."""
            if x is None:
                return None
            per_row = name in ("w0", "gamma", "beta")
            return torch.zeros((rows, *x.shape) if per_row else x.shape, dtype=x.dtype)

        gradients = {
            name: tuple(like(x, name) for x in value) if isinstance(value, tuple | list) else like(value, name)
            for name, value in named.items()
        }
        arguments = shape.arguments(
            **named, pending=slope.new_zeros(rows, heads, shape.depth), slope_old=slope, starts=ctx.starts,
            divisors=ctx.divisors, dy=dy.contiguous(), dw_end=dw_end, ds_end=ds_end[0] if ds_end else None,
            da_open=da_open, de_open=de_open, **{f"d{name}": value for name, value in gradients.items()},
        )  # fmt: skip
        _run(inner, arguments, backward=True)
        for name in ("gamma", "beta"):
            if gradients[name] is not None:
                gradients[name] = gradients[name].sum(0)
        gradients["w0"] = tuple(x.sum(0) for x in gradients["w0"])
        flat = [x for value in gradients.values() for x in (value if isinstance(value, tuple) else (value,))]
        return None, None, None, None, *flat


def _run(inner: ctypes.CDLL, arguments: _Arguments, *, backward: bool) -> None:
    """Shares rows and heads out over the threads; the interpreter's lock is released inside."""
    jobs = arguments.B * arguments.H
    threads = max(1, min(torch.get_num_threads(), jobs))
    bounds = [jobs * i // threads for i in range(threads + 1)]

    def part(i: int) -> int:
        begin, end = ctypes.c_int64(bounds[i]), ctypes.c_int64(bounds[i + 1])
        return inner.run(ctypes.byref(arguments), begin, end, ctypes.c_int(backward))

    results = [part(0)] if threads == 1 else list(_pool(threads).map(part, range(threads)))
    if any(results):
        raise MemoryError("out of memory in the memory kernel: use shorter sequences, fewer rows or a smaller memory")


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="titans")
