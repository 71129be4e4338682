"""The memory one token at a time, in torch operations: for accelerators, torch.compile and gradients.

The open chunk is kept as the factors of its gradients, so a token costs one pass through the memory network and a short
attention over the chunk; weights change only when the chunk closes. Shapes never depend on values, and nothing waits
for an accelerator. Equals `chunk_titans` and `reference_titans`; kernels/step.c is the same in C, for processors.
"""

import torch
from torch import Tensor

from titans.memory.arguments import Call, memory_operation
from titans.memory.chunked import close, open_gates, read, shrink
from titans.memory.gates import Decay, Divisors, decays
from titans.memory.layout import perhaps_any
from titans.memory.networks import Surprise
from titans.memory.state import MemoryState


def _recurrent_titans(call: Call) -> tuple[Tensor, MemoryState]:
    """The memory token by token, without building anything per sequence. Arguments: see `titans.memory.arguments`."""
    state = call.state
    outputs = []
    for t in range(call.q.shape[1]):
        y, stepped = _step(call, state, t)
        if call.mask is not None:
            present = call.mask[:, t]
            y = y * present[:, None, None]
            state = _where_state(present, stepped, state)
        else:
            state = stepped
        outputs.append(y)
    return (torch.stack(outputs, 1) if outputs else call.q), state


recurrent_titans = memory_operation(_recurrent_titans)


def _step(call: Call, state: MemoryState, t: int) -> tuple[Tensor, MemoryState]:
    """One token for every row: output [B, H, d] and the state after it."""
    network = call.network
    if call.reset is not None:
        state = _begin_documents(call, state, call.reset[:, t])
    slot = state.position % state.chunk_size
    here = (torch.arange(state.chunk_size, device=slot.device) == slot[:, None])[:, None, :, None]  # [B, 1, C, 1]

    def put(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(here, new, old)

    # [B, H, 1, ·] for this token, put into the open chunk's slots [B, H, C, ·].
    now = network.surprise(call.k[:, t].unsqueeze(2), call.v[:, t].unsqueeze(2), state.weights, call.norm)
    surprise = Surprise(
        tuple(put(old, new) for old, new in zip(state.inputs, now.inputs, strict=True)),
        tuple(put(old, new) for old, new in zip(state.errors, now.errors, strict=True)),
        put(state.miss.unsqueeze(-1), now.miss.unsqueeze(-1)).squeeze(-1),
    )
    gates = open_gates(state).merge(call.gates, lambda old, new: put(old, new[:, t].unsqueeze(2)))

    chunk = decays(gates, [d_in for d_in, _ in network.layer_dims])
    guard, pending = shrink(network, surprise, chunk, state.pending, call.guard_limit)
    row = _Row(slot)
    y = read(
        network,
        call.q[:, t].unsqueeze(2),
        state.weights,
        state.momentum,
        surprise,
        [row.decay(decay) for decay in chunk],
        None if guard is None else row.divisors(guard),
        call.norm,
    ).squeeze(2)

    full = slot == state.chunk_size - 1
    weights, momentum = state.weights, state.momentum
    if perhaps_any(full):
        closed, closed_momentum = close(weights, momentum, surprise, chunk, guard)
        weights = tuple(_where_row(full, new, old) for new, old in zip(closed, weights, strict=True))
        momentum = tuple(_where_row(full, new, old) for new, old in zip(closed_momentum, momentum, strict=True))
    done = full[:, None, None, None]
    return y, state.replace(
        position=state.position + 1,
        weights=weights,
        momentum=momentum,
        pending=_where_row(full, pending, state.pending),
        inputs=tuple(x.masked_fill(done, 0) for x in surprise.inputs),
        errors=tuple(x.masked_fill(done, 0) for x in surprise.errors),
        miss=surprise.miss.masked_fill(done[..., 0], 0),
        gates=tuple(x.masked_fill(done, 0) for x in gates.as_state()),
    )


class _Row:
    """Picks each row's own slot from axis 2 of [B, H, C, ...], keeping the axis."""

    def __init__(self, slot: Tensor) -> None:
        self.slot = slot

    def __call__(self, x: Tensor) -> Tensor:
        index = self.slot.view(-1, *([1] * (x.dim() - 1))).expand(-1, x.shape[1], 1, *x.shape[3:])
        return x.gather(2, index)

    def decay(self, decay: Decay) -> Decay:
        carried = None if decay.carried is None else self(decay.carried)
        return Decay(self(decay.kept), carried, self(decay.write), None, None, decay.strain, decay.drift)

    def divisors(self, guard: Divisors) -> Divisors:
        return Divisors(self(guard.step), None if guard.momentum is None else self(guard.momentum))


def _begin_documents(call: Call, state: MemoryState, begins: Tensor) -> MemoryState:
    fresh = MemoryState.fresh(
        call.weights,
        len(begins),
        chunk_size=state.chunk_size,
        num_gates=state.gates[0].shape[-1],
        num_steps=state.gates[1].shape[-1],
        momentum=bool(state.momentum),
        tail=(state.tail.shape[1], state.tail.shape[2]),
    )
    return _where_state(begins, fresh, state)


def _where_row(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Per row of the batch: `yes` where rows [B] is True, else `no`."""
    return torch.where(rows.view(-1, *([1] * (yes.dim() - 1))), yes, no)


def _where_state(rows: Tensor, yes: MemoryState, no: MemoryState) -> MemoryState:
    taken = iter([_where_row(rows, a, b) for a, b in zip(yes.tensors().values(), no.tensors().values(), strict=True)])
    return no.map(lambda _: next(taken))
