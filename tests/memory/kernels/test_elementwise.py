"""One pass of compiled code equals torch's own operations, gradients included."""

import pytest
import torch

from titans.memory.kernels import elementwise
from titans.memory.kernels.elementwise import ROWS, rms_norm, rotate, swiglu
from titans.memory.norm import RMSNorm

WIDTHS = [1, 6, 16, 43]  # not whole vectors, too


def compare(run, inputs, monkeypatch):
    """`run` of the inputs, compiled and not: results and all gradients."""

    def answers():
        y = run(*inputs)
        mixture = (y * torch.arange(y.numel()).sin().view(y.shape).to(y.dtype)).sum()
        return y, *torch.autograd.grad(mixture, [x for x in inputs if x.requires_grad])

    assert elementwise._native(inputs[0])
    found = answers()
    with monkeypatch.context() as patch:
        patch.setattr(elementwise, "_native", lambda *tensors: False)
        expected = answers()
    tolerance = 1e-5 if inputs[0].dtype == torch.float32 else 1e-12
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def random(*shape, dtype):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("gated", [False, True])
def test_rms_norm(gated, width, dtype, monkeypatch):
    shape = 3, ROWS // 2 + 1, width  # two jobs, the second one not full
    inputs = [random(*shape, dtype=dtype), random(width, dtype=dtype)]
    inputs += [random(*shape, dtype=dtype)] if gated else []
    compare(lambda x, weight, gate=None: rms_norm(x, weight, 1e-3, gate), inputs, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu(width, dtype, monkeypatch):
    compare(swiglu, [random(3, ROWS // 2 + 1, 2 * width, dtype=dtype)], monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("half", WIDTHS)
@pytest.mark.parametrize("rows", [1, 2])
def test_rotary_positions(rows, half, dtype, monkeypatch):
    angle = torch.randn(rows, ROWS, 1, half, dtype=torch.float64)  # of the one row, or the same for both
    x = random(2, ROWS, 3, 2 * half, dtype=dtype)
    compare(lambda x: rotate(x, angle.cos(), angle.sin()), [x], monkeypatch)


def test_views_with_gaps_are_read_where_they_are(monkeypatch):
    x = random(4, 5, 3, 8, dtype=torch.float64)
    compare(lambda x: rms_norm(x.transpose(1, 2)[::2], torch.ones(8, dtype=x.dtype), 0.0), [x], monkeypatch)


def test_no_rows_and_other_precisions_are_left_to_torch():
    assert rms_norm(torch.zeros(0, 4), torch.ones(4), 1e-6).shape == (0, 4)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert swiglu(x).dtype == torch.bfloat16


def test_the_norm_keeps_the_precision_of_its_weight():
    x, norm = torch.randn(3, 8), RMSNorm(8, eps=1e-6)
    assert norm(x.bfloat16(), x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(norm(x), x / x.square().mean(-1, keepdim=True).sqrt(), rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_not_contiguous_is_read_by_its_own_numbers():
    x, weights = torch.randn(4, 8), torch.randn(16)
    torch.testing.assert_close(
        rms_norm(x, weights[::2], 1e-6), torch.nn.functional.rms_norm(x, (8,), weights[::2], 1e-6)
    )
    torch.testing.assert_close(
        rms_norm(x, torch.tensor(2.0).expand(8), 1e-6), 2 * torch.nn.functional.rms_norm(x, (8,), None, 1e-6)
    )


def test_shapes_that_do_not_fit_are_left_to_torch():
    x, gate = torch.randn(4, 8), torch.randn(1, 8)
    torch.testing.assert_close(
        rms_norm(x, torch.ones(8), 1e-6, gate), rms_norm(x, torch.ones(8), 1e-6, gate.expand(4, 8))
    )
    with pytest.raises(RuntimeError, match="normalized_shape"):
        rms_norm(x, torch.ones(4), 1e-6)
    with pytest.raises(RuntimeError, match="must match"):
        swiglu(torch.randn(4, 7))
