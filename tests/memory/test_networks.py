"""The memory network, its hand-written gradient, and the bounds that the guard stands on."""

import math

import pytest
import torch
import torch.nn.functional as F

from titans.memory import MemoryConfig, MemoryNetwork, Norm
from titans.memory.networks import LAYER_NORM_EPS, _ActivationBackward

HEADS, TOKENS, DIM = 2, 5, 4
NETWORKS = [
    MemoryNetwork(DIM, depth, 3, activation) for depth in (1, 2, 3, 4) for activation in ("gelu", "silu", "relu")
]


def name_of(network: MemoryNetwork) -> str:
    return f"depth{network.depth}-{network.activation}"


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def weights_of(network: MemoryNetwork, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    return tuple(scale * random(1, HEADS, a, b) / math.sqrt(a) for a, b in network.layer_dims)


def test_dimensions():
    assert MemoryNetwork(8, 1, 4).layer_dims == [(8, 8)]
    assert MemoryNetwork(8, 2, 4).layer_dims == [(8, 32), (32, 8)]
    assert MemoryNetwork(8, 4, 2).layer_dims == [(8, 16), (16, 16), (16, 16), (16, 8)]
    config = MemoryConfig(depth=3, expansion=5, activation="relu")
    assert MemoryNetwork.from_config(config, 8) == MemoryNetwork(8, 3, 5, "relu")


def test_forward_is_the_residual_network_of_the_paper():
    network = MemoryNetwork(DIM, 3, 2, "silu")
    weights, x = weights_of(network), random(1, HEADS, TOKENS, DIM)
    norm = Norm(random(HEADS, DIM), random(HEADS, DIM))
    y = network(x, weights, norm)
    for h in range(HEADS):
        w1, w2, w3 = (w[0, h] for w in weights)
        z = F.silu(F.silu(x[0, h] @ w1) @ w2) @ w3
        expected = x[0, h] + F.layer_norm(z, (DIM,), norm.weight[h], norm.bias[h], LAYER_NORM_EPS)
        torch.testing.assert_close(y[0, h], expected, rtol=0, atol=1e-12)


def test_the_linear_memory_is_one_product():
    weights, x = weights_of(MemoryNetwork(DIM, 1)), random(1, HEADS, TOKENS, DIM)
    torch.testing.assert_close(MemoryNetwork(DIM, 1)(x, weights), x @ weights[0])


@pytest.mark.parametrize("network", NETWORKS, ids=name_of)
@pytest.mark.parametrize("affine", [True, False])
def test_surprise_is_the_gradient_of_the_loss(network, affine):
    weights = tuple(w.requires_grad_() for w in weights_of(network))
    norm = Norm(random(HEADS, DIM), random(HEADS, DIM)) if affine and network.depth > 1 else None
    k, v = random(1, HEADS, 1, DIM), random(1, HEADS, 1, DIM)
    expected = torch.autograd.grad(0.5 * (network(k, weights, norm) - v).square().sum(), weights)
    surprise = network.surprise(k, v, weights, norm)
    for inputs, errors, want in zip(surprise.inputs, surprise.errors, expected, strict=True):
        torch.testing.assert_close(inputs.transpose(-1, -2) @ errors, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("network", [n for n in NETWORKS if n.depth in (1, 3)], ids=name_of)
def test_surprise_has_a_gradient_itself(network):
    # Everything that training needs: the gradient of the inner gradient.
    weights = tuple(w.requires_grad_() for w in weights_of(network))
    k, v = random(1, HEADS, 2, DIM).requires_grad_(), random(1, HEADS, 2, DIM).requires_grad_()
    norm = Norm(random(HEADS, DIM).requires_grad_(), random(HEADS, DIM).requires_grad_())

    def factors(k, v, scale, shift, *weights):
        surprise = network.surprise(k, v, weights, Norm(scale, shift) if network.depth > 1 else None)
        return (*surprise.inputs, *surprise.errors)

    assert torch.autograd.gradcheck(factors, (k, v, *norm, *weights))


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_activation_backward_has_the_right_derivatives(name):
    z, grad = random(20).requires_grad_(), random(20).requires_grad_()
    act = {"gelu": F.gelu, "silu": F.silu}[name]
    expected = torch.autograd.grad(act(z), z, grad, create_graph=True)[0]
    found = _ActivationBackward.apply(grad, z, name)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    upstream = random(20)
    ours = torch.autograd.grad(found, (z, grad), upstream, create_graph=True)
    theirs = torch.autograd.grad(expected, (z, grad), upstream, create_graph=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(one[1].sum(), z) for one in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS, ids=name_of)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_tangent_bounds_bound_the_tangent_kernel_along_the_errors(network, scale):
    """e_i^T J_i J_j^T e_j of each layer, from autograd's Jacobians, and for a token with itself it is the bound."""
    weights = weights_of(network, scale)
    norm = Norm(1 + random(HEADS, DIM), random(HEADS, DIM)) if network.depth > 1 else None
    k, v = F.normalize(random(1, HEADS, TOKENS, DIM), dim=-1), random(1, HEADS, TOKENS, DIM)
    bounds = network.tangent_bounds(network.surprise(k, v, weights, norm))
    errors = F.normalize(network(k, weights, norm) - v, dim=-1)
    for h in range(HEADS):
        scaled = None if norm is None else Norm(norm.weight[h : h + 1], norm.bias[h : h + 1])
        for layer in range(network.depth):

            def outputs(weight, h=h, layer=layer, scaled=scaled):
                parts = [weight if i == layer else w[:, h : h + 1] for i, w in enumerate(weights)]
                return network(k[:, h : h + 1], tuple(parts), scaled)[0, 0]

            jacobian = torch.func.jacrev(outputs)(weights[layer][:, h : h + 1]).flatten(2)  # [T, d, parameters]
            felt = torch.einsum("iap,ia->ip", jacobian, errors[0, h])
            kernel, bound = (felt @ felt.T).abs(), bounds[layer][0, h]
            assert (kernel <= bound * (1 + 1e-9) + 1e-12).all()
            torch.testing.assert_close(kernel.diagonal(), bound.diagonal())
    assert not any(bound.requires_grad for bound in bounds)


def test_where_nothing_is_missed_nothing_is_felt():
    network = MemoryNetwork(DIM, 2, 3)
    weights, k = weights_of(network), F.normalize(random(1, HEADS, TOKENS, DIM), dim=-1)
    surprise = network.surprise(k, network(k, weights), weights)
    assert all((bound == 0).all() for bound in network.tangent_bounds(surprise))
