import re

import numpy as np
import pytest

from titans.data.pieces import Encoded
from titans.data.tokenizer import ByteTokenizer
from titans.tasks.filler import Filler
from titans.tasks.sample import Stretch
from titans.tasks.sentences import background, next_end

TEXT = (
    "Mr. J. Smith came, saw? and went. \u201cWhy?\u201d She laughed!\n\n"
    "At 3.14 it \u2013 e.g. the caf\u00e9 \u2013 closed. Done."
)
ENDS = ["and went.", "\u201cWhy?\u201d", "laughed!", "closed."]


class Words:
    """Tokens that are words with the space before them, spaces, or single marks."""

    vocab_size = 100

    def __init__(self) -> None:
        self.known: list[str] = []

    def encode(self, text: str) -> np.ndarray:
        parts = re.findall(r" ?\w+|\s+|[^\w\s]+", text)
        self.known += [part for part in dict.fromkeys(parts) if part not in self.known]
        return np.array([self.known.index(part) for part in parts], np.int64)

    def decode(self, tokens) -> str:
        return "".join(self.known[token] for token in tokens)


def text_of(stretches: list[Stretch], tokenizer) -> str:
    return tokenizer.decode(np.concatenate([stretch.read(0, len(stretch)).tokens for stretch in stretches]))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), Words()])
def test_sentences_end_after_their_mark_and_nowhere_else(tokenizer):
    tokens = tokenizer.encode(TEXT)
    stretches = [Stretch(Encoded("text", tokens), 0, len(tokens))]
    places = sorted({next_end(stretches, at, tokenizer) for at in range(len(tokens))})
    texts = [tokenizer.decode(tokens[:place]) for place in places]
    assert [text[-len(end) :] for text, end in zip(texts, ENDS, strict=False)] == ENDS
    # Where the text ends nothing follows, so that no sentence does.
    assert places[len(ENDS) :] == list(range(places[len(ENDS) - 1] + 1, len(tokens)))


def test_an_end_is_looked_for_in_the_stretch_where_the_search_begins_and_nearby():
    tokenizer = ByteTokenizer()
    long = tokenizer.encode("a " * 5000 + "end. Next")
    stretches = [Stretch(Encoded("text", long), 0, 10), Stretch(Encoded("text", long), 100, len(long))]
    end = 10 + 10_000 - 100 + len("end.")
    assert next_end(stretches, 3, tokenizer) == 3
    assert next_end(stretches, 10, tokenizer) == 10
    assert next_end(stretches, end - 3000, tokenizer) == end - 3000
    assert next_end(stretches, end - 1500, tokenizer) == end
    assert next_end(stretches, end + 2, tokenizer) == end + 2
    assert next_end(stretches, len(long), tokenizer) == 10 + len(long) - 100


def test_an_end_is_found_where_the_text_is_read_in_two_parts():
    tokenizer = ByteTokenizer()
    for length in range(230, 290):
        tokens = tokenizer.encode("a" * length + "b.\u201d  Next")
        stretches = [Stretch(Encoded("text", tokens), 0, len(tokens))]
        assert next_end(stretches, 0, tokenizer) == length + len("b.\u201d".encode())


def test_a_background_begins_with_a_whole_sentence_and_has_its_length():
    tokenizer = ByteTokenizer()
    sentences = " ".join(f"The {number} sheep sleep." for number in range(2000))
    filler = Filler([Encoded("sheep", tokenizer.encode(sentences))])
    random = np.random.default_rng(0)
    for length in (1, 100, 5000):
        for _ in range(20):
            stretches = background(filler, length, tokenizer, random)
            assert sum(map(len, stretches)) == length
            assert text_of(stretches, tokenizer).lstrip().startswith("The"[: length - 1])
    assert background(filler, 0, tokenizer, random) == []


def test_short_documents_are_joined_at_their_ends_and_text_without_sentences_is_taken_as_it_is():
    tokenizer = ByteTokenizer()
    for text in ("Short one. Short two.", "no sentence at all"):
        filler = Filler([Encoded("short", tokenizer.encode(text))])
        stretches = background(filler, 5000, tokenizer, np.random.default_rng(0))
        assert sum(map(len, stretches)) == 5000
        assert text_of(stretches, tokenizer).startswith(text + text)
