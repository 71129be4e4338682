"""Scores: of a model that knows every answer, of one that knows half of them, and of one that reads."""

import pytest
import torch

from titans.data.batches import IGNORED
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.tasks.needles import needles
from titans.tasks.score import score


class Oracle(torch.nn.Module):
    """Says the tokens that come next; knows them because it is told the samples. Ends with a full stop."""

    def __init__(self, wrong=()):
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.wrong, self.calls = set(wrong), []

    def forward(self, tokens, state=None, reset=None):
        self.calls.append((tuple(tokens.shape), state))
        following = torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), ord("."))], 1)
        logits = torch.nn.functional.one_hot(following, 256).float()
        for row in self.wrong:
            logits[row, -1] = 0
        return logits, (0 if state is None else state) + tokens.shape[1]


@pytest.fixture
def task(documents):
    return needles("n", documents)


def test_all_right(task):
    found = score(Oracle(), task, 700, 5)
    assert (found.right, found.tokens_right, found.samples, found.length) == (1.0, 1.0, 5, 700)


def test_one_wrong_token_makes_a_sample_wrong(task):
    found = score(Oracle(wrong=[0, 2]), task, 700, 4)
    assert found.right == 0.5
    assert found.tokens_right == pytest.approx(1 - 2 / (4 * 9))


def test_samples_are_read_side_by_side_and_in_pieces(task):
    model = Oracle()
    score(model, task, 700, 5, batch_size=2, piece=300)
    pieces = ((300, None), (300, 300), (100, 600))  # and what was read before
    assert model.calls == [((rows, size), before) for rows in (2, 2, 1) for size, before in pieces]


def test_pieces_and_batches_change_nothing(task):
    torch.manual_seed(0)
    model = TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2))
    one = score(model, task, 700, 4)
    two = score(model, task, 700, 4, batch_size=3, piece=256)
    assert one == two
    assert model.training


def test_the_seed_decides(task, monkeypatch):
    seen = []
    original = type(task).sample

    def watched(self, length, random):
        sample = original(self, length, random)
        seen.append(sample.whole().tokens.tobytes())
        return sample

    monkeypatch.setattr(type(task), "sample", watched)
    for seed in (0, 0, 1):
        score(Oracle(), task, 700, 2, seed=seed)
    assert seen[:2] == seen[2:4] != seen[4:]
    assert IGNORED == -100
