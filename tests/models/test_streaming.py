"""A stream in any pieces is the stream: through files, with padding, with packed documents, token by token."""

import pytest
import torch
from torch import Tensor

from titans.models import LMState

LENGTH = 43


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def assert_same_state(found: LMState, expected: LMState) -> None:
    assert found.config == expected.config
    assert found.tensors().keys() == expected.tensors().keys()
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def random_split(length: int) -> list[int]:
    cuts = sorted(torch.randperm(length - 1)[:5].add(1).tolist())
    return [b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True)]


def test_any_split_is_one_call_even_through_files(model, some_tokens, tmp_path):
    tokens = some_tokens(2, LENGTH)
    logits, end = model(tokens)
    # 1, 5, chunk and segment each with one less and one more, and at random.
    for steps in ([1] * LENGTH, [5] * 9, [3, 4, 5, 7, 8, 9, 7], [9, 7, 1, 16, 10], random_split(LENGTH)):
        state, pieces = None, []
        for piece in tokens.split(steps if sum(steps) == LENGTH else 5, 1):
            y, state = model(piece, state)
            if len(pieces) % 4 == 0:
                state.save(tmp_path / "state")
                state = LMState.load(tmp_path / "state", model)
            pieces.append(y)
        assert_same(torch.cat(pieces, 1), logits)
        assert_same_state(state, end)


def test_splits_with_absent_tokens_and_documents(model, some_tokens):
    tokens = some_tokens(3, LENGTH)
    mask, reset = torch.rand(3, LENGTH) < 0.7, torch.rand(3, LENGTH) < 0.1
    logits, end = model(tokens, mask=mask, reset=reset)
    for steps in ([1, 5, 3, 4, 5, 7, 8, 9, 1], random_split(LENGTH)):
        state, pieces, t = None, [], 0
        for step in steps:
            piece = slice(t, t + step)
            y, state = model(tokens[:, piece], state, mask[:, piece], reset[:, piece])
            pieces.append(y)
            t += step
        assert t == LENGTH
        assert_same(torch.cat(pieces, 1)[mask], logits[mask])
        assert_same_state(state, end)


def test_absent_tokens_are_absent_and_documents_are_alone(model, some_tokens, documents):
    tokens = some_tokens(2, LENGTH)
    mask, reset = torch.rand(2, LENGTH) < 0.7, torch.rand(2, LENGTH) < 0.1
    logits, state = model(tokens, mask=mask, reset=reset)
    more = some_tokens(2, 9)
    continued, _ = model(more, state)
    for row in range(2):
        alone = None
        for document in documents(mask[row], reset[row]):
            y, alone = model(tokens[row : row + 1, document])
            assert_same(logits[row, document], y[0])
        assert_same(continued[row], model(more[row : row + 1], alone)[0][0])


@pytest.mark.parametrize("pieces", [[32], [8, 8, 8, 8], [16, 16], [5, 11, 7, 9]])
def test_a_row_that_is_silent_from_a_segments_end_on_stays_as_it_was(model, some_tokens, pieces):
    tokens, lengths = some_tokens(4, 32), [32, 8, 16, 11]
    mask = torch.arange(32) < torch.tensor(lengths)[:, None]
    state = None
    for piece, present in zip(tokens.split(pieces, 1), mask.split(pieces, 1), strict=True):
        _, state = model(piece, state, present)
    for row, length in enumerate(lengths):
        _, alone = model(tokens[row : row + 1, :length])
        for name, tensor in alone.tensors().items():
            assert_same(state.tensors()[name][row], tensor[0])


@pytest.mark.parametrize("prompt", [3, 7, 8, 9, 16, 21])
def test_cached_steps_are_the_full_forward(model, some_tokens, prompt):
    """Prompts shorter than, equal to and longer than a segment, and no multiples of it."""
    tokens = some_tokens(2, prompt + 12)
    expected, _ = model(tokens)
    logits, state = model(tokens[:, :prompt])
    assert_same(logits, expected[:, :prompt])
    for t in range(prompt, prompt + 12):
        logits, state = model(tokens[:, t : t + 1], state)
        assert_same(logits[:, 0], expected[:, t])


def test_a_left_padded_batch_is_each_row_alone(model, some_tokens):
    rows = [some_tokens(1, length) for length in (3, 8, 13, 20)]
    padded = torch.cat([torch.nn.functional.pad(row, (20 - row.shape[1], 0)) for row in rows])
    mask = torch.arange(20) >= torch.tensor([[20 - row.shape[1]] for row in rows])
    logits, state = model(padded, mask=mask)
    more = some_tokens(4, 6)
    for r, row in enumerate(rows):
        expected, alone = model(row)
        assert_same(logits[r, 20 - row.shape[1] :], expected[0])
        assert_same_state(state.select(torch.tensor([r])), alone)
    for t in range(6):  # and on from there, one token at a time
        logits, state = model(more[:, t : t + 1], state)
    for r, row in enumerate(rows):
        assert_same(logits[r, 0], model(torch.cat([row, more[r : r + 1]], 1))[0][0, -1])


def test_a_row_that_pauses_stays_as_it_is(model, some_tokens):
    _, state = model(some_tokens(2, 11))
    mask = torch.tensor([[True] * 6, [False] * 6])
    _, after = model(some_tokens(2, 6), state, mask)
    assert_same_state(after.select(torch.tensor([1])), state.select(torch.tensor([1])))
    assert after.position.tolist() == [17, 11]


def test_rows_of_a_state_can_be_regrouped(model, some_tokens):
    _, state = model(some_tokens(3, 11))
    more = some_tokens(1, 9)
    expected, _ = model(more.expand(3, -1), state)
    picked = torch.tensor([2, 0, 2])
    logits, _ = model(more.expand(3, -1), state.select(picked))
    assert_same(logits, expected[picked])


def test_a_new_document_forgets_everything(model, some_tokens):
    _, state = model(some_tokens(1, 19))
    tokens = some_tokens(1, 14)
    first = torch.arange(14).unsqueeze(0) == 0
    logits, after = model(tokens, state, reset=first)
    expected, alone = model(tokens)
    assert_same(logits, expected)
    assert_same_state(after, alone)
