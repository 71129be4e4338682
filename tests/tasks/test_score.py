"""Scores: of a model that knows every answer, of one that knows half of them, and of one that reads."""

import numpy as np
import pytest
import torch

from titans.data.batches import IGNORED
from titans.errors import NonFiniteError
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.tasks.needles import needles
from titans.tasks.sample import Piece, Sample
from titans.tasks.score import score


class Oracle(torch.nn.Module):
    """Says the tokens that come next; knows them because it is told the samples. Ends with a full stop."""

    def __init__(self, wrong=(), spoilt=False):
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.wrong, self.spoilt, self.calls, self.kept = set(wrong), spoilt, [], []

    def forward(self, tokens, state=None, reset=None, logits_to_keep=0):
        self.calls.append((tuple(tokens.shape), state))
        self.kept.append(logits_to_keep)
        following = torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), ord("."))], 1)
        logits = torch.nn.functional.one_hot(following, 256).float()
        for row in self.wrong:
            logits[row, -1] = 0
        logits = logits / 0 if self.spoilt else logits  # 0 / 0 and 1 / 0
        return logits[:, -logits_to_keep:], (0 if state is None else state) + tokens.shape[1]


class Echo:
    """Asks for the fourth of the tokens, and for the eighth in every second sample."""

    vocab_size, shortest = 256, 8

    def sample(self, length, random):
        tokens = random.integers(256, size=length)
        labels = np.full(length, IGNORED, np.int64)
        asked = [3, 7] if random.random() < 0.5 else [3]
        labels[asked] = tokens[np.add(asked, 1)]
        return Sample((Piece(tokens, labels),))


@pytest.fixture
def task(documents):
    return needles("n", documents)


def test_all_right(task):
    found = score(Oracle(), task, 700, 5)
    assert (found.right, found.tokens_right, found.samples, found.length) == (1.0, 1.0, 5, 700)


@pytest.mark.parametrize("option", ["samples", "batch_size", "piece"])
def test_nothing_to_ask_is_refused(option, task):
    with pytest.raises(ValueError, match=f"{option} is 0; it must be at least 1"):
        score(Oracle(), task, 700, **{"samples": 5, option: 0})


class AsLongAsItIs:
    """Facts alone: samples of length 0, each of its own length."""

    vocab_size, shortest = 256, 8

    def sample(self, length, random):
        assert length == 0
        return Echo().sample(int(random.integers(9, 20)), random)


def test_samples_of_length_0_are_read_one_at_a_time():
    model = Oracle()
    assert score(model, AsLongAsItIs(), 0, 6).right == 1.0
    assert [rows for (rows, _), _ in model.calls] == [1] * 6
    assert len({tokens for (_, tokens), _ in model.calls}) > 1


def test_what_is_no_number_is_no_answer(task):
    with pytest.raises(NonFiniteError, match="NaN or infinite logits"):
        score(Oracle(spoilt=True), task, 700, 1)


def test_one_wrong_token_makes_a_sample_wrong(task):
    found = score(Oracle(wrong=[0, 2]), task, 700, 4)
    assert found.right == 0.5
    assert found.tokens_right == pytest.approx(1 - 2 / (4 * 9))


def test_samples_are_read_side_by_side_and_in_pieces(task):
    model = Oracle()
    score(model, task, 700, 5, batch_size=2, piece=600)
    two = [((2, size), before) for size, before in ((256, None), (256, 256), (188, 512))]  # and what was read before
    assert model.calls == [*two, *two, ((1, 576), None), ((1, 124), 576)]


def test_pieces_and_batches_change_nothing(task):
    torch.manual_seed(0)
    model = TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2))
    one = score(model, task, 700, 4)
    two = score(model, task, 700, 4, batch_size=3, piece=256)
    assert one == two
    assert model.training


def test_nothing_is_predicted_before_the_first_question(task):
    model = Oracle()
    score(model, task, 700, 2, piece=800)
    assert model.kept == [1, 9]  # a piece without a question; the answer and its full stop, at the end of the last one
    assert score(Oracle(), Echo(), 10, 2).tokens_right == 1.0


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


def test_a_model_is_asked_as_it_is_used_and_goes_on_as_it_was(task):
    model, training = Oracle(), []
    model.register_forward_pre_hook(lambda *_: training.append(model.training))
    for mode in (True, False):
        model.train(mode)
        score(model, task, 700, 2)
        assert model.training == mode
    assert not any(training)
