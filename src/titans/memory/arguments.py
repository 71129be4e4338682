"""What all forms of the memory operation (reference, chunked, native, triton, recurrent) have in common: arguments.

Shapes, for B rows, T tokens, H heads, head dimension d, L memory layers:

    q, k, v         [B, T, H, d]; k and q are expected to be L2-normalised
    g               log(1 - alpha), at most 0: [B, T, H], [B, T, H, L], or channel-wise [B, T, H, sum of all d_in]
    log_eta         log of the momentum eta, at most 0: [B, T, H] or [B, T, H, L]; None for no momentum
    theta           step size: [B, T, H] or [B, T, H, L]
    weights         memory weights a document begins with, one [H, d_in, d_out] per layer; None: those of
                    `initial_state`, or without one a linear memory of zeros
    norm            weight and bias [H, d] of the memory network's layer norm; None: 1 and 0
    activation      gelu, silu or relu
    chunk_size      tokens whose gradients are taken at the same weights; semantic, not a speed setting
    guard_limit     largest summed step of a chunk; None switches the guard off
    initial_state   a MemoryState; None: a fresh one
    output_final_state   return the state after the last token (else None)
    mask            [B, T], 0 where a token is absent: it neither writes, decays nor counts
    reset           [B, T], 1 where a new document begins; ignored where the token is absent
    cu_seqlens      [N + 1] boundaries of N documents packed into one row (B = 1); the initial and final states
                    then have N rows. Each document equals a call of its own.

They return outputs [B, T, H, d] and the final state. Shapes are checked, values are not: NaN, g or log_eta above 0 are
the caller's business (`NeuralMemory` never makes them). State and arithmetic are float32 (float64 if q is).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from titans.memory.gates import Gates
from titans.memory.networks import MemoryNetwork, Norm
from titans.memory.state import MemoryState


@dataclass(frozen=True)
class Call:
    """Checked arguments: everything in the working dtype, gates with an explicit last axis, a state in place."""

    q: Tensor
    k: Tensor
    v: Tensor
    gates: Gates
    weights: tuple[Tensor, ...]
    norm: Norm | None
    network: MemoryNetwork
    state: MemoryState
    guard_limit: float | None
    mask: Tensor | None
    reset: Tensor | None
    given_dtype: torch.dtype
    """of q as the caller gave it: how precise a kernel's products need be"""


class MemoryOperation(Protocol):
    """Signature shared by `reference_titans`, `chunk_titans`, `recurrent_titans`, `native_titans`, `triton_titans`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        log_eta: Tensor | None,
        theta: Tensor,
        weights: Sequence[Tensor] | None = None,
        norm: Norm | None = None,
        *,
        activation: str = "gelu",
        chunk_size: int = 16,
        guard_limit: float | None = 1.0,
        initial_state: MemoryState | None = None,
        output_final_state: bool = False,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, MemoryState | None]: ...


def memory_operation(run: Callable[[Call], tuple[Tensor, MemoryState]]) -> MemoryOperation:
    """Turns a function of a checked `Call` into one with the public signature (see the top of this file)."""

    def operation(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        log_eta: Tensor | None,
        theta: Tensor,
        weights: Sequence[Tensor] | None = None,
        norm: Norm | None = None,
        *,
        activation: str = "gelu",
        chunk_size: int = 16,
        guard_limit: float | None = 1.0,
        initial_state: MemoryState | None = None,
        output_final_state: bool = False,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, MemoryState | None]:
        call = _check(
            q, k, v, Gates(g, log_eta, theta), weights, norm, activation, chunk_size, guard_limit, initial_state, mask,
            reset, cu_seqlens,
        )  # fmt: skip
        # The memory's state and sums stay in float32 (or 64) whatever the surrounding precision.
        with torch.autocast(device_type=q.device.type, enabled=False):
            if cu_seqlens is None:
                y, state = run(call)
            else:
                y, state = _run_packed(run, call, cu_seqlens)
        return y.to(q.dtype), state if output_final_state else None

    operation.__name__ = operation.__qualname__ = run.__name__.lstrip("_")
    operation.__doc__ = run.__doc__
    return operation


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    weights: Sequence[Tensor] | None,
    norm: Norm | None,
    activation: str,
    chunk_size: int,
    guard_limit: float | None,
    state: MemoryState | None,
    mask: Tensor | None,
    reset: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Call:
    check_tensors(q=q, k=k, v=v, g=gates.g, theta=gates.theta)
    if q.dim() != 4 or k.shape != q.shape or v.shape != q.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k, v must share one shape [B, T, H, d]; got {shapes}")
    if not q.dtype.is_floating_point:
        raise ValueError(f"q, k, v must be floating-point tensors, got {q.dtype}")
    check_devices(q.device, k=k, v=v, g=gates.g, log_eta=gates.log_eta, theta=gates.theta)
    if state is not None and not isinstance(state, MemoryState):
        raise ValueError(f"initial_state must be a MemoryState, got {type(state).__name__}")
    rows, length, heads, head_dim = q.shape
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if heads == 0 or head_dim == 0:
        raise ValueError(f"q, k, v must have at least one head of one channel, got [B, T, H, d] = {tuple(q.shape)}")
    if type(chunk_size) is not int or chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be a whole number, at least 1")
    if guard_limit is not None and not guard_limit > 0:
        raise ValueError(f"guard_limit is {guard_limit}; it must be above 0, or None for no guard")

    if weights is None and state is not None:
        if reset is not None:
            raise ValueError("reset needs `weights`, the memory weights that a new document begins with")
        weights = tuple(weight[0] for weight in state.weights)
    elif weights is None:
        weights = (q.new_zeros(heads, head_dim, head_dim),)
    if not weights:
        raise ValueError("weights is empty; give one [H, d_in, d_out] per memory layer, or None for a linear memory")
    weights = tuple(weight.to(dtype) for weight in weights)
    expansion = weights[0].shape[-1] // head_dim if len(weights) > 1 else 1
    network = MemoryNetwork(head_dim, len(weights), expansion, activation)
    for weight, dims in zip(weights, network.layer_dims, strict=True):
        if weight.shape != (heads, *dims):
            raise ValueError(f"memory weights must be [H, d_in, d_out] = {(heads, *dims)}, got {tuple(weight.shape)}")
        check_devices(q.device, weights=weight)

    if norm is not None and not (norm.weight.shape == norm.bias.shape == (heads, head_dim)):
        shapes = f"{tuple(norm.weight.shape)} and {tuple(norm.bias.shape)}"
        raise ValueError(f"norm must hold weight and bias [H, d] = {(heads, head_dim)}, got {shapes}")
    if norm is not None:
        check_devices(q.device, **{"norm's weight": norm.weight, "norm's bias": norm.bias})

    steps = (1, network.depth)
    channels = sum(d_in for d_in, _ in network.layer_dims)
    g = _gate("g", gates.g, (rows, length, heads), (*steps, channels), dtype)
    theta = _gate("theta", gates.theta, (rows, length, heads), steps, dtype)
    log_eta = gates.log_eta
    if log_eta is not None:
        log_eta = _gate("log_eta", log_eta, (rows, length, heads), steps, dtype)
        width = max(theta.shape[-1], log_eta.shape[-1])
        theta, log_eta = theta.expand(*theta.shape[:3], width), log_eta.expand(*log_eta.shape[:3], width)

    check_shapes("[B, T]", q.shape[:2], mask=mask, reset=reset)
    mask, reset = (None if flags is None else flags.to(q.device, torch.bool) for flags in (mask, reset))
    state_rows = rows
    if cu_seqlens is not None:
        check_tensors(cu_seqlens=cu_seqlens)
        if rows != 1 or mask is not None or reset is not None:
            raise ValueError("cu_seqlens needs one packed row (B = 1) and neither mask nor reset")
        _check_borders(cu_seqlens, length)
        state_rows = len(cu_seqlens) - 1
    widths = (chunk_size, g.shape[-1], theta.shape[-1], log_eta is not None)
    if state is None:
        state = _fresh(weights, state_rows, *widths)
    elif not torch.compiler.is_compiling():  # a graph could not hold it, and has fixed shapes
        check_state(state, q.device, heads, network, dtype, state_rows, *widths)
    # What only the guard looks at has no gradient.
    state = state.replace(pending=state.pending.detach(), miss=state.miss.detach())
    return Call(
        q=q.to(dtype),
        k=k.to(dtype),
        v=v.to(dtype),
        gates=Gates(g, log_eta, theta),
        weights=weights,
        norm=None if norm is None else Norm(norm.weight.to(dtype), norm.bias.to(dtype)),
        network=network,
        state=state,
        guard_limit=guard_limit,
        mask=mask,
        reset=reset,
        given_dtype=q.dtype,
    )


def _gate(name: str, gate: Tensor, shape: tuple[int, int, int], widths: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    gate = gate.unsqueeze(-1) if gate.dim() == 3 else gate
    if gate.shape[:3] != shape or gate.shape[-1] not in widths:
        raise ValueError(
            f"{name} must be [B, T, H] = {shape} or that with a last axis of {widths}, got {tuple(gate.shape)}"
        )
    return gate.to(dtype)


def _check_borders(cu_seqlens: Tensor, length: int) -> None:
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64) or len(cu_seqlens) < 2:
        found = f"{tuple(cu_seqlens.shape)} {cu_seqlens.dtype}"
        raise ValueError(f"cu_seqlens must be [N + 1] int32 or int64 with N >= 1, got {found}")
    if cu_seqlens[0] != 0 or cu_seqlens[-1] != length or bool((cu_seqlens.diff() < 0).any()):
        raise ValueError(f"cu_seqlens must rise from 0 to T = {length}, got {cu_seqlens.tolist()}")


def check_tensors(**tensors: object) -> None:
    """Raises ValueError unless each is a tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")


def check_shapes(letters: str, shape: torch.Size, **tensors: Tensor | None) -> None:
    """Raises ValueError unless each of the tensors is None or has `shape`, which is called `letters`."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        check_tensors(**{name: tensor})
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {letters} = {tuple(shape)}, got {tuple(tensor.shape)}")


def check_devices(device: torch.device, **tensors: Tensor | None) -> None:
    """Raises ValueError unless each of the tensors is None or on `device`."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, the rest of the call on {device}: move one of them")


def _fresh(
    weights: tuple[Tensor, ...], rows: int, chunk_size: int, num_gates: int, num_steps: int, momentum: bool
) -> MemoryState:
    return MemoryState.fresh(
        weights, rows, chunk_size=chunk_size, num_gates=num_gates, num_steps=num_steps, momentum=momentum
    )


def _kind(x: Tensor) -> tuple[object, ...]:
    return tuple(x.shape), x.dtype


@functools.lru_cache(maxsize=64)
def _kinds(
    heads: int, layer_dims: tuple[tuple[int, int], ...], dtype: torch.dtype, *fresh: Any
) -> dict[str, tuple[object, ...]]:
    """Shape and dtype of every tensor of a state; fresh: arguments of `_fresh` after the weights."""
    weights = tuple(torch.empty(heads, *dims, dtype=dtype, device="meta") for dims in layer_dims)
    return {name: _kind(x) for name, x in _fresh(weights, *fresh).tensors().items()}


def check_state(
    state: MemoryState, device: torch.device, heads: int, network: MemoryNetwork, dtype: torch.dtype, *fresh: Any
) -> None:
    """Raises ValueError unless a state has the tensors of a memory; fresh: arguments of `_fresh` after the weights."""
    wanted, tensors = _kinds(heads, tuple(network.layer_dims), dtype, *fresh), state.tensors()
    check_devices(device, **{f"the memory state's {name}": x for name, x in tensors.items()})
    found = {name: _kind(x) for name, x in tensors.items()}
    for name in wanted | found:
        should, got = wanted.get(name, ("nothing",)), found.get(name, ("nothing",))
        if got != should and name != "tail":  # the convolution's tail is the layer's business
            should, got = (" ".join(map(str, x)) for x in (should, got))
            raise ValueError(f"the memory state does not fit this call: {name} should be {should}, got {got}")


def check_again(call: Call) -> None:
    """`check_state` of a call that a graph of torch.compile may have let through, before a kernel takes addresses."""
    (rows, _, heads, _), (g, log_eta, theta) = call.q.shape, call.gates
    widths = (call.state.chunk_size, g.shape[-1], theta.shape[-1], log_eta is not None)
    check_state(call.state, call.q.device, heads, call.network, call.q.dtype, rows, *widths)


def _run_packed(
    run: Callable[[Call], tuple[Tensor, MemoryState]], call: Call, cu_seqlens: Tensor
) -> tuple[Tensor, MemoryState]:
    """Documents packed into one row, run as rows of a padded batch."""
    lengths = cu_seqlens.diff().tolist()

    def unpack(x: Tensor) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(x[0].split(lengths)), batch_first=True)

    mask = unpack(torch.ones_like(call.q[..., 0, 0])).bool()
    unpacked = replace(
        call,
        q=unpack(call.q),
        k=unpack(call.k),
        v=unpack(call.v),
        gates=call.gates.map(unpack),
        mask=mask,
    )
    y, state = run(unpacked)
    return y[mask].unsqueeze(0), state
