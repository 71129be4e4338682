"""The compiled convolution equals the one of torch operations, gradients included."""

import pytest
import torch
import torch.nn.functional as F

from titans.memory import convolution
from titans.memory.convolution import causal_convolution
from titans.memory.kernels.short_convolution import Finish, supported
from titans.memory.layout import document_positions

FINISHES = [
    Finish(),
    Finish(silu=True),
    Finish(parts=3),
    Finish(silu=True, parts=3, unit_parts=2, head_dim=12),
    Finish(silu=True, unit_parts=1, head_dim=24),
    Finish(parts=2, unit_parts=1, head_dim=6),
]


def answers(inputs, position, mask, reset, finish):
    """Outputs, the new tail, and the gradients of a mixture of both."""
    x, weight, tail = inputs
    parts, new_tail = causal_convolution(x, weight, tail, position, mask, reset, finish)
    y = torch.stack(parts)
    y = y if mask is None else y * mask.unsqueeze(-1)
    mixture = sum(
        (part * torch.arange(part.numel()).sin().view(part.shape).to(part.dtype)).sum() for part in (y, new_tail)
    )
    return y, new_tail, *torch.autograd.grad(mixture, inputs, allow_unused=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("flags", ["none", "reset", "mask and reset"])
def test_equals_the_sum_over_taps(flags, size, finish, dtype, monkeypatch):
    rows, length, channels = 3, 21, 48 * finish.parts
    shapes = (rows, length, channels), (channels, size), (rows, size - 1, channels)
    inputs = [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]
    mask = torch.rand(rows, length) < 0.7 if "mask" in flags else None
    reset = torch.rand(rows, length) < 0.2 if "reset" in flags else None
    reset = reset & mask if reset is not None and mask is not None else reset
    position = document_positions(torch.tensor([0, 2, 9]), length, mask, reset)
    assert supported(inputs[0], inputs[1], finish)
    found = answers(inputs, position, mask, reset, finish)
    monkeypatch.setattr(convolution, "supported", lambda x, weight, finish: False)
    expected = answers(inputs, position, mask, reset, finish)
    for got, want in zip(found, expected, strict=True):
        if want is not None and want.numel():
            torch.testing.assert_close(
                got,
                want,
                rtol=1e-5 if dtype == torch.float32 else 1e-12,
                atol=1e-5 if dtype == torch.float32 else 1e-12,
            )


def test_odd_numbers_of_channels_are_left_to_torch():
    x, weight = torch.randn(1, 5, 24), torch.randn(24, 4)
    silu, position = Finish(silu=True), torch.arange(5).expand(1, 5)
    assert not supported(x, weight, silu)
    (y,), _ = causal_convolution(x, weight, x.new_zeros(1, 3, 24), position, finish=silu)
    wide = F.pad(x, (0, 8)), F.pad(weight, (0, 0, 0, 8))
    (native,), _ = causal_convolution(*wide, x.new_zeros(1, 3, 32), position, finish=silu)
    torch.testing.assert_close(native[..., :24], y)


def test_a_head_of_zeros_stays_zero_and_has_finite_gradients():
    finish = Finish(unit_parts=1, head_dim=16)
    x, weight = torch.zeros(1, 3, 16, requires_grad=True), torch.zeros(16, 4)
    (y,), _ = causal_convolution(x, weight, x.new_zeros(1, 3, 16), torch.arange(3).expand(1, 3), finish=finish)
    y.sum().backward()
    assert (y == 0).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
