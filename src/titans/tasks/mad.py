"""MAD's recall tasks: pairs of a key and a value, and whenever a key comes again its value is asked for.

    in-context    a 1  b 2  a 1  b                    one token per key and value; the second a asks for 1
    noisy         a 1  ~ ~  b 2  a 1  ~ ~  b          with pairs of tokens that mean nothing in between
    fuzzy         _ _  a b 1 2  a 3  c b 2  a b 1     one to three tokens per key and value; a and ab are two keys

From MAD (Poli et al. 2024, arXiv 2403.17844, and the code published with it, whose baseline settings are the defaults
here): keys and values from the two halves of the vocabulary, every key with a random value; noise from a vocabulary of
its own; motifs in which no token comes twice; padding in front of fuzzy samples; a last pair whose key has come before.
MAD trains on every next token of a fixed number of samples (`SampleBatches` with text_weight=1), our recipes on what is
asked and never twice on a sample; both score what is asked, MAD by the mean over the values of the share of their
tokens that is right, so that `tokens_right` is the number to compare, not `right`. Ours: any length (of an even number
of tokens the last is a value), and that a fuzzy sample may end with any of its keys, all equally likely. A key comes
again and again, however long the sample is, so a longer one asks for no longer a memory.
"""

from dataclasses import dataclass

import numpy as np

from titans.data.batches import IGNORED
from titans.errors import TitansError
from titans.parsing import check_types, require
from titans.tasks.blocks import Later, in_blocks
from titans.tasks.checks import require_length
from titans.tasks.sample import Piece, Sample, stated, unasked

_LONGEST = 2**24  # tokens of a fuzzy sample, which takes half a minute to lay out


@dataclass(frozen=True, kw_only=True)
class InContextRecall:
    """In-context recall, and with noise noisy recall (a `Task`)."""

    vocab_size: int = 16
    """keys, then values, then noise"""
    noise_vocab_size: int = 0
    """tokens of the vocabulary that are noise"""
    noise: float = 0.0
    """share of the pairs that are two noise tokens instead"""

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "noise", 0 <= self.noise < 1, "at least 0 and below 1")
        least = 1 if self.noise else 0
        holds = self.noise_vocab_size >= least
        require(self, "noise_vocab_size", holds, f"at least {least} with noise {self.noise}")
        holds, expected = self._num_known >= 2, f"at least {self.noise_vocab_size + 2}: a key, a value and the noise"
        require(self, "vocab_size", holds, expected)

    @property
    def _num_known(self) -> int:
        return self.vocab_size - self.noise_vocab_size

    @property
    def shortest(self) -> int:
        """One pair, and its key once more."""
        return 3

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: pairs, the last of which is asked for.

        Raises:
            TitansError: fewer than three tokens.
        """
        require_length(self, length)
        num_pairs, num_keys = (length + 1) // 2, self._num_known // 2
        value_of = random.integers(num_keys, self._num_known, size=num_keys)
        spared = int(random.integers(num_pairs - 1))  # a pair before the last that is no noise
        first = np.full(num_keys, num_pairs)  # the pair that has said a key first

        def pairs(before: int, count: int, random: np.random.Generator) -> Piece:
            places = np.arange(before, before + count)
            noisy = (random.random(count) < self.noise) & (places != spared)
            keys = random.integers(num_keys, size=count)
            tokens = np.stack([keys, value_of[keys]], 1)
            if self.noise:
                tokens[noisy] = random.integers(self._num_known, self.vocab_size, size=(noisy.sum(), 2))
            np.minimum.at(first, keys[~noisy], places[~noisy])
            again = ~noisy & (places > first[keys])
            labels = np.full((count, 2), IGNORED, np.int64)
            labels[again, 0] = value_of[keys[again]]
            return Piece(tokens.ravel(), labels.ravel())

        before, chosen = in_blocks(pairs, num_pairs - 1, random, width=2), random.random()

        def last() -> Piece:
            before.read(len(before) - 1, len(before))  # so that all of them have been made
            known = np.flatnonzero(first < num_pairs)
            key = known[int(chosen * len(known))]
            return Piece(np.array([key, value_of[key]]), np.array([value_of[key], IGNORED]))

        return Sample((before, Later(length - len(before), last)))


def noisy_recall() -> InContextRecall:
    """MAD's noisy in-context recall: every fifth pair is noise."""
    return InContextRecall(vocab_size=32, noise_vocab_size=16, noise=0.2)


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall:
    """Fuzzy in-context recall (a `Task`): keys and values are motifs of adjacent tokens."""

    vocab_size: int = 16
    """keys, then values, then the padding"""
    shortest_key: int = 1
    """tokens; MAD trains with 1 and evaluates with `longest_key`"""
    longest_key: int = 3
    longest_value: int = 3
    """the shortest has one token"""

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "vocab_size", self.vocab_size >= 3, "at least 3: a key, a value and the padding")
        num_keys, num_values = self._num_keys, self.vocab_size - 1 - self._num_keys
        for field, most in (("longest_key", num_keys), ("longest_value", num_values)):
            expected = f"from 1 to {most}, as vocab_size is {self.vocab_size} and no token comes twice in a motif"
            require(self, field, 1 <= getattr(self, field) <= most, expected)
        holds = 1 <= self.shortest_key <= self.longest_key
        require(self, "shortest_key", holds, f"from 1 to longest_key = {self.longest_key}")

    @property
    def _num_keys(self) -> int:
        return (self.vocab_size - 1) // 2

    @property
    def _longest_pair(self) -> int:
        return self.longest_key + self.longest_value

    @property
    def shortest(self) -> int:
        """Room for any pair twice; the last token of an answer is not shown."""
        return 2 * self._longest_pair - 1

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: padding and pairs, the last of which is asked for.

        Raises:
            TitansError: a pair and its repetition do not fit into so few tokens.
        """
        require_length(self, length)
        if length > _LONGEST:
            raise TitansError(f"fuzzy recall takes at most {_LONGEST:,} tokens, as it is made once before it is read")
        room = length + 1 - self._longest_pair  # for all pairs but the last
        most = room // (self.shortest_key + 1)
        first: dict[tuple[int, ...], tuple[int, list[int]]] = {}  # the pair that has said a key first, and its value
        left, fitting = {0: room}, {}  # room before each block; how many of its pairs fit, none after one that does not

        def pairs(before: int, count: int, random: np.random.Generator) -> Piece:
            keys = _motifs(count, 0, self._num_keys, self.shortest_key, self.longest_key, random)
            values = _motifs(count, self._num_keys, self.vocab_size - 1, 1, self.longest_value, random)
            distinct, begins, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
            for n in np.sort(begins):
                first.setdefault(tuple(keys[n].tolist()), (before + n, values[n].tolist()))
            places, said = zip(*(first[tuple(key)] for key in distinct.tolist()), strict=True)
            pairs = np.concatenate([keys, np.array(said)[which.reshape(-1)]], 1)
            again = np.array(places)[which.reshape(-1)] < np.arange(before, before + count)
            ends = (pairs >= 0).sum(1).cumsum()
            fits = fitting[before] = int(np.searchsorted(ends, left[before], side="right"))
            left[before + count] = left[before] - int(ends[-1]) if fits == count else -1
            pairs, asked = pairs[:fits], again[:fits, None] & (np.arange(self._longest_pair) >= self.longest_key)
            present = pairs >= 0
            answers = np.append(np.where(asked, pairs, IGNORED)[present], IGNORED)
            return Piece(pairs[present], answers[1:])

        before = in_blocks(pairs, most, random, width=None)
        num_pairs = sum(fitting.values())
        known = [(key, value) for key, (place, value) in first.items() if place < num_pairs]
        key, value = map(np.array, known[random.choice(len(known))])
        last = stated(key[key >= 0], value[value >= 0])
        padding = np.full(length - len(before) - len(last), self.vocab_size - 1)
        return Sample((unasked(padding), before, last))


def _motifs(count: int, start: int, stop: int, shortest: int, longest: int, random: np.random.Generator) -> np.ndarray:
    """Random motifs of different tokens from `start` to `stop` [count, longest]; -1 after the end of a motif."""
    tokens = np.empty((count, longest), np.int64)
    for place in range(longest):
        token = random.integers(start, stop - place, size=count)
        for earlier in np.sort(tokens[:, :place]).T:  # counted among those that are still free
            token += token >= earlier
        tokens[:, place] = token
    sizes = random.integers(shortest, longest + 1, size=(count, 1))
    return np.where(np.arange(longest) < sizes, tokens, -1)
