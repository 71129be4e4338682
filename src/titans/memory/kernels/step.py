"""One token of the memory in C (step.c), in place on a state that the caller owns.

For processors; float32 and float64; forward only; every switch but channel-wise forgetting. Equals `recurrent_titans`.

Letters: B rows, H heads, d head dimension, L memory layers, C chunk length.
"""

import ctypes

import torch
from torch import Tensor

from titans.memory.gates import MOMENTUM_SHARE
from titans.memory.kernels.build import compiled, fields, run_in_threads
from titans.memory.kernels.native import ACTIVATIONS, MAX_LAYERS
from titans.memory.networks import MAX_SLOPE, MemoryNetwork, Norm
from titans.memory.state import MemoryState

_POINTER, _POINTERS = ctypes.c_void_p, ctypes.c_void_p * MAX_LAYERS
_WORTH_SHARING = 1_000_000  # memory weights in the batch; with fewer, waking a second thread takes too long


class _Arguments(ctypes.Structure):
    """`Step` of step.c."""

    _fields_ = (
        *fields(ctypes.c_int64, "B H d hidden L C forgets steps activation momentum norm"),
        *fields(ctypes.c_double, "limit share max_slope"),
        *fields(_POINTER, "present begins q k v g theta log_eta gamma beta"),
        *fields(_POINTERS, "w0"),
        *fields(_POINTER, "position pending slope open_g open_theta open_eta"),
        *fields(_POINTERS, "w s a e"),
        *fields(_POINTER, "known gain planned pushed y"),
    )


class Workspace:
    """What the kernel keeps from token to token beside a state: the guard's sums over the open chunk.

    It belongs to the tensors of one state, which it keeps alive, and only saves work: where the state has been brought
    to another position by other means, the sums are made anew.
    """

    def __init__(self, state: MemoryState, network: MemoryNetwork, guard_limit: float | None) -> None:
        """
        Raises:
            ValueError: the state's tensors cannot be changed in place.
        """
        for name, tensor in state.tensors().items():
            if not tensor.is_contiguous():
                raise ValueError(f"the state cannot be changed in place, {name} is not contiguous: pass state.own()")
        self.state = state
        g, theta, *log_eta = state.gates
        rows, heads, chunk_size = state.slope.shape
        depth = network.depth
        self.known = torch.full((rows, heads), -1)
        self.gain = state.slope.new_empty(rows, heads, depth)
        self.planned, self.pushed = (state.slope.new_empty(rows, heads, depth, chunk_size) for _ in range(2))
        self.share = sum(weight.numel() for weight in state.weights) >= _WORTH_SHARING
        self.arguments = _Arguments(
            B=rows,
            H=heads,
            d=network.head_dim,
            hidden=network.layer_dims[-1][0],
            L=depth,
            C=chunk_size,
            forgets=g.shape[-1],
            steps=theta.shape[-1],
            activation=ACTIVATIONS.index(network.activation),
            momentum=bool(state.momentum),
            limit=guard_limit or 0.0,
            share=MOMENTUM_SHARE,
            max_slope=MAX_SLOPE[network.activation],
        )
        self.point(
            position=state.position,
            pending=state.pending,
            slope=state.slope,
            open_g=g,
            open_theta=theta,
            open_eta=log_eta[0] if log_eta else None,
            w=state.weights,
            s=state.momentum,
            a=state.inputs,
            e=state.errors,
            known=self.known,
            gain=self.gain,
            planned=self.planned,
            pushed=self.pushed,
        )

    def point(self, **tensors: Tensor | tuple[Tensor, ...] | None) -> None:
        """Points arguments of the kernel at contiguous tensors, which must live until it has run."""
        for name, value in tensors.items():
            if isinstance(value, tuple):
                value = _POINTERS(*(x.data_ptr() for x in value))
            elif value is not None:
                value = value.data_ptr()
            setattr(self.arguments, name, value)


def native_step_(
    workspace: Workspace,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    log_eta: Tensor | None,
    theta: Tensor,
    weights: tuple[Tensor, ...],
    norm: Norm | None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
) -> Tensor:
    """Reads one token per row into the workspace's state, in place, and returns what the memory answers [B, H, d].

    q, k, v: [B, H, d]; g, theta, log_eta: [B, H, 1 or L]; weights: [H, d_in, d_out] per layer, for documents that begin;
    mask, reset: [B] bool; a row that is absent stays as it is and its answer is 0.
    """
    state = workspace.state
    position = state.position
    given = {"q": q, "k": k, "v": v, "g": g, "theta": theta, "log_eta": log_eta}
    given |= {"present": mask, "begins": reset}
    if norm is not None:
        given |= {"gamma": norm.weight, "beta": norm.bias}

    def ready(x: Tensor) -> Tensor:
        return (x if x.dtype == torch.bool else x.to(state.slope.dtype)).contiguous()

    given = {name: None if x is None else ready(x) for name, x in given.items()}
    y = state.slope.new_empty(q.shape)
    workspace.arguments.norm = norm is not None
    first = None
    if reset is not None:
        first = tuple(ready(weight) for weight in weights)
        position.masked_fill_(reset if mask is None else reset & mask, 0)
    workspace.point(**given, w0=first or (), y=y)
    kernel, jobs = compiled("step", y.dtype), q.shape[0] * q.shape[1]
    run_in_threads(kernel, workspace.arguments, jobs, backward=False, share=workspace.share)
    position.add_(1 if mask is None else mask)
    return y
