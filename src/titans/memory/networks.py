"""The small network that is the memory, and its gradient written by hand.

    M(x) = x + LN(W_L act(... act(W_1 x)))        depth L >= 2
    M(x) = W_1 x                                  depth 1, the linear memory

Letters: B rows, H heads, C tokens, d head dimension, h hidden width. Weights are stored for row vectors, so a layer
is `x @ W` with W [B, H, d_in, d_out].

For one token the gradient of 1/2 ||M(k) - v||^2 with respect to a layer's weights is an outer product: the layer's
input times the error that reaches the layer's output. `surprise` returns these two factors and never the product.
The formula is written out by hand because it must run inside activation checkpointing, where torch.func does not.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory.config import MemoryConfig

# Much larger than usual: near W = 0 (a fresh or forgotten memory) layer norm with a tiny eps is a division by nothing,
# its Jacobian explodes and the step-size guard has to stop all learning. With 0.1 small outputs pass unchanged.
LAYER_NORM_EPS = 0.1
_INV_SQRT_2PI = 0.3989422804014327


class Norm(NamedTuple):
    """Learned affine part of the memory network's layer norm: weight and bias [H, d]."""

    weight: Tensor
    bias: Tensor


class Surprise(NamedTuple):
    """The gradients of a chunk as rank-one factors, one entry per memory layer.

    inputs[l]: [B, H, C, d_in] what the layer saw; errors[l]: [B, H, C, d_out] what comes back to its output.
    miss: [B, H, C] ||M(k) - v||, of which `errors` are what each layer feels (1 for the linear memory, which feels all
    of it); no gradient.
    """

    inputs: tuple[Tensor, ...]
    errors: tuple[Tensor, ...]
    miss: Tensor


def by_layer(tensors: Sequence[Any], depth: int) -> list[tuple[Any, ...]]:
    """Cut into groups of one tensor per memory layer."""
    return [tuple(tensors[i : i + depth]) for i in range(0, len(tensors), depth)]


@dataclass(frozen=True)
class MemoryNetwork:
    """Shape and arithmetic of the memory network; it owns no parameters."""

    head_dim: int
    depth: int = 2
    expansion: int = 4
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; it must be one of {', '.join(_ACTIVATIONS)}")

    @classmethod
    def from_config(cls, config: MemoryConfig, head_dim: int) -> "MemoryNetwork":
        return cls(head_dim, config.depth, config.expansion, config.activation)

    @property
    def layer_dims(self) -> list[tuple[int, int]]:
        """(d_in, d_out) of each layer."""
        hidden = self.head_dim * self.expansion
        widths = [self.head_dim, *([hidden] * (self.depth - 1)), self.head_dim]
        return list(itertools.pairwise(widths))

    def act(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[self.activation](x)

    def finish(self, x: Tensor, z: Tensor, norm: Norm | None) -> Tensor:
        """From the last layer's output z to M(x): residual and layer norm, or nothing for the linear memory."""
        if self.depth == 1:
            return z
        return x + _affine(_normalise(z)[0], norm)

    def __call__(self, x: Tensor, weights: tuple[Tensor, ...], norm: Norm | None = None) -> Tensor:
        """M_W(x): x [B, H, C, d], weights one [B, H, d_in, d_out] per layer -> [B, H, C, d]."""
        z = x @ weights[0]
        for weight in weights[1:]:
            z = self.act(z) @ weight
        return self.finish(x, z, norm)

    def surprise(self, k: Tensor, v: Tensor, weights: tuple[Tensor, ...], norm: Norm | None = None) -> Surprise:
        """Gradient of 1/2 ||M_W(k) - v||^2 with respect to every layer, in factors (eq. 12).

        k, v: [B, H, C, d]; weights: one [B, H, d_in, d_out] per layer.
        """
        inputs, before = [k], []
        z = k @ weights[0]
        for weight in weights[1:]:
            before.append(z)
            inputs.append(self.act(z))
            z = inputs[-1] @ weight

        if self.depth == 1:
            error = z - v
            miss = torch.ones_like(z[..., 0])
        else:
            unit, inverse_std = _normalise(z)
            back = k + _affine(unit, norm) - v
            miss = back.detach().norm(dim=-1)
            if norm is not None:
                back = back * norm.weight.unsqueeze(-2)
            projected = (back * unit).mean(-1, keepdim=True)
            error = inverse_std * (back - back.mean(-1, keepdim=True) - unit * projected)

        errors = [error]
        for weight, z in zip(reversed(weights[1:]), reversed(before), strict=True):
            back = errors[-1] @ weight.transpose(-1, -2)
            errors.append(_activation_backward(back, z, self.activation))
        return Surprise(tuple(inputs), tuple(reversed(errors)), miss)

    def tangent_bounds(self, surprise: Surprise) -> list[Tensor]:
        """How far a unit step on token j moves the output for token i along both tokens' errors, per memory layer.

        The tangent kernel of layer l is (a_i . a_j) P_i P_j^T, with a the layer's input and P the product of the
        Jacobians after it. Along the errors e, of which layer l feels delta = P^T e, it is at most
        |a_i . a_j| ||delta_i|| ||delta_j|| / (||e_i|| ||e_j||). Returns one [B, H, C, C] per layer, without gradient.
        """
        with torch.no_grad():
            bounds = []
            for inputs, errors in zip(surprise.inputs, surprise.errors, strict=True):
                bound = (inputs @ inputs.transpose(-1, -2)).abs()
                if self.depth > 1:
                    felt = errors.norm(dim=-1) / surprise.miss.clamp_min(torch.finfo(errors.dtype).tiny)
                    bound = bound * felt.unsqueeze(-1) * felt.unsqueeze(-2)
                bounds.append(bound)
            return bounds


def _normalise(z: Tensor) -> tuple[Tensor, Tensor]:
    """z to zero mean and unit variance over the last axis, and 1 / std."""
    centred = z - z.mean(-1, keepdim=True)
    inverse_std = torch.rsqrt(centred.square().mean(-1, keepdim=True) + LAYER_NORM_EPS)
    return centred * inverse_std, inverse_std


def _affine(unit: Tensor, norm: Norm | None) -> Tensor:
    return unit if norm is None else unit * norm.weight.unsqueeze(-2) + norm.bias.unsqueeze(-2)


def _activation_backward(grad: Tensor, z: Tensor, name: str) -> Tensor:
    """grad * act'(z)."""
    if torch.is_grad_enabled():
        return _ActivationBackward.apply(grad, z, name)  # pyright: ignore[reportReturnType]
    return _BACKWARD[name](grad, z)  # which torch.compile can see into


class _ActivationBackward(torch.autograd.Function):
    """grad * act'(z) in one kernel, and its own derivative; torch's would take a dozen."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, z: Tensor, name: str) -> Tensor:
        ctx.save_for_backward(grad, z)
        ctx.name = name
        return _BACKWARD[name](grad, z)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad, z = ctx.saved_tensors
        return _DIFFERENTIABLE[ctx.name](upstream, z), upstream * grad * _CURVATURE[ctx.name](z), None


def _gelu_curvature(z: Tensor) -> Tensor:
    square = z * z
    return torch.exp(-0.5 * square) * (2 - square) * _INV_SQRT_2PI


def _silu_backward(grad: Tensor, z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return grad * gate * (1 + z * (1 - gate))


def _silu_curvature(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1 - gate) * (2 + z * (1 - 2 * gate))


_ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}
_BACKWARD = {
    "gelu": torch.ops.aten.gelu_backward,
    "silu": torch.ops.aten.silu_backward,
    "relu": lambda grad, z: torch.ops.aten.threshold_backward(grad, z, 0),
}
_DIFFERENTIABLE = _BACKWARD | {"silu": _silu_backward}  # aten's own has no derivative
_CURVATURE = {"gelu": _gelu_curvature, "silu": _silu_curvature, "relu": torch.zeros_like}  # act''
