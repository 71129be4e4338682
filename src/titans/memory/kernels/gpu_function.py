"""The Triton kernels as one function of autograd (gpu.py). Importing this imports triton.

Letters: B rows, R rounds, H heads, d head dimension, h hidden width, C chunk length, L memory layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from titans.memory.gates import MOMENTUM_SHARE
from titans.memory.kernels.first_order import first_order
from titans.memory.kernels.gpu_tuning import TUNED, deep_backward, deep_forward, linear_backward, linear_forward
from titans.memory.networks import by_layer

_SINGLE = ("q", "k", "v", "kept", "carried", "write", "push", "survival", "gamma", "beta")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the kernels must know besides the tensors that have gradients."""

    rows: int
    rounds: int
    heads: int
    head_dim: int
    hidden: int
    chunk: int
    depth: int
    momentum: bool
    activation: str
    limit: float
    """of the guard; 0 for none"""
    precision: str
    """`P` of the kernels"""
    strain: Tensor
    drift: Tensor | None
    pending: Tensor
    """[B, H, L]"""
    miss: Tensor
    """of the chunk that was open before [B, H, C]"""
    full: Tensor
    """[R, B] uint8, as the next"""
    fresh: Tensor | None
    filled_before: Tensor | None
    """slots that earlier calls filled, by round [R, B] int32"""
    filled_after: Tensor | None
    """slots of the chunk that stays open [B] int32; None if all are full"""

    def name(self, tensors: Sequence[Tensor | None]) -> dict[str, Any]:
        """The arguments that have gradients by name; tuples of one per memory layer."""
        layered = ["w_fresh", "w", "s", "x_before", "e_before"]
        if not self.momentum:
            layered.remove("s")
        groups = by_layer(tensors[len(_SINGLE) :], self.depth)
        return {**dict(zip(_SINGLE, tensors, strict=False)), **dict(zip(layered, groups, strict=True))}

    def groups(self, differentiable: bool) -> list[tuple[int, int]]:
        """First round of each group and the one after its last."""
        size = max(1, math.isqrt(self.rounds)) if differentiable else self.rounds
        return [(begin, min(begin + size, self.rounds)) for begin in range(0, self.rounds, size)]

    def launch(self, forward: bool, begin: int, end: int, stride: int, **tensors: Any) -> None:
        """Runs some rounds. tensors: the kernel's by name, tuples of one per memory layer; None for an unused one."""
        deep = self.depth == 2
        arguments: dict[str, Any] = {}
        for name, value in tensors.items():
            if isinstance(value, tuple):
                letter, _, rest = name.partition("_")
                names = [f"{letter}{layer + 1}" if deep else letter for layer in range(self.depth)]
                arguments |= {f"{first}_{rest}" if rest else first: x for first, x in zip(names, value, strict=True)}
            else:
                arguments[name] = value
        arguments |= {
            "full": self.full,
            "fresh": self.fresh,
            "filled_before": self.filled_before,
            "filled_after": self.filled_after,
            "stride": stride * self.rows * self.heads,
            "begin": begin,
            "end": end,
            "B": self.rows,
            "R": self.rounds,
            "H": self.heads,
            "D": self.head_dim,
            "C": self.chunk,
            "BD": padded(self.head_dim),
            "BC": padded(self.chunk),
            "P": self.precision,
            "MOMENTUM": self.momentum,
            "FRESH": self.fresh is not None,
            "BEFORE": self.filled_before is not None,
            "AFTER": self.filled_after is not None,
        }
        if forward:
            arguments |= {"strain": self.strain, "drift": self.drift, "LIMIT": self.limit, "SHARE": MOMENTUM_SHARE}
        if deep:
            arguments |= {"HIDDEN": self.hidden, "ACT": self.activation, "NORM": tensors["gamma"] is not None}
        if deep and forward:
            arguments["miss_before"] = self.miss
        kernel = (deep_forward if deep else linear_forward) if forward else (deep_backward if deep else linear_backward)
        names = [name for name in kernel.arg_names if name not in TUNED]  # their order is part of what is tuned for
        unused = self.full  # any pointer
        given = {name: unused if (x := arguments.get(name)) is None else x for name in names}
        kernel[(self.rows * self.heads,)](**given)


def padded(size: int) -> int:
    """To what a matrix product takes."""
    return max(16, 1 << (size - 1).bit_length())


class ChunkLoop(torch.autograd.Function):
    """All rounds of all rows and heads."""

    @staticmethod
    def forward(ctx: Any, job: Job, differentiable: bool, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        named = job.name(tensors)
        q: Tensor = named["q"]
        y, pending, miss = torch.empty_like(q), job.pending.clone(), torch.zeros_like(job.miss)
        state = {"w": _clones(named["w"])}
        if job.momentum:
            state["s"] = _clones(named["s"])
        opened = {f"{name}_after": tuple(map(torch.zeros_like, named[f"{name}_before"])) for name in ("x", "e")}
        divisors = miss.new_empty(job.rounds, job.rows, job.heads, 2, job.chunk)
        starts = []
        for begin, end in job.groups(differentiable):
            if differentiable:
                starts.append({name: _clones(x) for name, x in state.items()})
            job.launch(
                True,
                begin,
                end,
                0,
                **(named | state | opened),
                y=y,
                pending=pending,
                divisors=divisors,
                miss_after=miss,
                REPLAY=False,
            )
        ctx.job, ctx.groups, ctx.carried = job, len(starts), tuple(state)
        ctx.save_for_backward(*tensors, divisors, *(x for start in starts for group in start.values() for x in group))
        ctx.mark_non_differentiable(pending, miss)
        return y, pending, miss, *(x for group in (*state.values(), *opened.values()) for x in group)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor, *ends: Tensor) -> tuple[Tensor | None, ...]:
        job: Job = ctx.job
        count = len(ctx.saved_tensors) - 1 - ctx.groups * len(ctx.carried) * job.depth
        named, divisors = job.name(ctx.saved_tensors[:count]), ctx.saved_tensors[count]
        parts = iter(by_layer(ctx.saved_tensors[count + 1 :], job.depth))
        starts = [{name: next(parts) for name in ctx.carried} for _ in range(ctx.groups)]
        groups = job.groups(True)
        most = groups[0][1]
        weights, *momentum, dx_after, de_after = by_layer([x.contiguous() for x in ends[2:]], job.depth)

        def per_round(x: Tensor) -> Tensor:
            return x.new_empty(most + 1, *x.shape)

        def per_row(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.new_zeros(job.rows, *x.shape)

        states = {name: tuple(map(per_round, x)) for name, x in starts[0].items()}
        room = {
            "record": divisors.new_empty(most, job.rows, job.heads, 4, job.chunk, job.head_dim),
            "scores": divisors.new_empty(most, job.rows, job.heads, job.chunk, job.chunk),
            "left": divisors.new_empty(job.rows, job.heads, 3, job.chunk, job.hidden),
        }
        updated: dict[str, Any] = {"dw": _clones(weights), "dgamma": per_row(named["gamma"])}
        updated |= {"dbeta": per_row(named["beta"])}
        if momentum:
            updated["ds"] = _clones(momentum[0])
        if job.fresh is not None:
            updated["dw_fresh"] = tuple(map(per_row, named["w_fresh"]))
        found = {f"d{name}": None if (x := named[name]) is None else torch.empty_like(x) for name in _SINGLE[:-2]}
        found |= {f"d{name}": tuple(map(torch.zeros_like, named[name])) for name in ("x_before", "e_before")}
        given = {"dy": dy.contiguous(), "dx_after": dx_after, "de_after": de_after}
        for (begin, end), start in zip(reversed(groups), reversed(starts), strict=True):
            for name, tensors in start.items():
                for slots, x in zip(states[name], tensors, strict=True):
                    slots[0].copy_(x)
            shared = named | states | room | {"divisors": divisors}
            job.launch(True, begin, end, 1, **shared, REPLAY=True)
            job.launch(False, begin, end, 1, **shared, **given, **found, **updated)
        gradients: dict[str, Any] = found | updated
        gradients["dgamma"], gradients["dbeta"] = (_of_rows(gradients[name]) for name in ("dgamma", "dbeta"))
        if job.fresh is not None:
            gradients["dw_fresh"] = tuple(map(_of_rows, gradients["dw_fresh"]))
        flat = []
        for name, x in named.items():
            gradient = gradients.get(f"d{name}")
            flat += gradient or [None] * job.depth if isinstance(x, tuple) else [gradient]
        return None, None, *flat


def _clones(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone() for x in tensors)


def _of_rows(x: Tensor | None) -> Tensor | None:
    """A parameter's gradient from those of the rows."""
    return None if x is None else x.sum(0)
