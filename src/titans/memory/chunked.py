"""The dual form: exact per-token weights without ever building them (eq. 16-18 for any depth).

A chunk's gradients are all taken at the weights it begins with, and each is an outer product, so reading with the
weights of token t is a masked linear attention over the chunk:

    x_t W_t = kept_t (x_t W) + carried_t (x_t S) / m_t - sum_{i<=t} write[t, i] (x_t . a_i) delta_i / n_t

with a_i the input and delta_i the error of that layer at token i (networks.py), the sums from gates.py. Every layer of
the memory network is read so, the next layer's input being the activation of the last. Equals `reference_titans`.

Letters: R chunks, B rows, H heads, C tokens of a chunk, K 1 or d_in.
"""

from operator import itemgetter

import torch
from torch import Tensor

from titans.memory.arguments import Call, memory_operation
from titans.memory.gates import Decay, Divisors, Gates, decays, divisors, next_pending
from titans.memory.layout import Layout, layout
from titans.memory.networks import MemoryNetwork, Norm, Surprise
from titans.memory.state import MemoryState

Tensors = tuple[Tensor, ...]


def _chunk_titans(call: Call) -> tuple[Tensor, MemoryState]:
    """The memory over whole sequences, chunk by chunk: the form to train with. See `titans.memory.arguments`."""
    network, state = call.network, call.state
    length = call.q.shape[1]
    if length == 0:
        return call.q, state
    plan = layout(state.position, length, state.chunk_size, call.mask, call.reset, state.known_position)
    q, k, v = (plan.arrange(x).transpose(2, 3).unbind() for x in (call.q, call.k, call.v))  # R of [B, H, C, d]
    gates = chunk_gates(call, plan)
    widths = [d_in for d_in, _ in network.layer_dims]
    channel_wise = gates.g.shape[-1] not in (1, network.depth)
    all_decays = None if channel_wise else list(zip(*(x.unbind() for x in decays(gates, widths)), strict=True))

    weights, momentum, pending = state.weights, state.momentum, state.pending
    outputs = []
    for r in range(plan.num_rounds):
        if plan.fresh is not None and plan.any_fresh[r]:
            begins = plan.fresh[r][:, None, None, None]
            weights = tuple(torch.where(begins, w0, w) for w0, w in zip(call.weights, weights, strict=True))
            momentum = tuple(torch.where(begins, 0, s) for s in momentum)
            pending = torch.where(begins[..., 0], 0, pending)
        surprise = network.surprise(k[r], v[r], weights, call.norm)
        if plan.old is not None and plan.any_old[r]:
            surprise = merge_surprise(plan.old[r], state, surprise)
        chunk = decays(gates.map(itemgetter(r)), widths) if all_decays is None else list(all_decays[r])
        guard, new_pending = shrink(network, surprise, chunk, pending, call.guard_limit)
        outputs.append(read(network, q[r], weights, momentum, surprise, chunk, guard, call.norm))
        if plan.any_full[r]:
            new_weights, new_momentum = close(weights, momentum, surprise, chunk, guard)
            if not plan.all_full[r]:
                closes = plan.full[r][:, None, None, None]
                new_weights = _choose(closes, new_weights, weights)
                new_momentum = _choose(closes, new_momentum, momentum)
                new_pending = torch.where(closes[..., 0], new_pending, pending)
            weights, momentum, pending = new_weights, new_momentum, new_pending

    y = plan.restore(torch.stack(outputs).transpose(2, 3))
    filled = torch.arange(state.chunk_size, device=plan.end.device) < (plan.end % state.chunk_size).unsqueeze(1)
    empty = ~filled[:, None, :, None]  # everything where the last chunk is full
    return y, state.replace(
        position=plan.end,
        known_position=plan.known_end,
        weights=weights,
        momentum=momentum,
        pending=pending,
        inputs=tuple(x.masked_fill(empty, 0) for x in surprise.inputs),
        errors=tuple(x.masked_fill(empty, 0) for x in surprise.errors),
        miss=surprise.miss.masked_fill(empty[..., 0], 0),
        gates=tuple(x[-1].masked_fill(empty, 0) for x in gates.as_state()),
    )


chunk_titans = memory_operation(_chunk_titans)


def chunk_gates(call: Call, plan: Layout) -> Gates:
    """The gates of every chunk [R, B, H, C, ·], those that the open chunk kept among them."""
    gates = call.gates.map(lambda x: plan.arrange(x).transpose(2, 3))
    if plan.old is None:
        return gates
    slots = plan.old[:, :, None, :, None]  # [R, B, 1, C, 1]
    return open_gates(call.state).merge(gates, lambda old, new: torch.where(slots, old, new))


def open_gates(state: MemoryState) -> Gates:
    """The gates of the open chunk [B, H, C, ·]."""
    g, theta, *rest = state.gates
    return Gates(g, rest[0] if rest else None, theta)


def shrink(
    network: MemoryNetwork,
    surprise: Surprise,
    chunk: list[Decay],
    pending: Tensor,
    limit: float | None,
) -> tuple[Divisors | None, Tensor]:
    """The guard's divisors at each token, or None without a guard, and what is pending at its end."""
    if limit is None:
        return None, pending
    bounds = network.tangent_bounds(surprise)
    guard = divisors(bounds, chunk, pending, limit)
    return guard, next_pending(bounds, chunk, pending, guard)


def read(
    network: MemoryNetwork,
    q: Tensor,
    weights: Tensors,
    momentum: Tensors,
    surprise: Surprise,
    chunk: list[Decay],
    guard: Divisors | None,
    norm: Norm | None,
) -> Tensor:
    """M_{W_t}(q_t) for queries [B, H, N, d] whose rows of the decays are given -> [B, H, N, d] (eq. 15)."""
    x = q
    z = q
    for layer, decay in enumerate(chunk):
        if layer > 0:
            x = network.act(z)
        write = decay.write
        if guard is not None:
            write = write / guard.step[(..., None) + (None,) * (write.dim() - x.dim())]
        inputs = surprise.inputs[layer]
        if write.dim() == x.dim():
            scores = (x @ inputs.transpose(-1, -2)) * write  # [B, H, N, C]
        else:
            scores = torch.einsum("bhtc,bhic,bhtic->bhti", x, inputs, write)
        z = (x * decay.kept) @ weights[layer] - scores @ surprise.errors[layer]
        if decay.carried is not None:
            carried = decay.carried
            if guard is not None and guard.momentum is not None:
                carried = carried / guard.momentum.unsqueeze(-1)
            z = z + (x * carried) @ momentum[layer]
    return network.finish(q, z, norm)


def close(
    weights: Tensors, momentum: Tensors, surprise: Surprise, chunk: list[Decay], guard: Divisors | None
) -> tuple[Tensors, Tensors]:
    """Weights and momentum at the end of a full chunk."""
    new_weights, new_momentum = [], []
    for layer, decay in enumerate(chunk):
        inputs, errors = surprise.inputs[layer], surprise.errors[layer]
        if guard is not None:
            errors = errors / guard.step[..., -1:, None]
        by_channel = decay.write.dim() > decay.kept.dim()
        write = decay.write[..., -1, :, :] if by_channel else decay.write[..., -1, :].unsqueeze(-1)
        weight = decay.kept[..., -1, :].unsqueeze(-1) * weights[layer] - (inputs * write).transpose(-1, -2) @ errors
        if decay.carried is not None and decay.push is not None and decay.survival is not None:
            old = momentum[layer]
            if guard is not None and guard.momentum is not None:
                old = old / guard.momentum[..., -1:, None]
            weight = weight + decay.carried[..., -1, :].unsqueeze(-1) * old
            new_momentum.append(decay.survival * old - (inputs * decay.push).transpose(-1, -2) @ errors)
        new_weights.append(weight)
    return tuple(new_weights), tuple(new_momentum)


def merge_surprise(old: Tensor, state: MemoryState, new: Surprise) -> Surprise:
    """`new`, but in the slots `old` [B, C] what the open chunk of `state` holds."""
    slots = old[:, None, :, None]
    return Surprise(
        _choose(slots, state.inputs, new.inputs),
        _choose(slots, state.errors, new.errors),
        torch.where(slots[..., 0], state.miss, new.miss),
    )


def _choose(where: Tensor, yes: Tensors, no: Tensors) -> Tensors:
    return tuple(torch.where(where, a, b) for a, b in zip(yes, no, strict=True))
