"""The paper, one token at a time: slow and obvious, the oracle that every other form must equal.

    S_t = eta_t S_{t-1} - theta_t grad l(M_{t'}; x_t)          (eq. 14; t' is the start of t's chunk)
    M_t = (1 - alpha_t) M_{t-1} + S_t                          (eq. 13)
    y_t = M_t(q_t)                                             (eq. 15)

The gradient is autograd's. With chunk_size = 1 this is the plain online recurrence. Letters: `titans.memory.arguments`.

The guard scales what the open chunk has added so far, and what older momentum adds, so W_t is kept as three parts (per
memory layer): `base`, what decay has left of the chunk's start, `drifted`, what old momentum has moved it by, and
`added`, the chunk's own contribution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory.arguments import Call, memory_operation
from titans.memory.gates import MOMENTUM_SHARE
from titans.memory.networks import Surprise
from titans.memory.state import MemoryState


def _reference_titans(call: Call) -> tuple[Tensor, MemoryState]:
    """The memory by its definition, row by row and token by token. Arguments: see `titans.memory.arguments`."""
    rows = [_run_row(call, b) for b in range(call.q.shape[0])]
    if not rows:
        return call.q, call.state
    outputs = torch.stack([y for y, _ in rows])
    merged = iter(zip(*(state.tensors().values() for _, state in rows), strict=True))
    return outputs, call.state.map(lambda _: torch.cat(next(merged)))


reference_titans = memory_operation(_reference_titans)


class _Chunk:
    """The open chunk of one row: where it began, what it has added, and the tokens so far."""

    def __init__(self, weights: list[Tensor], momentum: list[Tensor], pending: Tensor) -> None:
        self.start = weights  # M_{t'}, one [H, d_in, d_out] per layer
        self.start_momentum = momentum
        self.base = list(weights)
        self.drifted = [torch.zeros_like(w) for w in momentum]
        self.base_momentum = list(momentum)
        self.added = [torch.zeros_like(w) for w in weights]
        self.added_momentum = [torch.zeros_like(w) for w in weights]
        self.pending = pending  # [H, L]
        self.pending_now = pending
        self.divisor = weights[0].new_ones(len(weights[0]), 1, 1)  # n
        self.momentum_divisor = torch.ones_like(self.divisor)  # m
        self.inputs: list[list[Tensor]] = []
        self.errors: list[list[Tensor]] = []
        self.misses: list[Tensor] = []
        self.gates: list[tuple[Tensor, ...]] = []
        # How much of each token's gradient is in `added` and in `added_momentum`, [H, tokens, 1 or d_in] per layer.
        self.writes = [w.new_zeros(len(w), 0, 1) for w in weights]
        self.pushes = [w.new_zeros(len(w), 0, 1) for w in weights]
        # Product of eta so far [H, 1, 1]; how much of the first momentum is in the weights [H, 1, 1 or d_in].
        self.survival = [w.new_ones(len(w), 1, 1) for w in weights]
        self.carried = [w.new_zeros(len(w), 1, 1) for w in weights]
        self.kept = [w.new_ones(len(w), 1, 1) for w in weights]  # products of 1 - alpha so far [H, 1 or d_in, 1]


def _run_row(call: Call, b: int) -> tuple[Tensor, MemoryState]:
    network, norm = call.network, call.norm
    state = call.state.select(call.state.position.new_tensor([b]))
    chunk_size = state.chunk_size
    position = int(state.position)
    chunk = _reopen(call, state, position % chunk_size)
    outputs = []
    for t in range(call.q.shape[1]):
        if call.mask is not None and not call.mask[b, t]:
            outputs.append(torch.zeros_like(call.q[b, t]))
            continue
        if call.reset is not None and call.reset[b, t]:
            position = 0
            momentum = [torch.zeros_like(w) for w in call.weights[: len(state.momentum)]]
            chunk = _Chunk(list(call.weights), momentum, torch.zeros_like(state.pending[0]))
        k, v, q = (x[b, t].unsqueeze(1) for x in (call.k, call.v, call.q))  # [H, 1, d]
        gates = tuple(x[b, t] for x in (call.gates.g, call.gates.theta, call.gates.log_eta) if x is not None)
        gradients = _gradients(call, chunk.start, k, v)
        surprise = network.surprise(k[None], v[None], _batched(chunk.start), norm)
        _record(chunk, surprise, gates)
        _advance(call, chunk, gates, gradients)
        now = [base - added / chunk.divisor for base, added in zip(chunk.base, chunk.added, strict=True)]
        for layer, drifted in enumerate(chunk.drifted):
            now[layer] = now[layer] + drifted / chunk.momentum_divisor
        outputs.append(network(q[None], _batched(now), norm)[0, :, 0])
        position += 1
        if position % chunk_size == 0:
            momentum = [
                base / chunk.momentum_divisor - added / chunk.divisor
                for base, added in zip(chunk.base_momentum, chunk.added_momentum, strict=False)
            ]
            chunk = _Chunk(now, momentum, chunk.pending_now)
    return (torch.stack(outputs) if outputs else call.q[b]), _as_state(state, chunk, position)


def _gradients(call: Call, weights: list[Tensor], k: Tensor, v: Tensor) -> list[Tensor]:
    """grad of 1/2 ||M_W(k) - v||^2 with respect to every layer of W, by autograd (eq. 12)."""
    with torch.enable_grad():
        # views, as keys and values may come from the same weights too, as MAC's do: those are no part of the surprise
        leaves = [w.view_as(w) if w.requires_grad else w.detach().requires_grad_() for w in weights]
        prediction = call.network(k[None], _batched(leaves), call.norm)[0]
        loss = 0.5 * (prediction - v).square().sum()
        return list(torch.autograd.grad(loss, leaves, create_graph=torch.is_grad_enabled()))


def _advance(call: Call, chunk: _Chunk, gates: tuple[Tensor, ...], gradients: list[Tensor]) -> None:
    """Eq. 13 and 14 for one token, on both parts of W and S."""
    g, theta, *rest = gates
    for layer, gradient in enumerate(gradients):
        keep = _forget(call, g, layer).exp()  # 1 - alpha: [H, 1, 1] or [H, d_in, 1]
        step = _pick(theta, layer)  # [H, 1, 1]
        surprise = step * gradient
        if rest:
            eta = _pick(rest[0], layer).exp()
            chunk.base_momentum[layer] = eta * chunk.base_momentum[layer]
            chunk.added_momentum[layer] = eta * chunk.added_momentum[layer] + surprise
            chunk.pushes[layer] = torch.cat([eta * chunk.pushes[layer], step], 1)
            chunk.survival[layer] = eta * chunk.survival[layer]
            chunk.carried[layer] = keep.transpose(-1, -2) * chunk.carried[layer] + chunk.survival[layer]
            chunk.drifted[layer] = keep * chunk.drifted[layer] + chunk.base_momentum[layer]
            surprise, push = chunk.added_momentum[layer], chunk.pushes[layer]
        else:
            push = F.pad(step, (0, 0, chunk.writes[layer].shape[1], 0))
        chunk.base[layer] = keep * chunk.base[layer]
        chunk.added[layer] = keep * chunk.added[layer] + surprise
        chunk.kept[layer] = keep * chunk.kept[layer]
        decayed = keep.transpose(-1, -2) * chunk.writes[layer]
        chunk.writes[layer] = F.pad(decayed, (0, 0, 0, 1)) + push
    if call.guard_limit is not None:
        _guard(call, chunk, tuple(rest), call.guard_limit)


@torch.no_grad()
def _guard(call: Call, chunk: _Chunk, log_eta: tuple[Tensor, ...], limit: float) -> None:
    """n_t, m_t and what is pending, by the formulas of `divisors`, for the chunk's tokens so far."""
    stacked = Surprise(
        tuple(torch.cat([token[layer] for token in chunk.inputs], -2) for layer in range(call.network.depth)),
        tuple(torch.cat([token[layer] for token in chunk.errors], -2) for layer in range(call.network.depth)),
        torch.cat(chunk.misses, -1),
    )
    bounds = call.network.tangent_bounds(stacked)
    kept = torch.stack([kept.amin((-2, -1)) for kept in chunk.kept]).amin(0)  # [H]
    room = limit * (1 + kept) / 2
    reach = torch.zeros_like(bounds[0][0, :, :, 0])  # [H, tokens so far]
    planned, entries = torch.zeros_like(kept), []
    for layer, bound in enumerate(bounds):
        ahead = torch.zeros_like(kept)
        if log_eta:
            eta = _pick(log_eta[0], layer).exp()[:, 0, 0]  # [H], this token's
            ahead = eta / (1 - eta).clamp_min(torch.finfo(eta.dtype).eps)
            survival, carried = chunk.survival[layer][:, 0, 0], chunk.carried[layer].amax((-2, -1))
            planned = planned + (carried + ahead * survival) * chunk.pending[:, layer]
        for j in range(bound.shape[-1]):
            strain = chunk.writes[layer][:, j].amax(-1)  # [H]
            if log_eta:
                strain = strain + ahead * chunk.pushes[layer][:, j, 0]
            reach = reach + strain[:, None] * bound[0, :, :, j]
    n, m = (reach.amax(-1) / room).clamp_min(1), (planned / (room * MOMENTUM_SHARE)).clamp_min(1)
    chunk.divisor, chunk.momentum_divisor = n[:, None, None], m[:, None, None]
    if log_eta:
        for layer, bound in enumerate(bounds):
            own = (bound[0] @ chunk.pushes[layer]).amax((-2, -1)) / n
            entries.append(chunk.survival[layer][:, 0, 0] * chunk.pending[:, layer] / m + own)
        chunk.pending_now = torch.stack(entries, -1)


def _record(chunk: _Chunk, surprise: Surprise, gates: tuple[Tensor, ...]) -> None:
    chunk.inputs.append(list(surprise.inputs))
    chunk.errors.append(list(surprise.errors))
    chunk.misses.append(surprise.miss)
    chunk.gates.append(gates)


def _pick(gate: Tensor, layer: int) -> Tensor:
    """[H, 1 or L] -> [H, 1, 1] for one layer."""
    return gate[:, min(layer, gate.shape[1] - 1)][:, None, None]


def _forget(call: Call, g: Tensor, layer: int) -> Tensor:
    widths = [d_in for d_in, _ in call.network.layer_dims]
    if g.shape[1] in (1, len(widths)):
        return _pick(g, layer)
    return g.split(widths, 1)[layer].unsqueeze(-1)


def _batched(weights: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(w.unsqueeze(0) for w in weights)


def _reopen(call: Call, state: MemoryState, fill: int) -> _Chunk:
    """Replays the open chunk of a state, whose gradients are known as factors."""
    chunk = _Chunk([w[0] for w in state.weights], [s[0] for s in state.momentum], state.pending[0])
    for i in range(fill):
        inputs = tuple(x[:, :, i : i + 1] for x in state.inputs)
        errors = tuple(x[:, :, i : i + 1] for x in state.errors)
        gates = tuple(x[0, :, i] for x in state.gates)
        _record(chunk, Surprise(inputs, errors, state.miss[:, :, i : i + 1]), gates)
        gradients = [(a.transpose(-1, -2) @ e)[0] for a, e in zip(inputs, errors, strict=True)]
        _advance(call, chunk, gates, gradients)
    return chunk


def _as_state(old: MemoryState, chunk: _Chunk, position: int) -> MemoryState:
    empty = old.chunk_size - len(chunk.misses)

    def fill(tokens: list[Tensor], like: Tensor) -> Tensor:
        """Tokens [1, H, 1, ·] and then zeros, [1, H, C, ·]."""
        blank = like.new_zeros(1, like.shape[1], empty, *like.shape[3:])
        return torch.cat([*tokens, blank], 2)

    def layered(history: list[list[Tensor]], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(fill([token[layer] for token in history], like) for layer, like in enumerate(old))

    gates = [[gate[None, :, None] for gate in token] for token in chunk.gates]
    return old.replace(
        position=old.position.new_tensor([position]),
        weights=_batched(chunk.start),
        momentum=_batched(chunk.start_momentum),
        pending=chunk.pending.unsqueeze(0),
        inputs=layered(chunk.inputs, old.inputs),
        errors=layered(chunk.errors, old.errors),
        miss=fill(chunk.misses, old.miss),
        gates=layered(gates, old.gates),
    )
