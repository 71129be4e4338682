"""MAC's segments against counting by hand."""

import pytest
import torch

from titans.memory.layout import document_positions
from titans.models.segments import Segmentation, Stream

SIZE = 4


def stream(
    starts: list[int], length: int, present: list[int] | None = None, reset: torch.Tensor | None = None
) -> Stream:
    """Rows that began at `starts`; only the first `present` tokens of each are there."""
    start = torch.tensor(starts)
    mask = None if present is None else torch.arange(length) < torch.tensor(present).unsqueeze(1)
    return Stream(start, document_positions(start, length, mask, reset), mask, reset)


def segments_of(given: Stream, *tensors: torch.Tensor):
    segmentation = Segmentation(given, SIZE, None)
    return segmentation, list(segmentation.segments(*tensors))


def test_aligned_segments():
    x = torch.arange(1, 11).expand(2, 10)
    segmentation, found = segments_of(stream([0, 8], 10), x)
    assert [s.tensors[0][0].tolist() for s in found] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]]
    assert all(s.old is s.continues is s.fresh is None for s in found)
    assert [s.present is None for s in found] == [True, True, False]
    assert segmentation.end.tolist() == [10, 18]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 6])
def test_a_single_token_takes_one_slot(start):
    segmentation, (segment,) = segments_of(stream([start], 1), torch.tensor([[7]]))
    assert segment.slots.tolist() == [[start % SIZE]]
    assert segment.tensors[0].tolist() == [[7]]
    assert segment.continues is not None
    assert segment.continues.tolist() == [start % SIZE > 0]
    kept = torch.arange(10, 14).view(1, SIZE, 1)
    merged = segment.merge(kept, torch.tensor([[[7]]]))
    expected = [10, 11, 12, 13]
    expected[start % SIZE] = 7
    assert merged.flatten().tolist() == expected
    assert segmentation.end.tolist() == [start + 1]


def test_a_segment_that_an_earlier_call_opened_goes_on():
    x = torch.arange(1, 7).expand(2, 6)
    segmentation, found = segments_of(stream([3, 5], 6), x)
    assert [s.tensors[0].tolist() for s in found] == [
        [[0, 0, 0, 1], [0, 0, 0, 0]],
        [[2, 3, 4, 5], [0, 1, 2, 3]],
        [[6, 0, 0, 0], [4, 5, 6, 0]],
    ]
    assert [s.old is not None for s in found] == [True, True, False]
    assert found[0].old is not None
    assert found[0].old.tolist() == [[True, True, True, False], [False] * 4]
    assert found[1].continues is not None
    assert found[1].continues.tolist() == [False, True]
    assert segmentation.end.tolist() == [9, 11]
    assert torch.equal(segmentation.restore([s.tensors[0] for s in found]), x)


def test_outputs_go_back_in_order_with_pauses_and_documents():
    reset = torch.zeros(3, 11, dtype=torch.bool)
    reset[0, [2, 9]] = reset[2, 0] = True
    given = stream([2, 0, 7], 11, present=[11, 0, 5], reset=reset)
    x = torch.randn(3, 11, 5)
    segmentation, found = segments_of(given, x, given.position)
    present = torch.arange(11) < torch.tensor([[11], [0], [5]])
    assert torch.equal(segmentation.restore([s.tensors[0] for s in found]), x * present.unsqueeze(-1))
    assert segmentation.end.tolist() == [2, 0, 5]
    for segment in found:  # every token is in the slot of its position
        tokens = segment.present if segment.present is not None else torch.ones(3, SIZE, dtype=torch.bool)
        slots = segment.slots.expand(3, SIZE)
        assert torch.equal(segment.tensors[1][tokens] % SIZE, slots[tokens])
    begun = sum(int(s.fresh.sum()) for s in found if s.fresh is not None)
    assert begun == 3


def test_slots_beyond_the_fill_are_cleared():
    x = torch.ones(3, SIZE, 2, 5)
    segmentation = Segmentation(stream([0, 1, 2], 6), SIZE, None)  # ends at 6, 7 and 8: fills of 2, 3 and none
    kept = segmentation.open_slots(x)
    assert kept[:, :, 0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
