"""Needles: RULER's wording, exactly as long as asked for, hidden where they should be."""

import re

import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.data.pieces import Encoded, encoded, learn_pieces
from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError
from titans.tasks import needles as module
from titans.tasks.needles import KINDS, NOISE, Needles, needles, noise
from titans.tasks.sample import Mixed

NEEDLE = re.compile(r"One of the special magic (?:number|uuid)s for (\S+) is: ([\w-]+)\.")
QUESTION = re.compile(r"The special magic (?:number|uuid)s? for (\S+) mentioned in the provided text (?:is|are)(.*)$")


@pytest.fixture(params=KINDS)
def task(request, documents):
    return needles(request.param, documents)


def texts(task, length, random):
    """A sample's text, with its last label, and its answer."""
    piece = task.sample(length, random).whole()
    answer = piece.labels[piece.labels != IGNORED]
    decode = ByteTokenizer().decode
    return decode([*piece.tokens, piece.labels[-1]]), decode(answer)


def test_exactly_as_long_as_asked_for(task, random):
    for length in (task.shortest, task.shortest + 1, 1000, 5000):
        for _ in range(20):
            assert len(task.sample(length, random)) == length


def test_what_is_asked_for_was_stated(task, random):
    for _ in range(20):
        text, answer = texts(task, 1500, random)
        stated = NEEDLE.findall(text)
        key, asked = QUESTION.search(text).groups()
        values = [value for other, value in stated if other == key]
        assert asked == answer
        assert answer == " " + ", ".join(values) + "."
        assert len(stated) == (4 if task.kind in ("mk", "mv") else 1)
        assert len({key for key, _ in stated}) == (4 if task.kind == "mk" else 1)
        assert text.startswith(("A special magic ", "Some special magic numbers are"))


@pytest.mark.parametrize(
    ("kind", "value"), [("pk", r"[1-9]\d{6}"), ("n", r"[1-9]\d{6}"), ("w", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-.{12}")]
)
def test_values(kind, value, documents, random):
    _, answer = texts(needles(kind, documents), 1500, random)
    assert re.fullmatch(f" {value}\\.", answer)


def test_the_hay(documents, random):
    text, _ = texts(needles("pk", []), 1500, random)
    assert text.count("The sky is blue. The sun is yellow.") > 8
    text, _ = texts(needles("n", documents), 1500, random)
    assert "sky" not in text


@pytest.mark.parametrize("kind", ["n", "w", "mk", "mv"])
def test_needles_in_text_lie_between_sentences(kind, random):
    """In the last one, which is cut to fit, they may lie anywhere."""
    book = " ".join(f"Sentence {number} is over." for number in range(1000))
    task = needles(kind, [Encoded("book", ByteTokenizer().encode(book))])
    stated = re.compile(r" One of the special magic \w+ for \S+ is: [\w-]+\.")
    for _ in range(20):
        text, _ = texts(task, 3000, random)
        hay = text[text.index("\n") + 1 : text.rindex("\nWhat ")]
        assert stated.sub("", hay) in book
        for needle in stated.finditer(hay):
            before, after = (stated.sub("", part) for part in (hay[: needle.start()], hay[needle.end() :]))
            assert before.endswith("over.") or "over." not in after


def test_pass_keys_are_a_line_between_lines_of_noise(random):
    """As RULER joins its sentences; only where the text is cut to its length a line is not whole."""
    for depth in (None, 0.0, 0.37, 1.0):
        for _ in range(20):
            text, answer = texts(needles("pk", [], depth=depth), 1500, random)
            text = text[: text.rindex("\nWhat is")]
            needle = re.search(rf"One of the special magic numbers for \S+ is:{re.escape(answer)}\n", text)[0]
            _, first, *lines = text.splitlines(keepends=True)
            assert set(lines[:-1]) <= {NOISE, needle}
            assert (first == needle) or NOISE.endswith(first)
            assert (lines[-1] == needle) or NOISE.startswith(lines[-1])


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_depth(depth, documents, random):
    for kind in ("pk", "mk"):
        filler = noise() if kind == "pk" else needles("n", documents).filler
        text, answer = texts(Needles(kind=kind, filler=filler, depth=depth), 20_000, random)
        place = text.index(f"is:{answer}") / text.rindex("\nWhat is")
        assert place == pytest.approx(depth, abs=0.03)


def test_any_depth_comes_up(task, random):
    places = []
    for _ in range(60):
        text, _ = texts(task, 3000, random)
        places += [match.start() / len(text) for match in NEEDLE.finditer(text)]
    assert min(places) < 0.15
    assert max(places) > 0.75


def test_equal_seeds_give_equal_samples(task):
    one, two = (task.sample(900, np.random.default_rng(5)).whole() for _ in range(2))
    assert np.array_equal(one.tokens, two.tokens)
    other = task.sample(900, np.random.default_rng(6)).whole()
    assert not np.array_equal(one.tokens, other.tokens)


def test_too_short(task, random):
    with pytest.raises(TitansError, match=rf"100 tokens are too few .*{task.kind}.* it takes {task.shortest}"):
        task.sample(100, random)


def test_impossible_settings(documents):
    with pytest.raises(ValueError, match=r"Needles\.kind is 'x'; it must be one of pk, n, w, mk, mv"):
        needles("x", documents)
    with pytest.raises(ValueError, match=r"Needles\.depth is 1\.5; it must be from 0 to 1"):
        Needles(kind="pk", filler=noise(), depth=1.5)


def test_two_million_tokens_are_never_there_at_once(random):
    sample = needles("pk", []).sample(2_097_152, random)
    assert sum(part.tokens.nbytes for part in sample.parts if hasattr(part, "tokens")) < 10_000
    count = asked = 0
    for piece in sample.pieces(65_536):
        count, asked = count + len(piece), asked + int((piece.labels != IGNORED).sum())
    assert (count, asked) == (2_097_152, 9)


def test_asked_again(documents, random):
    task = needles("w", documents, again=0.9)
    counts = []
    for _ in range(60):
        sample = task.sample(4000, random)
        assert len(sample) == 4000
        piece = sample.whole()
        text = ByteTokenizer().decode([*piece.tokens, piece.labels[-1]])
        (key, value), *more = NEEDLE.findall(text)
        answers = text.count(f"The special magic uuid for {key} mentioned in the provided text is {value}.")
        assert not more
        assert (piece.labels != IGNORED).sum() == 38 * answers
        counts.append(answers)
    assert min(counts) == 1
    assert max(counts) > 3


def test_any_of_several_keys_is_asked_for_again(documents, random):
    """With its own value: what came last says nothing about what comes next."""
    task, orders = needles("mk", documents, again=0.9), set()
    for _ in range(40):
        piece = task.sample(4000, random).whole()
        assert len(piece) == 4000
        text = ByteTokenizer().decode([*piece.tokens, piece.labels[-1]])
        told = NEEDLE.findall(text)
        answers = re.findall(r"The special magic number for (\S+) mentioned in the provided text is (\d+)\.", text)
        assert len(told) == 4
        assert set(answers) <= set(told)
        assert (piece.labels != IGNORED).sum() == 9 * len(answers)
        orders.add(tuple(told.index(answer) for answer in answers))
    assert {len(set(order)) for order in orders} >= {1, 2, 3}


def test_mixed_tasks_come_up_alike(documents, random):
    mixed = Mixed(tuple(needles(kind, documents) for kind in ("pk", "w")))
    assert mixed.shortest == needles("w", documents).shortest
    assert mixed.vocab_size == 256
    lengths = [(mixed.sample(1000, random).whole().labels != IGNORED).sum() for _ in range(200)]
    assert 70 < lengths.count(9) < 130
    assert lengths.count(9) + lengths.count(38) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_sample_takes_any_needle_in_pieces_of_words(kind, documents, random):
    """In pieces words differ in length, and a number's are not those of seven noughts."""
    tokenizer = learn_pieces(["A special magic number is: the special magic uuid. " * 3, "loud-timber 0000000"], 290)
    task = needles(kind, encoded(documents, tokenizer), tokenizer)
    for _ in range(100):
        assert len(task.sample(task.shortest, random)) == task.shortest


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_sample_has_no_hay(kind, documents, random, monkeypatch):
    monkeypatch.setattr(module, "_ADJECTIVES", ["old"] * 4)
    monkeypatch.setattr(module, "_NOUNS", ["ox"])
    task = needles(kind, documents)
    assert len(task.sample(task.shortest, random)) == task.shortest
    with pytest.raises(TitansError, match="too few"):
        task.sample(task.shortest - 1, random)


def test_a_depth_is_of_the_needle_that_is_asked_for(documents, random):
    task, others = Needles(kind="mk", filler=needles("n", documents).filler, depth=0.0), []
    for _ in range(20):
        text, _ = texts(task, 5000, random)
        found = [(match[1], match.start() / len(text)) for match in NEEDLE.finditer(text)]
        assert found[0][0] == QUESTION.search(text)[1]
        others += [place for _, place in found[1:]]
    assert np.histogram(others, 3, (0, 1))[0].min() > 10


def test_keys_of_a_sample_differ(documents, monkeypatch):
    monkeypatch.setattr(module, "_NOUNS", module._NOUNS[:2])
    monkeypatch.setattr(module, "_ADJECTIVES", module._ADJECTIVES[:2])
    for seed in range(20):
        text, _ = texts(needles("mk", documents), 2000, np.random.default_rng(seed))
        assert len({key for key, _ in NEEDLE.findall(text)}) == 4
