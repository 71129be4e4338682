import pytest
import torch

from titans.memory.trace import MemoryTrace
from titans.report.inspection import QUANTITIES, inspection


@pytest.fixture
def traces() -> dict[int, MemoryTrace]:
    """Of 5 tokens, 3 heads, 2 memory layers, in the blocks 1 and 4."""
    return {block: MemoryTrace(*(torch.rand(5, 3, 2) for _ in QUANTITIES)) for block in (1, 4)}


def test_every_head_of_every_block_has_its_numbers(traces):
    found = inspection(traces, ["a", "b", "", "c", "d"])
    assert [(head.block, head.head) for head in found.heads] == [(1, 0), (1, 1), (1, 2), (4, 0), (4, 1), (4, 2)]
    for head in found.heads:
        expected = traces[head.block].by_head()
        for name in QUANTITIES:
            assert getattr(head, name) == getattr(expected, name)[:, head.head].tolist()


def test_the_first_tokens_are_cut_everywhere(traces):
    found = inspection(traces, ["a", "b", "", "c", "d"])
    first = found.first(2)
    assert first.text == ["a", "b"]
    for head, whole in zip(first.heads, found.heads, strict=True):
        assert (head.block, head.head) == (whole.block, whole.head)
        assert all(getattr(head, name) == getattr(whole, name)[:2] for name in QUANTITIES)
    assert found.first(9) == found
