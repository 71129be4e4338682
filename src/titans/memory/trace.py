"""What a memory does at each token: how surprised it is, what its gates say, and what it writes.

For token t and memory layer l, with the gradients of eq. 12 taken at the weights that t's chunk begins with:

    surprise = ||grad_l|| = |a_t| |e_t|       the gradient is an outer product of these two (`titans.memory.networks`)
    step     = theta / n_t                    n_t: what the guard divides by (`titans.memory.gates.divisors`)
    written  = step * surprise

A call is cut where chunks end, so that the state before each piece holds the weights its gradients are taken at. That
is slow beside the other forms, and for looking only. Letters: B rows, T tokens, H heads, L memory layers, C tokens of a
chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from titans.memory.chunked import merge_surprise, open_gates, shrink
from titans.memory.gates import Gates, decays
from titans.memory.layer import Backend, NeuralMemory
from titans.memory.layout import layout
from titans.memory.state import MemoryState, TensorTree


@dataclass(frozen=True)
class MemoryTrace(TensorTree):
    """What a memory did at some tokens, [B, T, H, L] each; zero where a token is absent."""

    surprise: Tensor
    """norm of the gradient"""
    alpha: Tensor
    """forget gate, 0 to 1; with a gate per channel their mean"""
    eta: Tensor
    """momentum, 0 to 1; zero without momentum"""
    theta: Tensor
    """step size, as the gate asks for it"""
    step: Tensor
    """step size after the guard, as the token is read; later tokens of its chunk may shrink it further"""
    written: Tensor
    """norm of what the token itself adds to the weights: `step` times `surprise`"""

    def by_head(self) -> "MemoryTrace":
        """[B, T, H]: norms taken over all memory layers together, gates and steps as their means."""
        return MemoryTrace(
            surprise=self.surprise.norm(dim=-1),
            alpha=self.alpha.mean(-1),
            eta=self.eta.mean(-1),
            theta=self.theta.mean(-1),
            step=self.step.mean(-1),
            written=self.written.norm(dim=-1),
        )


@torch.no_grad()
def trace(
    memory: NeuralMemory,
    x: Tensor,
    state: MemoryState | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[MemoryTrace, MemoryState]:
    """What `memory(x, state, mask, reset)` does at each token, and the state after the last. Any split is one call.

    Args:
        x: [B, T, dim].
        state: what an earlier call returned; None begins a document in every row.
        mask: [B, T], 0 where a token is absent.
        reset: [B, T], 1 where a new document begins (ignored where the token is absent).
    """
    length = x.shape[1]
    state = memory.begin(x) if state is None else state
    mask = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    reset = torch.zeros_like(mask) if reset is None else reset.bool()
    plan = layout(state.position, length, state.chunk_size, mask, reset)
    pieces, present, begins = map(plan.arrange, (x, mask, reset))  # [R, B, C, ...]
    before = []
    for r, piece in enumerate(pieces):
        before.append(state)
        whole = plan.all_full[r] and not plan.any_old[r] and not plan.any_fresh[r]
        flags = (None, None) if whole else (present[r], begins[r])
        _, state = NeuralMemory.absorb(memory, piece, state, *flags)
    states = before[0].map(_joined(before))
    found = _trace_chunk(memory, pieces.flatten(0, 1), states, present.flatten(0, 1), begins.flatten(0, 1))
    return found.map(lambda x: plan.restore(x.unflatten(0, present.shape[:2]))), state


def _trace_chunk(memory: NeuralMemory, x: Tensor, state: MemoryState, present: Tensor, reset: Tensor) -> MemoryTrace:
    """The trace [B, C, H, L] of tokens x [B, C, dim] of one chunk, each in its slot, on top of what `state` holds."""
    network, config = memory.network, memory.config
    begins = reset.any(1)
    fresh = begins[:, None, None, None]
    weights = tuple(torch.where(fresh, w0, w) for w0, w in zip(memory.initial_weights, state.weights, strict=True))
    fill = torch.where(begins, 0, state.position % config.chunk_size)
    old = torch.arange(config.chunk_size, device=x.device) < fill.unsqueeze(1)  # slots that earlier calls filled

    (_, k, v), _ = memory.heads(memory.project_qkv(x), state, present, reset)
    k, v = (part.to(weights[0].dtype).transpose(1, 2) for part in (k, v))  # [B, H, C, d]
    gates = Gates(*memory.gates(x)).map(lambda gate: gate.transpose(1, 2))  # [B, H, C, ·]
    slots = old[:, None, :, None]
    chunk_gates = open_gates(state).merge(gates, lambda kept, new: torch.where(slots, kept, new))
    chunk = decays(chunk_gates, [d_in for d_in, _ in network.layer_dims])
    limit = config.guard_limit if config.guard else None
    with torch.autocast(device_type=x.device.type, enabled=False):
        now = network.surprise(k, v, weights, memory.norm)
        guard, _ = shrink(network, merge_surprise(old, state, now), chunk, state.pending, limit)
    step = gates.theta if guard is None else gates.theta / guard.step.unsqueeze(-1)

    norms = [a.norm(dim=-1) * e.norm(dim=-1) for a, e in zip(now.inputs, now.errors, strict=True)]
    surprise = torch.stack(norms, -1)  # [B, H, C, L]
    found = MemoryTrace(
        surprise=surprise,
        alpha=_forgetting(memory, gates.g),
        eta=torch.zeros_like(step) if gates.log_eta is None else gates.log_eta.exp(),
        theta=gates.theta,
        step=step,
        written=step * surprise,
    )
    return found.map(lambda x: x.transpose(1, 2))


def _forgetting(memory: NeuralMemory, g: Tensor) -> Tensor:
    """alpha of each memory layer [..., L], of log(1 - alpha) [..., L] or of every channel [..., sum of all d_in]."""
    alpha = -torch.expm1(g)
    widths = [d_in for d_in, _ in memory.network.layer_dims]
    if alpha.shape[-1] == len(widths):
        return alpha
    return torch.stack([part.mean(-1) for part in alpha.split(widths, -1)], -1)


def _joined(trees: Sequence[TensorTree]) -> Callable[[Tensor], Tensor]:
    """For `map` of the first of some trees: puts theirs behind each of its tensors."""
    fields = zip(*(tree.tensors().values() for tree in trees), strict=True)
    return lambda _: torch.cat(next(fields))


@dataclass(frozen=True)
class Watched:
    """What a memory was seen to do, call by call: each call's trace and its present tokens [B, T]."""

    calls: list[tuple[MemoryTrace, Tensor]] = field(default_factory=list)

    def row(self, b: int) -> MemoryTrace:
        """Everything one row of the batch has written, in order [T, H, L]; tokens that were absent are left out."""
        seen = [found.map(lambda x, here=present[b]: x[b][here]) for found, present in self.calls]
        return seen[0].map(_joined(seen))


@contextmanager
def watch(memory: NeuralMemory) -> Iterator[Watched]:
    """While this lasts, every call of the memory is traced, whatever the model around it lets it read.

    The memory computes what it always does; outside it nothing is different. `step_`, which generates, is not seen.

    Example:
        >>> with watch(model.blocks[0].mixer.memory) as watched:
        ...     logits, state = model(tokens)
        >>> watched.row(0).surprise             # [T, H, L]
    """
    watched = Watched()

    def absorb(
        x: Tensor,
        state: MemoryState,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        backend: Backend = "auto",
    ) -> tuple[Tensor, MemoryState]:
        found, _ = trace(memory, x, state, mask, reset)
        present = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        watched.calls.append((found, present))
        return NeuralMemory.absorb(memory, x, state, mask, reset, backend)

    memory.absorb = absorb
    try:
        yield watched
    finally:
        del memory.absorb
