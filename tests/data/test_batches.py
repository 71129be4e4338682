import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from titans.data.batches import IGNORED, Batch, DocumentBatches
from titans.errors import TitansError


@dataclass(frozen=True)
class Numbers:
    """A document whose tokens say where they stand: 1000 times the document, plus the place."""

    number: int
    size: int

    @property
    def name(self) -> str:
        return str(self.number)

    def __len__(self) -> int:
        return self.size

    def tokens(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.size
        return 1000 * self.number + np.arange(start, stop)


DOCUMENTS = [Numbers(i, size) for i, size in enumerate([1, 30, 8, 3, 17, 2, 9, 1, 64, 5])]


def collect(source: DocumentBatches) -> list[Batch]:
    batches = []
    while True:
        try:
            batches.append(source.next())
        except StopIteration:
            return batches


def rows(batches: list[Batch], field: str) -> list[list[int]]:
    return torch.cat([getattr(batch, field) for batch in batches], dim=1).tolist()


def test_one_epoch_reads_every_token_once_in_order_within_its_document() -> None:
    batches = collect(DocumentBatches(DOCUMENTS, 3, 8, seed=1, epochs=1))
    expected = sorted(1000 * d.number + i for d in DOCUMENTS for i in range(d.size))
    seen: list[int] = []
    for tokens, labels, reset in zip(*(rows(batches, f) for f in ("tokens", "labels", "reset")), strict=True):
        for here, (token, label, starts) in enumerate(zip(tokens, labels, reset, strict=True)):
            document, place = DOCUMENTS[token // 1000], token % 1000
            if starts and all(label == IGNORED for label in labels[here:]) and not any(tokens[here:]):
                break  # the filling after the last document
            seen.append(token)
            assert starts == (place == 0)
            assert label == (token + 1 if place + 1 < document.size else IGNORED)
            if place:
                assert tokens[here - 1] == token - 1
    assert sorted(seen) == expected


def test_a_long_document_goes_on_in_the_same_row_of_the_next_batch() -> None:
    source = DocumentBatches([Numbers(0, 20)], 1, 8, epochs=1)
    batches = collect(source)
    assert rows(batches, "tokens")[0][:20] == list(range(20))
    assert rows(batches, "labels")[0][:20] == [*range(1, 20), IGNORED]
    assert [i for i, starts in enumerate(rows(batches, "reset")[0]) if starts] == [0, 20]
    assert len(batches) == 3


def test_only_the_window_and_its_last_label_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    tokens = Numbers.tokens
    monkeypatch.setattr(Numbers, "tokens", lambda self, a, b: reads.append(b - a) or tokens(self, a, b))
    collect(DocumentBatches(DOCUMENTS, 3, 8, epochs=1))
    assert max(reads) == 9


def test_shapes_and_types() -> None:
    batch = DocumentBatches(DOCUMENTS, 3, 8).next()
    assert batch.tokens.shape == batch.labels.shape == batch.reset.shape == (3, 8)
    assert (batch.tokens.dtype, batch.labels.dtype, batch.reset.dtype) == (torch.int64, torch.int64, torch.bool)


def test_endless_batches_shuffle_anew_in_every_epoch() -> None:
    total = sum(map(len, DOCUMENTS))
    source = DocumentBatches(DOCUMENTS, 1, total, seed=3)
    first, second = source.next(), source.next()
    assert first.reset.sum() == second.reset.sum() == len(DOCUMENTS)
    assert sorted(first.tokens[0].tolist()) == sorted(second.tokens[0].tolist())
    assert not torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.tokens, DocumentBatches(DOCUMENTS, 1, total, seed=3).next().tokens)
    assert not torch.equal(first.tokens, DocumentBatches(DOCUMENTS, 1, total, seed=4).next().tokens)


@pytest.mark.parametrize("epochs", [None, 1])
@pytest.mark.parametrize("steps", [0, 1, 4, 7])
def test_a_restored_cursor_gives_the_same_batches(epochs: int | None, steps: int) -> None:
    straight = DocumentBatches(DOCUMENTS, 3, 5, seed=2, epochs=epochs)
    for _ in range(steps):
        straight.next()
    cursor = json.loads(json.dumps(straight.state_dict()))
    resumed = DocumentBatches(DOCUMENTS, 3, 5, seed=2, epochs=epochs)
    resumed.load_state_dict(cursor)
    for _ in range(40 if epochs is None else 2):
        expected, found = straight.next(), resumed.next()
        for field in ("tokens", "labels", "reset"):
            assert torch.equal(getattr(expected, field), getattr(found, field))


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"rows": [[999, 0], None]},
        {"rows": [[-1, 0], None]},
        {"rows": [[1, 30], None]},
        {"rows": [[1, -1], None]},
        {"position": -1},
        {"position": 11},
        {"epoch": -1},
    ],
)
def test_a_cursor_at_no_place_of_the_text_is_refused(change: dict) -> None:
    source = DocumentBatches(DOCUMENTS, batch_size=2, length=4)
    source.next()
    cursor = source.state_dict()
    source.load_state_dict(cursor)
    with pytest.raises(ValueError, match="its place in"):
        source.load_state_dict(cursor | change)
    assert source.state_dict() == cursor


def test_a_cursor_of_other_text_or_sizes_is_refused() -> None:
    cursor = DocumentBatches(DOCUMENTS, 3, 8, seed=2).state_dict()
    others = [
        DocumentBatches(DOCUMENTS[:-1], 3, 8, seed=2),
        DocumentBatches([*DOCUMENTS[:-1], Numbers(9, 6)], 3, 8, seed=2),
        DocumentBatches([*DOCUMENTS[:-1], Numbers(10, 5)], 3, 8, seed=2),
        DocumentBatches(DOCUMENTS, 2, 8, seed=2),
        DocumentBatches(DOCUMENTS, 3, 7, seed=2),
        DocumentBatches(DOCUMENTS, 3, 8, seed=3),
        DocumentBatches(DOCUMENTS, 3, 8, seed=2, epochs=1),
    ]
    for other in others:
        with pytest.raises(TitansError, match="not the one the checkpoint was made with"):
            other.load_state_dict(cursor)


@pytest.mark.parametrize(
    ("documents", "batch_size", "length", "message"),
    [
        ([], 1, 1, "at least one"),
        ([Numbers(0, 3), Numbers(0, 0)], 1, 1, "empty"),
        (DOCUMENTS, 0, 1, "batch_size is 0"),
        (DOCUMENTS, 1, 0, "length is 0"),
    ],
)
def test_impossible_sizes_are_refused(documents: list[Numbers], batch_size: int, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DocumentBatches(documents, batch_size, length)
