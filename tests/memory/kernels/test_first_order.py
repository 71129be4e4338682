"""No kernel gives a gradient that looks as if it could be differentiated again, and is a constant."""

import pytest
import torch
import torch.nn.functional as F

from titans.memory import MemoryConfig, NeuralMemory, chunk_titans, native_titans, triton_titans


def first_gradient(operation, **asked):
    """Of the sum of outputs, with respect to q, while v is what a second one might be asked for."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 5, 2, 8, dtype=torch.float64).requires_grad_() for _ in range(3))
    g, log_eta, theta = (F.logsigmoid(torch.randn(1, 5, 2, 1, dtype=torch.float64)) for _ in range(3))
    weights = [torch.randn(2, 8, 8, dtype=torch.float64) / 3]
    y, _ = operation(q, k, v, g, log_eta, theta.exp(), weights, None, chunk_size=2)
    return torch.autograd.grad(y.sum(), q, **asked)[0], v


@pytest.mark.parametrize("operation", [native_titans, triton_titans])
def test_a_graph_of_the_gradient_is_refused(operation):
    with pytest.raises(RuntimeError, match="first derivatives only"):
        first_gradient(operation, create_graph=True)
    assert torch.isfinite(first_gradient(operation)[0]).all()


def test_the_dual_form_has_second_derivatives():
    gradient, v = first_gradient(chunk_titans, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), v)
    assert second.abs().max() > 0


@pytest.mark.parametrize("backend", ["native", "chunked"])
def test_a_layer_refuses_as_well(backend):
    """Its convolution and norms are compiled whatever the memory is."""
    memory = NeuralMemory(16, MemoryConfig(num_heads=2))
    x = torch.randn(1, 5, 16, requires_grad=True)
    y, _ = memory(x, backend=backend)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
