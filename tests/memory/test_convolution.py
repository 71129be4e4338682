"""The causal convolution against torch's, whole, in pieces, with absent tokens and packed documents."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans.memory.convolution import causal_convolution, convolution_weight, tie_keys_to_queries, tie_output_to_values
from titans.memory.layout import document_positions

CHANNELS = 6


def plain(x: Tensor, weight: Tensor) -> Tensor:
    """[T, channels] by torch's own convolution, whose taps are oldest first."""
    size = weight.shape[1]
    padded = F.pad(x.T.unsqueeze(0), (size - 1, 0))
    return F.conv1d(padded, weight.flip(1).unsqueeze(1), groups=CHANNELS)[0].T


def convolve(x, weight, tail=None, start=None, mask=None, reset=None):
    tail = x.new_zeros(len(x), weight.shape[1] - 1, CHANNELS) if tail is None else tail
    start = torch.zeros(len(x), dtype=torch.int64) if start is None else start
    reset = reset & mask if reset is not None and mask is not None else reset
    position = document_positions(start, x.shape[1], mask, reset)
    (y,), tail = causal_convolution(x, weight, tail, position, mask, reset)
    return y, tail


def documents(mask: Tensor, reset: Tensor) -> list[list[int]]:
    """Token indices of each document of one row."""
    found: list[list[int]] = [[]]
    for t in range(len(mask)):
        if mask[t]:
            if reset[t]:
                found.append([])
            found[-1].append(t)
    return [document for document in found if document]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_is_a_causal_depthwise_convolution(size, length):
    x, weight = torch.randn(2, length, CHANNELS).double(), torch.randn(CHANNELS, size).double()
    y, _ = convolve(x, weight)
    for row in range(2):
        torch.testing.assert_close(y[row], plain(x[row], weight))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("with_flags", [False, True])
def test_pieces_are_the_whole(size, with_flags):
    length = 24
    x, weight = torch.randn(3, length, CHANNELS).double(), torch.randn(CHANNELS, size).double()
    mask = torch.rand(3, length) < 0.6 if with_flags else None
    reset = torch.rand(3, length) < 0.25 if with_flags else None
    whole, whole_tail = convolve(x, weight, mask=mask, reset=reset)
    tail, start, t = None, torch.zeros(3, dtype=torch.int64), 0
    for step in (1, 1, 2, 3, 5, 1, 11):
        piece = slice(t, t + step)
        m, r = (None if f is None else f[:, piece] for f in (mask, reset))
        y, tail = convolve(x[:, piece], weight, tail, start, m, r)
        present = torch.ones(3, step, dtype=torch.bool) if m is None else m
        torch.testing.assert_close(y[present], whole[:, piece][present])
        begins = None if r is None else r & present
        where = document_positions(start, step, m, begins)
        for row in range(3):
            if present[row].any():
                start[row] = where[row][present[row]][-1] + 1
        t += step
    torch.testing.assert_close(tail, whole_tail)


def test_documents_and_absent_tokens_are_as_if_alone():
    x, weight = torch.randn(2, 40, CHANNELS).double(), torch.randn(CHANNELS, 4).double()
    mask, reset = torch.rand(2, 40) < 0.7, torch.rand(2, 40) < 0.2
    y, tail = convolve(x, weight, mask=mask, reset=reset)
    for row in range(2):
        for tokens in documents(mask[row], reset[row]):
            torch.testing.assert_close(y[row, tokens], plain(x[row, tokens], weight))
        last = x[row, documents(mask[row], reset[row])[-1]][-3:]
        torch.testing.assert_close(tail[row], F.pad(last, (0, 0, 3 - len(last), 0)))


def test_packed_documents_without_a_mask_do_not_see_each_other():
    x, weight = torch.randn(1, 10, CHANNELS).double(), torch.randn(CHANNELS, 4).double()
    reset = torch.zeros(1, 10, dtype=torch.bool)
    reset[0, [4, 9]] = True
    y, tail = convolve(x, weight, reset=reset)
    for part in (slice(0, 4), slice(4, 9), slice(9, 10)):
        torch.testing.assert_close(y[0, part], plain(x[0, part], weight))
    assert (tail[0, :2] == 0).all()
    assert torch.equal(tail[0, 2], x[0, 9])


def test_a_row_without_tokens_keeps_its_tail():
    x, weight, tail = torch.randn(2, 5, CHANNELS), torch.randn(CHANNELS, 4), torch.randn(2, 3, CHANNELS)
    mask = torch.tensor([[True] * 5, [False] * 5])
    _, after = convolve(x, weight, tail, torch.tensor([7, 9]), mask)
    assert torch.equal(after[0], x[0, 2:])
    assert torch.equal(after[1], tail[1])


def test_a_tail_does_not_keep_its_call_alive():
    for tokens in (1, 4, 5, 500):
        x, weight = torch.randn(1, tokens, CHANNELS).bfloat16(), torch.randn(CHANNELS, 4)
        tail = convolve(x, weight, torch.zeros(1, 3, CHANNELS))[1]
        assert tail.untyped_storage().nbytes() <= 2 * tail.nbytes


def test_a_tail_of_another_shape_is_refused():
    x, weight = torch.randn(2, 5, 16), torch.randn(16, 4)
    for wrong in (torch.zeros(1, 3, 16), torch.zeros(2, 2, 16)):
        with pytest.raises(ValueError, match="tail should be"):
            convolve(x, weight, wrong)


def test_the_tail_keeps_its_precision():
    x, weight = torch.randn(1, 5, CHANNELS).bfloat16(), torch.randn(CHANNELS, 4)
    y, tail = convolve(x, weight, torch.zeros(1, 3, CHANNELS))
    assert y.dtype == tail.dtype == torch.float32


def test_keys_begin_one_token_behind_queries_which_begin_at_one_of_the_last_tokens():
    weight = convolution_weight(CHANNELS, 4)
    assert weight.shape == (3 * CHANNELS, 4)
    assert weight.abs().argmax(1).view(3, CHANNELS).tolist() == [[0] * CHANNELS, [1] * CHANNELS, [0] * CHANNELS]
    queries, keys, values = convolution_weight(8, 4, 3).abs().argmax(1).view(3, 8).tolist()
    assert queries == [0, 1, 2, 0, 1, 2, 0, 1]
    assert keys == [1, 2, 3, 1, 2, 3, 1, 2]
    assert values == [0] * 8
    queries, keys, values = convolution_weight(8, 4, 3, behind=0).abs().argmax(1).view(3, 8).tolist()
    assert keys == queries == [0, 1, 2, 0, 1, 2, 0, 1]
    assert (convolution_weight(CHANNELS, 1).abs() > 0.5).all()


def test_keys_are_tied_to_queries_at_the_start_only():
    projection = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False)
    value = projection.weight[2 * CHANNELS :].clone()
    tie_keys_to_queries(projection)
    q, k, v = projection.weight.chunk(3)
    assert torch.equal(q, k)
    assert torch.equal(v, value)
    assert projection.weight.requires_grad


def test_the_output_begins_as_the_values_turned_round():
    projection, output = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False), nn.Linear(CHANNELS, CHANNELS, bias=False)
    before = projection.weight.clone()
    tie_output_to_values(output, projection)
    assert torch.equal(output.weight, projection.weight[2 * CHANNELS :].T)
    assert torch.equal(projection.weight, before)
    assert output.weight.requires_grad
    assert output.weight.data_ptr() != projection.weight[2 * CHANNELS :].data_ptr()
