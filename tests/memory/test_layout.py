"""Where each token goes, against counting by hand."""

import pytest
import torch
from torch import Tensor

from titans.memory.layout import Layout, compact, document_positions, layout, take

CALLS = [  # start positions, length, unit, with mask, with resets
    ([0, 0], 8, 4, False, False),
    ([0, 0], 9, 4, False, False),
    ([4, 8], 6, 4, False, False),
    ([0, 3], 1, 4, False, False),
    ([2, 7], 13, 4, False, False),
    ([0, 5], 20, 4, True, False),
    ([1, 6], 20, 4, False, True),
    ([3, 0], 40, 4, True, True),
    ([0, 0], 11, 1, True, True),
    ([5, 0], 3, 16, True, True),
]


def flags(length: int, share: float) -> Tensor:
    return torch.rand(2, length) < share


def by_hand(start: int, length: int, unit: int, mask: list[bool], reset: list[bool]) -> tuple[list[tuple], int]:
    """(token, round counted from the row's first, slot) of every present token, and the end."""
    position, placed = start, []
    round_ = 0 if start % unit else -1
    for t in range(length):
        if not mask[t]:
            continue
        if reset[t]:
            position = 0
        if position % unit == 0:
            round_ += 1
        placed.append((t, round_, position % unit))
        position += 1
    return placed, position


@pytest.fixture(params=["asked", "unasked"])
def asked(request, monkeypatch) -> bool:
    """Whether tensors may be looked at, or are treated as an accelerator's."""
    if request.param == "unasked":
        monkeypatch.setattr("titans.memory.layout.may_ask", lambda x: False)
    return request.param == "asked"


@pytest.mark.parametrize(("starts", "length", "unit", "masked", "resets"), CALLS)
def test_every_token_is_in_the_slot_of_its_position(asked, starts, length, unit, masked, resets):
    mask, reset = flags(length, 0.6) if masked else None, flags(length, 0.2) if resets else None
    plan = layout(torch.tensor(starts), length, unit, mask, reset)
    numbers = torch.arange(1, length + 1).expand(2, length)
    slots = plan.arrange(numbers)
    assert slots.shape == (plan.num_rounds, 2, unit)
    for b, start in enumerate(starts):
        row_mask = [True] * length if mask is None else mask[b].tolist()
        row_reset = [False] * length if reset is None else reset[b].tolist()
        placed, end = by_hand(start, length, unit, row_mask, row_reset)
        used = max((r for _, r, _ in placed), default=0) + 1
        first = plan.num_rounds - used
        expected = torch.zeros(plan.num_rounds, unit, dtype=torch.int64)
        for token, round_, slot in placed:
            expected[first + round_, slot] = token + 1
        assert torch.equal(slots[:, b], expected)
        assert plan.end[b] == end
        fill = start % unit
        old = torch.zeros(plan.num_rounds, unit, dtype=torch.bool)
        old[first, :fill] = True
        assert torch.equal(torch.zeros_like(old) if plan.old is None else plan.old[:, b], old)
        assert torch.equal(plan.full[:, b], ((expected > 0) | old).all(-1))
        begins = {first + r for t, r, _ in placed if row_reset[t]}
        fresh = [False] * plan.num_rounds if plan.fresh is None else plan.fresh[:, b].tolist()
        assert {r for r, is_fresh in enumerate(fresh) if is_fresh} == begins
    present = torch.ones(2, length, dtype=torch.bool) if mask is None else mask
    assert torch.equal(plan.restore(slots), numbers * present)
    check_lists(plan, asked)


def check_lists(plan: Layout, asked: bool) -> None:
    """What may be so is said to be so; if it may be asked, nothing else is."""
    old = torch.zeros_like(plan.full) if plan.old is None else plan.old.any(-1)
    fresh = torch.zeros_like(plan.full) if plan.fresh is None else plan.fresh
    said = torch.tensor([plan.any_full, plan.any_old, plan.any_fresh, [not x for x in plan.all_full]])
    true = torch.stack([plan.full, old, fresh, ~plan.full]).any(-1)
    assert torch.equal(said, true) if asked else (said >= true).all()


@pytest.mark.parametrize(("start", "length"), [(0, 8), (0, 9), (8, 3), (3, 1), (3, 5), (6, 21), (3, 0)])
def test_a_known_position_is_laid_out_as_if_it_were_asked_for(monkeypatch, start, length):
    position = torch.tensor([start, start])
    expected = layout(position, length, 4, None, None)
    monkeypatch.setattr("titans.memory.layout.may_ask", lambda x: False)
    plan = layout(position, length, 4, None, None, start)
    assert plan.num_rounds == expected.num_rounds
    assert (plan.source is None, plan.old is None) == (expected.source is None, expected.old is None)
    numbers = torch.arange(1, length + 1).expand(2, length)
    assert torch.equal(plan.arrange(numbers), expected.arrange(numbers))
    assert plan.known_end == start + length
    check_lists(plan, asked=False)


def test_what_masks_and_resets_do_to_a_position_is_not_known():
    position, on = torch.tensor([4]), torch.ones(1, 6, dtype=torch.bool)
    assert layout(position, 6, 4, on, None, 4).known_end is None
    assert layout(position, 6, 4, None, on, 4).known_end is None


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_go_where_the_values_came_from(masked):
    mask = flags(10, 0.6) if masked else None
    plan = layout(torch.tensor([0, 3]), 10, 4, mask, None)
    x = torch.randn(2, 10, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(plan.arrange, x)
    slots = plan.arrange(x).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda slots: plan.restore(slots), slots)


def test_arrange_and_restore_keep_further_axes():
    x = torch.randn(2, 10, 3, 5)
    plan = layout(torch.tensor([0, 3]), 10, 4, None, None)
    assert torch.equal(plan.restore(plan.arrange(x)), x)


def test_a_row_without_tokens_stays_where_it_is():
    mask = torch.tensor([[True] * 5, [False] * 5])
    plan = layout(torch.tensor([0, 6]), 5, 4, mask, None)
    assert plan.end.tolist() == [5, 6]
    assert (plan.arrange(torch.ones(2, 5))[:, 1] == 0).all()


def test_document_positions():
    mask = torch.tensor([[True, False, True, True, True, True]])
    reset = torch.tensor([[False, False, False, True, False, True]])
    start = torch.tensor([7])
    assert document_positions(start, 6, None, None).tolist() == [[7, 8, 9, 10, 11, 12]]
    assert document_positions(start, 6, None, reset).tolist() == [[7, 8, 9, 0, 1, 0]]
    assert document_positions(start, 6, mask, None)[mask].tolist() == [7, 8, 9, 10, 11]
    assert document_positions(start, 6, mask, reset)[mask].tolist() == [7, 8, 0, 1, 0]


def test_compact_moves_present_tokens_to_the_left_and_back():
    mask = torch.tensor([[False, True, False, True, True], [True, True, True, True, True], [False] * 5])
    x = torch.arange(15).view(3, 5)
    source, target, count = compact(mask)
    assert count.tolist() == [3, 5, 0]
    packed = take(x, source)
    assert packed[0, :3].tolist() == [1, 3, 4]
    assert torch.equal(take(packed, target)[mask], x[mask])


def test_take():
    x = torch.randn(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(take(x, index), torch.stack([x[0, [4, 0]], x[1, [1, 1]]]))
