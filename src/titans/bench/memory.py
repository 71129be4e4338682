"""The memory alone: the operation in all its forms, and the whole layer with its projections, convolution and gates.

Letters: B rows, T tokens, H heads, d head dimension, h hidden width of the memory network, C chunk length.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.bench.contest import Contender, Contest, Work
from titans.memory import (
    MemoryConfig,
    MemoryNetwork,
    NeuralMemory,
    Norm,
    chunk_titans,
    native_titans,
    reference_titans,
)
from titans.memory.arguments import MemoryOperation
from titans.memory.kernels.build import multiplies_bfloat16
from titans.memory.layer import Backend
from titans.training.model import best_device

FORMS: dict[str, MemoryOperation] = {
    "native": native_titans,
    "chunked": chunk_titans,
    "reference": reference_titans,
}
REFERENCE_TOKENS = 32  # the definition goes token by token through autograd
LINEAR, ROUNDED = ", linear", ", bfloat16"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A memory and what it reads."""

    B: int
    T: int
    H: int
    d: int
    expansion: int
    C: int = 16
    depth: int = 2
    dtype: torch.dtype = torch.float32

    @property
    def h(self) -> int:
        """Hidden width of the memory network."""
        return self.d * self.expansion

    @property
    def dim(self) -> int:
        """Width of the layer."""
        return self.H * self.d

    @property
    def tokens(self) -> int:
        """In one call."""
        return self.B * self.T

    def __str__(self) -> str:
        return f"D = {self.dim}, H = {self.H}, d = {self.d}, h = {self.h}"


# d = 64, h = 128, and the paper's d = 48, h = 192 (170M and 340M).
SIZES = (Size(B=2, T=512, H=4, d=64, expansion=2), Size(B=2, T=512, H=4, d=48, expansion=4))
QUICK = (Size(B=1, T=64, H=2, d=16, expansion=2),)

Peers = Callable[[Size, bool], Sequence[Contender]]
"""From a size and whether to train to contenders of other packages."""


def no_peers(_size: Size, _training: bool) -> Sequence[Contender]:
    return ()


def contests(*, quick: bool = False, peers: Peers = no_peers) -> list[Contest]:
    """The operation and the layer, forward and with the backward pass, for every size."""
    cases = [(size, training) for size in (QUICK if quick else SIZES) for training in (False, True)]
    return [_operation_contest(*case) for case in cases] + [_layer_contest(*case, peers) for case in cases]


def flops(size: Size, training: bool) -> int:
    """Operations of the dual form's matrix products for B rows of T tokens; training: three times the forward pass.

    Per token and head, a multiplication and an addition counting two: for each memory layer [d_in, d_out] the product
    of the surprise (2 d_in d_out), those of the read with W and with S (4) and the write into both (4), the scores and
    their product with the errors, 2 C (d_in + d_out); from the second layer on the error's way back, 2 d_in d_out.
    That is 22 d h + 4 C (d + h) for depth 2 and 10 d^2 + 4 C d for the linear memory. Not counted: gates and their
    sums, the guard, activations, norms, and what the backward pass computes anew.
    """
    dims, C = MemoryNetwork(size.d, size.depth, size.expansion).layer_dims, size.C
    forward = sum(
        (10 if layer == 0 else 12) * d_in * d_out + 2 * C * (d_in + d_out) for layer, (d_in, d_out) in enumerate(dims)
    )
    return size.tokens * size.H * forward * (3 if training else 1)


def direction(training: bool) -> str:
    return "forward + backward" if training else "forward"


def label(form: str, size: Size) -> str:
    """A contender's name: the form, and what of a size is not in the contest's title."""
    linear, rounded = LINEAR if size.depth == 1 else "", ROUNDED if size.dtype == torch.bfloat16 else ""
    return f"{form}, chunk {size.C}{linear}{rounded}"


def _in_bfloat16(size: Size) -> list[Size]:
    """The size in chunks of 16 and 64 where the processor multiplies bfloat16."""
    return [replace(size, C=chunk, dtype=torch.bfloat16) for chunk in (16, 64) if multiplies_bfloat16()]


def _operation_contest(size: Size, training: bool) -> Contest:
    sizes = [replace(size, C=chunk, depth=depth) for depth in (2, 1) for chunk in (16, 64)]
    rounded = _in_bfloat16(size)
    short = replace(size, T=REFERENCE_TOKENS)
    forms = [*(("native", each) for each in sizes), *(("chunked", each) for each in sizes)]
    contenders = [
        Contender(
            name=label(form, sized),
            make=partial(make_operation, form, sized, training),
            tokens=sized.tokens,
            flops=flops(sized, training) if sized in sizes else None,
        )
        for form, sized in (*forms, *(("native", each) for each in rounded), ("reference", short))
    ]
    title = f"operation, {direction(training)}, {size}"
    return Contest(title=title, base="chunked, chunk 16", contenders=tuple(contenders))


def _layer_contest(size: Size, training: bool, peers: Peers) -> Contest:
    choices: list[tuple[Backend, Size]] = [
        ("native", size),
        ("native", replace(size, C=64)),
        ("native", replace(size, depth=1)),
        ("chunked", size),
        *(("native", each) for each in _in_bfloat16(size)),
    ]
    own = [
        Contender(name=label(backend, sized), make=partial(make_layer, backend, sized, training), tokens=size.tokens)
        for backend, sized in choices
    ]
    title = f"layer, {direction(training)}, {size}"
    return Contest(title=title, base="native, chunk 16", contenders=(*own, *peers(size, training)))


def make_operation(form: str, size: Size, training: bool) -> Work:
    """The operation on random queries, keys and values, of the size's dtype, and gates."""
    torch.manual_seed(0)
    operation, inputs, weights, norm = FORMS[form], *_inputs(size)
    heads, gates = [x.detach().to(size.dtype).requires_grad_() for x in inputs[:3]], inputs[3:]

    def forward() -> Tensor:
        return operation(*heads, *gates, weights, norm, chunk_size=size.C)[0]  # pyright: ignore[reportCallIssue]

    return Work(run=trained(forward) if training else without_gradients(forward))


def make_layer(backend: Backend, size: Size, training: bool) -> Work:
    """`NeuralMemory` on random inputs."""
    torch.manual_seed(0)
    config = MemoryConfig(num_heads=size.H, depth=size.depth, expansion=size.expansion, chunk_size=size.C)
    memory = NeuralMemory(size.dim, config).to(best_device(), size.dtype)
    x = layer_input(size)

    def forward() -> Tensor:
        return memory(x, backend=backend)[0]

    return Work(run=trained(forward) if training else without_gradients(forward))


def layer_input(size: Size) -> Tensor:
    """[B, T, D] with a gradient, as of the layer below."""
    return torch.randn(size.B, size.T, size.dim, device=best_device(), dtype=size.dtype, requires_grad=True)


def trained(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """The forward and the backward pass. Gradients add up where they are, as in accumulation."""
    return lambda: forward().sum().backward()


def without_gradients(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """The forward pass alone."""

    def run() -> None:
        with torch.no_grad():
            forward()

    return run


def _inputs(size: Size) -> tuple[list[Tensor], tuple[Tensor, ...], Norm | None]:
    """Random inputs and gates, memory weights and layer norm; with gradients, but for the norm."""
    device, depth, shape = best_device(), size.depth, (size.B, size.T, size.H)
    q, k = (F.normalize(torch.randn(*shape, size.d), dim=-1) for _ in range(2))
    gates = (
        F.logsigmoid(torch.randn(*shape, depth) + 4),
        F.logsigmoid(torch.randn(*shape, depth)),
        0.1 * torch.rand(*shape, depth),
    )
    dims = MemoryNetwork(size.d, depth, size.expansion).layer_dims
    weights = tuple((torch.randn(size.H, a, b) / math.sqrt(a)).to(device).requires_grad_() for a, b in dims)
    norm = Norm(torch.full((size.H, size.d), 0.5).to(device), torch.zeros(size.H, size.d).to(device))
    inputs = [x.to(device).requires_grad_() for x in (q, k, torch.randn(*shape, size.d), *gates)]
    return inputs, weights, norm if depth > 1 else None
