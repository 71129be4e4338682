"""The dual form in C (chunk.c): forward and backward of the whole loop over chunks as one function of autograd.

Keeps the weights and momentum before every `group`th chunk and what the layers made of the queries, and computes
everything else anew in the backward pass. Given bfloat16 it rounds the factors of its products to that where the
processor has instructions for it; sums, state and all else stay float32.
Rows and heads are independent and are shared out over torch's threads. For processors; float32 and float64; every
switch but channel-wise forgetting. Equals `chunk_titans`.

Letters: B rows, T tokens, H heads, d head dimension, L memory layers, C chunk length, R rounds, G gates per head.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from titans.memory.arguments import Call, check_again, memory_operation
from titans.memory.chunked import open_gates
from titans.memory.gates import MOMENTUM_SHARE, Gates
from titans.memory.kernels.build import compiled, fields, multiplies_bfloat16, point, run_in_threads, unavailable
from titans.memory.kernels.first_order import first_order
from titans.memory.kernels.uncompiled import uncompiled
from titans.memory.layout import Layout, layout, take
from titans.memory.networks import by_layer
from titans.memory.state import MemoryState

MAX_LAYERS, MAX_CHUNK = 4, 1024
ACTIVATIONS = ("gelu", "silu", "relu")
_POINTER, _POINTERS = ctypes.c_void_p, ctypes.c_void_p * MAX_LAYERS
_PER_TOKEN = ("q", "k", "v", "keep", "eta", "theta")
_PER_ROW = ("w0", "gamma", "beta")
_WRITTEN = ("w", "s")  # gradients of which the kernel writes every number


class _Arguments(ctypes.Structure):
    """`Call` of work.h."""

    _fields_ = (
        *fields(ctypes.c_int64, "B T H d hidden L C R G activation momentum norm group"),
        *fields(ctypes.c_double, "limit share"),
        *fields(_POINTER, "source fresh fill first q k v keep eta theta gamma beta pending"),
        *fields(_POINTER, "miss_old keep_old eta_old theta_old"),
        *fields(_POINTERS, "w0 w s a_old e_old"),
        *fields(_POINTER, "y pending_end miss_open"),
        *fields(_POINTERS, "w_end s_end a_open e_open"),
        *fields(_POINTER, "starts divisors reads dy"),
        *fields(_POINTERS, "dw_end ds_end da_open de_open"),
        *fields(_POINTER, "dq dk dv dkeep deta dtheta dgamma dbeta dkeep_old deta_old dtheta_old"),
        *fields(_POINTERS, "dw0 dw ds da_old de_old"),
    )


def unsupported(device: torch.device, chunk_size: int, granularity: str) -> str | None:
    """Why a memory cannot be computed by this kernel, or None if it can."""
    if device.type != "cpu":
        return f"it computes on processors, not on {device.type}"
    if granularity == "channel":
        return "it has no channel-wise forgetting"
    if chunk_size > MAX_CHUNK:
        return f"chunk_size is above {MAX_CHUNK}"
    return unavailable()


@uncompiled
def _native_titans(call: Call) -> tuple[Tensor, MemoryState]:
    """The memory over whole sequences, compiled for the processor. Arguments: see `titans.memory.arguments`."""
    state, network = call.state, call.network
    length = call.q.shape[1]
    if length == 0:
        return call.q, state
    channel_wise = call.gates.g.shape[-1] not in (1, network.depth)
    reason = unsupported(call.q.device, state.chunk_size, "channel" if channel_wise else "head")
    if network.depth > MAX_LAYERS:
        reason = f"it has at most {MAX_LAYERS} memory layers, not {network.depth}"
    if reason is not None:
        raise ValueError(f"the native kernel cannot be used here: {reason}; chunk_titans can")
    # Once more: a graph of torch.compile has not looked, and C would write anywhere.
    check_again(call)

    plan = layout(state.position, length, state.chunk_size, call.mask, call.reset, state.known_position)
    gates, old = _one_width(call.gates, network.depth), _one_width(open_gates(state), network.depth)
    shape = _Shape(call, plan, gates.theta.shape[-1])
    tensors = (
        *(call.q, call.k, call.v),
        *_decays(gates),
        *((None, None) if call.norm is None else call.norm),
        *_decays(old),
        # What a document begins with is only looked at, and only has a gradient, where one begins in this call.
        *(call.weights if plan.fresh is not None else (w.detach() for w in call.weights)),
        *(*state.weights, *state.momentum, *state.inputs, *state.errors),
    )
    tensors = tuple(None if x is None else x.contiguous() for x in tensors)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    results = _Native.apply(shape, differentiable, *tensors)  # pyright: ignore[reportArgumentType]
    y, pending, miss, *layered = results
    weights, *momentum, inputs, errors = by_layer(layered, network.depth)
    return y, state.replace(
        position=plan.end,
        known_position=plan.known_end,
        weights=weights,
        momentum=momentum[0] if momentum else (),
        pending=pending,
        inputs=inputs,
        errors=errors,
        miss=miss,
        gates=_open_chunk(call, plan).as_state(),
    )


native_titans = memory_operation(_native_titans)


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
    if plan.source is None and call.q.shape[1] % size == 0:  # every chunk is full
        return open_gates(state).map(torch.zeros_like)
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

    return call.gates.merge(open_gates(state), pick)


class _Shape:
    """What the kernel must know besides the tensors that have gradients."""

    def __init__(self, call: Call, plan: Layout, num_gates: int) -> None:
        rows, length, heads, head_dim = call.q.shape
        network, position = call.network, call.state.position
        self.depth, self.momentum = network.depth, call.gates.log_eta is not None
        self.rounded = call.given_dtype == torch.bfloat16 and multiplies_bfloat16()
        self.sizes = {
            "B": rows,
            "T": length,
            "H": heads,
            "d": head_dim,
            "hidden": network.layer_dims[-1][0],
            "L": self.depth,
            "C": plan.unit,
            "R": plan.num_rounds,
            "G": num_gates,
            "activation": ACTIVATIONS.index(network.activation),
            "momentum": self.momentum,
            "norm": call.norm is not None,
            "group": max(1, math.isqrt(plan.num_rounds)),
            "limit": call.guard_limit or 0.0,
            "share": MOMENTUM_SHARE,
        }
        none = torch.zeros_like(position)
        self.plan: dict[str, Tensor | None] = {
            "source": None if plan.source is None else plan.source.contiguous(),
            "fresh": None if plan.fresh is None else plan.fresh.to(torch.uint8).contiguous(),
            "fill": none if plan.old is None else (position % plan.unit).contiguous(),
            "first": none if plan.old is None else plan.old.any(-1).int().argmax(0),
        }
        self.all_present = call.mask is None
        self.pending, self.miss = call.state.pending.contiguous(), call.state.miss.contiguous()

    def arguments(self, **tensors: Any) -> _Arguments:
        """The kernel's arguments: tensors, a sequence of one per memory layer, or None."""
        arguments = _Arguments(**self.sizes)
        tensors |= self.plan | {"pending": self.pending, "miss_old": self.miss}
        point(arguments, **tensors)
        arguments.owners = tensors  # pointers do not keep a tensor alive
        return arguments

    def per_token(self, x: Tensor) -> Tensor:
        """For a result [B, T, ...]: the kernel writes every token but the absent ones, which are zero."""
        return torch.empty_like(x) if self.all_present else torch.zeros_like(x)

    def name(self, tensors: Sequence[Tensor | None]) -> dict[str, Any]:
        """The arguments that have gradients by their names in the kernel; tuples of one per memory layer."""
        single = ["q", "k", "v", "keep", "eta", "theta", "gamma", "beta", "keep_old", "eta_old", "theta_old"]
        layered = ["w0", "w", "s", "a_old", "e_old"] if self.momentum else ["w0", "w", "a_old", "e_old"]
        groups = by_layer(tensors[len(single) :], self.depth)
        return {**dict(zip(single, tensors, strict=False)), **dict(zip(layered, groups, strict=True))}


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: _Shape, differentiable: bool, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        named = shape.name(tensors)
        q: Tensor = named["q"]
        kernel = compiled("chunk", q.dtype, rounded=shape.rounded)
        results = {
            "y": shape.per_token(q),
            "pending_end": torch.empty_like(shape.pending),
            "miss_open": torch.zeros_like(shape.miss),
            "w_end": [torch.empty_like(x) for x in named["w"]],
            "s_end": [torch.empty_like(x) for x in named["s"]] if shape.momentum else None,
            "a_open": [torch.zeros_like(x) for x in named["a_old"]],
            "e_open": [torch.zeros_like(x) for x in named["e_old"]],
        }
        kept, jobs = {}, q.shape[0] * q.shape[2]
        if differentiable:
            rounds, group = shape.sizes["R"], shape.sizes["group"]
            state, reads = ctypes.c_int64(), ctypes.c_int64()
            kernel.sizes(ctypes.byref(shape.arguments()), ctypes.byref(state), ctypes.byref(reads))
            kept["starts"] = q.new_empty(jobs, -(-rounds // group), state.value)
            kept["reads"] = q.new_empty(jobs, rounds, reads.value)
            kept["divisors"] = q.new_empty(jobs, rounds, 2, shape.sizes["C"])
        run_in_threads(kernel, shape.arguments(**named, **results, **kept), jobs, backward=False)
        ctx.shape, ctx.kept = shape, tuple(kept)
        ctx.save_for_backward(*tensors, *kept.values())
        y, pending, miss, *layered = results.values()
        ctx.mark_non_differentiable(pending, miss)
        return y, pending, miss, *(x for group in layered if group is not None for x in group)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor, *ends: Tensor) -> tuple[Tensor | None, ...]:
        shape: _Shape = ctx.shape
        count = len(ctx.saved_tensors) - len(ctx.kept)
        named, kept = shape.name(ctx.saved_tensors[:count]), dict(zip(ctx.kept, ctx.saved_tensors[count:], strict=True))
        names = ["dw_end", "ds_end", "da_open", "de_open"] if shape.momentum else ["dw_end", "da_open", "de_open"]
        given = dict(zip(names, by_layer([x.contiguous() for x in ends[2:]], shape.depth), strict=True))

        def room(name: str, x: Any) -> Any:
            """For a gradient; those of parameters get one per row."""
            if x is None or isinstance(x, tuple):
                return x and tuple(room(name, part) for part in x)
            if name in _PER_TOKEN:
                return shape.per_token(x)
            if name in _WRITTEN:
                return torch.empty_like(x)
            if name == "w0" and shape.plan["fresh"] is None:
                return None
            rows = (len(dy),) if name in _PER_ROW else ()
            return x.new_zeros(*rows, *x.shape)

        gradients = {name: room(name, x) for name, x in named.items()}
        found = {f"d{name}": x for name, x in gradients.items()}
        arguments = shape.arguments(**named, **kept, dy=dy.contiguous(), **given, **found)
        kernel = compiled("chunk", dy.dtype, rounded=shape.rounded)
        run_in_threads(kernel, arguments, dy.shape[0] * dy.shape[2], backward=True)
        flat = []
        for name, value in gradients.items():
            parts = value if isinstance(value, tuple) else (value,)
            flat += [x.sum(0) if x is not None and name in _PER_ROW else x for x in parts]
        return None, None, *flat
