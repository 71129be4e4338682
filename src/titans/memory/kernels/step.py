"""One token of a memory layer in C (step.c), in place on a state that the caller owns.

Everything between the layer's projections: at one token, what an operation of torch costs is calling it. For
processors; float32 and float64; forward only; every switch but channel-wise forgetting. Equals `NeuralMemory.forward`.

Letters: B rows, H heads, d head dimension, L memory layers, C chunk length, J taps of the convolution.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from titans.memory.config import MemoryConfig
from titans.memory.gates import FORGET_MARGIN, MAX_FORGET, MOMENTUM_SHARE, STEP_MARGIN
from titans.memory.kernels.build import compiled, fields, point, run_in_threads
from titans.memory.kernels.native import ACTIVATIONS, MAX_LAYERS
from titans.memory.networks import MemoryNetwork, Norm
from titans.memory.state import MemoryState

_POINTER, _POINTERS = ctypes.c_void_p, ctypes.c_void_p * MAX_LAYERS
OUTPUT_EPSILON = 1e-6  # of the norm before the output projection
_WORTH_SHARING = 1_000_000  # memory weights in the batch; with fewer, waking a second thread takes too long


class _Arguments(ctypes.Structure):
    """`Step` of step.c."""

    _fields_ = (
        *fields(ctypes.c_int64, "B H d hidden L C J forgets steps activation"),
        *fields(ctypes.c_double, "limit share max_step max_forget step_margin forget_margin epsilon"),
        *fields(_POINTER, "present begins qkv gate step momentum forget taps gamma beta output_norm"),
        *fields(_POINTERS, "w0"),
        *fields(_POINTER, "position pending miss open_g open_theta open_eta"),
        *fields(_POINTERS, "w s a e"),
        *fields(_POINTER, "tail known felt planned pushed y"),
    )


class Projections(NamedTuple):
    """What the layer's linear maps make of one token per row."""

    qkv: Tensor
    """[B, 3 H d]"""
    gate: Tensor
    """of the output [B, H d]"""
    step: Tensor
    """logits of theta [B, H * L]"""
    momentum: Tensor | None
    """logits of eta [B, H * L]"""
    forget: Tensor | None
    """logits of alpha [B, H * L]"""


class Parameters(NamedTuple):
    """The layer's other parameters."""

    taps: Tensor | None
    """of the convolution [3 H d, J]"""
    norm: Norm | None
    """of the memory network"""
    output_norm: Tensor
    """[d]"""
    weights: tuple[Tensor, ...]
    """that a document begins with, one [H, d_in, d_out] per memory layer"""


class Workspace:
    """What the kernel keeps from token to token beside a state: the guard's sums over the open chunk.

    It belongs to the tensors of one state, which it keeps alive, and only saves work: where something else has changed
    the state, the sums are made anew. Of the tensors of torch.inference_mode, which do not count their changes, only
    another position tells: after any other change in place they need a new workspace.
    """

    def __init__(self, state: MemoryState, network: MemoryNetwork, config: MemoryConfig) -> None:
        """
        Raises:
            ValueError: the state's tensors cannot be changed in place.
        """
        for name, tensor in state.tensors().items():
            if not tensor.is_contiguous():
                raise ValueError(f"the state cannot be changed in place, {name} is not contiguous: pass state.own()")
        self.state, self.network = state, network
        self.tensors = list(state.tensors().values())
        self.versions = self._versions()
        g, theta, *log_eta = state.gates
        rows, heads, chunk_size = state.miss.shape
        depth = network.depth
        self.known = torch.full((rows, heads), -1)
        self.felt, self.planned, self.pushed = (state.miss.new_empty(rows, heads, depth, chunk_size) for _ in range(3))
        self.share = sum(weight.numel() for weight in state.weights) >= _WORTH_SHARING
        self.arguments = _Arguments(
            B=rows,
            H=heads,
            d=network.head_dim,
            hidden=network.layer_dims[-1][0],
            L=depth,
            C=chunk_size,
            J=state.tail.shape[1] + 1,
            forgets=g.shape[-1],
            steps=theta.shape[-1],
            activation=ACTIVATIONS.index(network.activation),
            limit=config.guard_limit if config.guard else 0.0,
            share=MOMENTUM_SHARE,
            max_step=config.largest_step,
            max_forget=MAX_FORGET,
            step_margin=STEP_MARGIN,
            forget_margin=FORGET_MARGIN,
            epsilon=OUTPUT_EPSILON,
        )
        point(
            self.arguments,
            position=state.position,
            pending=state.pending,
            miss=state.miss,
            open_g=g,
            open_theta=theta,
            open_eta=log_eta[0] if log_eta else None,
            w=state.weights,
            s=state.momentum,
            a=state.inputs,
            e=state.errors,
            tail=state.tail,
            known=self.known,
            felt=self.felt,
            planned=self.planned,
            pushed=self.pushed,
        )

    def look(self) -> None:
        """Forgets what it kept if the state has been changed since `changed`."""
        if self._versions() != self.versions:
            self.known.fill_(-1)

    def changed(self) -> None:
        """Tells autograd that the kernel has written into the state's tensors."""
        torch.autograd.graph.increment_version(self.tensors)
        self.versions = self._versions()

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in self.tensors if not tensor.is_inference()]


def native_step_(
    workspace: Workspace,
    projections: Projections,
    parameters: Parameters,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
) -> Tensor:
    """Reads one token per row into the workspace's state, in place, and returns what is to be projected out [B, H d].

    mask, reset: [B] bool; a row that is absent stays as it is and its result is 0.
    """
    state, norm = workspace.state, parameters.norm
    workspace.look()
    given: dict[str, Tensor | tuple[Tensor, ...] | None] = {
        "y": state.miss.new_empty(projections.gate.shape),
        **{name: _ready(x, state) for name, x in projections._asdict().items()},
        "taps": _ready(parameters.taps, state),
        "gamma": _ready(None if norm is None else norm.weight, state),
        "beta": _ready(None if norm is None else norm.bias, state),
        "output_norm": _ready(parameters.output_norm, state),
        "present": None if mask is None else mask.contiguous(),
        "begins": None if reset is None else reset.contiguous(),
    }
    if reset is not None:
        given["w0"] = tuple(weight.to(state.miss.dtype).contiguous() for weight in parameters.weights)
        state.position.masked_fill_(reset if mask is None else reset & mask, 0)
    point(workspace.arguments, **given)
    kernel, jobs = compiled("step", state.miss.dtype), state.miss.shape[0] * state.miss.shape[1]
    run_in_threads(kernel, workspace.arguments, jobs, backward=False, share=workspace.share)
    state.position.add_(1 if mask is None else mask)
    workspace.changed()
    return given["y"]  # pyright: ignore[reportReturnType]


def _ready(x: Tensor | None, state: MemoryState) -> Tensor | None:
    """As the kernel reads it: in the state's precision, without gaps."""
    return None if x is None else x.to(state.miss.dtype).contiguous()
