import itertools

import numpy as np
import pytest
import torch

from titans.data.batches import IGNORED, DocumentBatches, MixedBatches
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.tasks import comparison_keys as module
from titans.tasks.comparison_keys import ANSWER_WEIGHT, KEY_DIGITS, QUESTION, PassKeyBatches, encode, haystack, recall
from titans.tasks.filler import Filler


class Text:
    """A document of one repeated letter."""

    def __init__(self, letter: str, length: int) -> None:
        self.name, self._tokens = letter, np.full(length, ord(letter), np.int64)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self._tokens[start:stop]


DOCUMENTS = [Text("a", 50), Text("b", 5000)]


def batches(seed: int = 0) -> PassKeyBatches:
    return PassKeyBatches(DOCUMENTS, 3, 700, seed)


def documents_of(batch) -> list[tuple[str, torch.Tensor]]:
    """Every whole document of a batch as text, with the weights of its labels."""
    assert batch.weights is not None
    found = []
    for tokens, reset, weights in zip(batch.tokens, batch.reset, batch.weights, strict=True):
        starts = reset.nonzero().flatten().tolist()
        for start, stop in itertools.pairwise(starts):
            found.append((bytes(tokens[start:stop].tolist()).decode(), weights[start:stop]))
    return found


def test_every_question_is_answered_with_the_key_that_was_stated():
    documents = documents_of(batches().next())
    assert documents
    for text, _ in documents:
        keys = [part[:KEY_DIGITS] for part in text.split(QUESTION)[1:]]
        assert len(keys) >= 2
        assert len(set(keys)) == 1
        assert keys[0].isdigit()


def test_exactly_the_answers_count_more():
    for text, weights in documents_of(batches().next()):
        questions = len(text.split(QUESTION)) - 2  # the first one states the key
        assert int((weights == ANSWER_WEIGHT).sum()) == questions * KEY_DIGITS
        place = text.index(QUESTION, text.index(QUESTION) + 1) + len(QUESTION)
        assert (weights[place - 1 : place - 1 + KEY_DIGITS] == ANSWER_WEIGHT).all()


def test_no_label_crosses_into_the_next_document():
    batch = batches().next()
    assert (batch.labels[:, :-1][batch.reset[:, 1:]] == IGNORED).all()


def test_batches_depend_on_seed_and_step_alone():
    one, other = batches(), batches()
    one.next()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.next().tokens, other.next().tokens)
    assert not torch.equal(batches(1).next().tokens, batches(2).next().tokens)


@pytest.mark.parametrize(("depth", "before"), [(0.0, 0), (0.25, 300), (0.5, 900)])
def test_haystack_puts_the_key_at_its_depth_and_distance(depth, before):
    stack = haystack(Filler(DOCUMENTS), 900, depth, np.random.default_rng(0))
    text = bytes(stack.tokens.tolist()).decode()
    key = text.split(QUESTION)[1][:KEY_DIGITS]
    assert text.index(QUESTION) == before
    assert len(text) == before + len(QUESTION) + KEY_DIGITS + 1 + 900
    assert (stack.answer == encode(QUESTION + key)).all()


def test_impossible_depth_and_distance_are_refused():
    with pytest.raises(ValueError, match="depth is 1"):
        haystack(Filler(DOCUMENTS), 10, 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="distance is -1"):
        haystack(Filler(DOCUMENTS), -1, 0.0, np.random.default_rng(0))


def test_mixed_batches_stack_rows_and_resume():
    def mixed() -> MixedBatches:
        return MixedBatches([DocumentBatches(DOCUMENTS, 2, 700), batches()])

    source = mixed()
    first = source.next()
    assert first.tokens.shape == (5, 700)
    assert first.weights is not None
    assert (first.weights[:2] == 1).all()
    resumed = mixed()
    resumed.load_state_dict(source.state_dict())
    assert torch.equal(source.next().tokens, resumed.next().tokens)


def test_a_document_longer_than_the_window_goes_on_in_the_next_batch():
    source = PassKeyBatches(DOCUMENTS, 2, 64, seed=3, shortest=200, longest=2000)
    windows = [source.next() for _ in range(20)]
    tokens, labels, reset = (
        torch.cat([getattr(w, name) for w in windows], 1) for name in ("tokens", "labels", "reset")
    )
    assert 0 < int(reset.sum()) < 20
    for row in range(2):
        going_on = ~reset[row, 1:]
        assert torch.equal(labels[row, :-1][going_on], tokens[row, 1:][going_on])
        assert (labels[row, :-1][~going_on] == IGNORED).all()


def test_goes_on_in_the_middle_of_a_document():
    source = PassKeyBatches(DOCUMENTS, 2, 64, seed=3)
    for _ in range(5):
        source.next()
    other = PassKeyBatches(DOCUMENTS, 2, 64, seed=3)
    other.load_state_dict(source.state_dict())
    for _ in range(3):
        a, b = source.next(), other.next()
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.labels, b.labels)


def test_every_octave_of_distance_is_asked_about_as_often():
    source = PassKeyBatches(DOCUMENTS, 1, 512, seed=0, shortest=4000, longest=4096)
    gaps = []
    for number in range(60):
        document, answers = source._document(0, number)
        places = [i for i in range(len(document)) if answers[i] and not answers[i - 1]]
        statement = bytes(document.astype("uint8")).index(encode(QUESTION).astype("uint8").tobytes())
        gaps += [b - a for a, b in itertools.pairwise([statement, *places])]
    octaves = np.bincount(np.log2(np.array(gaps)).astype(int), minlength=11)[5:11]  # 32 ... 2047
    assert octaves.min() > 0.4 * octaves.max()


class Oracle(torch.nn.Module):
    """Remembers the first key it reads as its state and answers with it."""

    def __init__(self, wrong_digit: bool = False) -> None:
        super().__init__()
        self.wrong_digit = wrong_digit

    def forward(self, tokens, state=None, logits_to_keep=0):
        logits = torch.zeros(*tokens.shape, 256)
        if state is None:
            state = []
            for row in tokens:
                text = bytes(row.tolist()).decode()
                state.append(text.split(QUESTION)[1][:KEY_DIGITS])
            return logits, state
        if tokens.shape[1] == len(QUESTION) + KEY_DIGITS - 1:
            for row, key in enumerate(state):
                for digit in range(KEY_DIGITS):
                    said = ord(key[digit]) if not (self.wrong_digit and digit == 4) else ord("x")
                    logits[row, len(QUESTION) - 1 + digit, said] = 1
        return logits, state


def test_a_model_that_remembers_recalls_everything_and_one_wrong_digit_is_wrong():
    assert recall(Oracle(), [DOCUMENTS[1]], 500, 0.0, 4, piece=100) == 1.0  # pyright: ignore[reportArgumentType]
    assert recall(Oracle(True), [DOCUMENTS[1]], 500, 0.0, 4, piece=100) == 0.0  # pyright: ignore[reportArgumentType]


def test_an_untrained_model_is_at_chance():
    memory = MemoryConfig(num_heads=1, depth=1)
    model = TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=1, window_size=16, memory=memory))
    assert recall(model, [DOCUMENTS[1]], 300, 0.5, 2) == 0.0


def test_the_seed_decides_which_keys_are_asked_for(monkeypatch):
    drawn, original = [], module.haystack
    monkeypatch.setattr(module, "haystack", lambda *given: drawn.append(original(*given)) or drawn[-1])
    model = TitansLM(TitansConfig(dim=8, num_layers=1, num_heads=1, memory=MemoryConfig(num_heads=1)))
    for seed in (1, 2, 1):
        recall(model, DOCUMENTS, 20, 0.5, 1, seed)
    keys = [bytes(stack.answer.tolist()) for stack in drawn]
    assert keys[0] == keys[2] != keys[1]
