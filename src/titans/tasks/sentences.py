"""Where sentences begin and end in the tokens of a text, for facts that are to stand between them.

A sentence has ended after its mark and what closes it, if something follows that a sentence can begin with. The space
behind it belongs to the next one, as in most tokenizers.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from titans.data.tokenizer import Tokenizer
from titans.tasks.filler import Filler, split
from titans.tasks.sample import Stretch

_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St))(?<!\bMrs)"  # initials and titles stand inside of sentences
    r"[.!?][\"'\u201d\u2019)\]_]*(?=\s+[^\sa-z])"
)
_READ = 256  # tokens searched at once
_AROUND = 16  # tokens before and after, to tell whether a mark ends a sentence
_LONGEST = 2048  # tokens in which a sentence is expected to end


def background(filler: Filler, length: int, tokenizer: Tokenizer, random: np.random.Generator) -> list[Stretch]:
    """`length` tokens of text in which each stretch begins with a sentence; the last one's end is cut to fit."""
    stretches = []
    for stretch in filler.stretch(length + _LONGEST, random):  # what goes before the first sentence may be as long
        end = _find_end(stretch, 0, min(_LONGEST, len(stretch)), tokenizer) if stretch.start else None
        stretches.append(Stretch(stretch.document, stretch.start + (end or 0), stretch.stop))
    return split(stretches, length)[0]


def next_end(stretches: Sequence[Stretch], at: int, tokenizer: Tokenizer) -> int:
    """How many tokens of `stretches` end with a whole sentence: the next such number after `at`.

    `at` itself where none ends in the stretch's next 2,048 tokens: in a sentence that is cut short, and in texts that
    have none of a kind known here.
    """
    start = 0
    for stretch in stretches:
        if at < start + len(stretch):
            end = _find_end(stretch, at - start, min(at - start + _LONGEST, len(stretch)), tokenizer)
            return at if end is None else start + end
        start += len(stretch)
    return start


def _find_end(stretch: Stretch, start: int, stop: int, tokenizer: Tokenizer) -> int | None:
    """The first end of a sentence after token `start` of a stretch, at most at `stop`; None: there is none."""
    for begin in range(start, stop, _READ):
        first = max(0, begin - _AROUND)
        tokens = stretch.read(first, min(begin + _READ + _AROUND, stop)).tokens
        text = tokenizer.decode(tokens)
        found = _END.search(text, len(tokenizer.decode(tokens[: begin - first])))
        if found:
            return first + _tokens_of(text[: found.end()], tokens, tokenizer)
    return None


def _tokens_of(beginning: str, tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many of the tokens it takes to say a beginning of their text."""
    numbers = range(len(tokens) + 1)
    return bisect_left(numbers, True, key=lambda number: tokenizer.decode(tokens[:number]).startswith(beginning))
