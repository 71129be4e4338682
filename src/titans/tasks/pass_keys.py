"""Short pass keys in text, asked for again and again: what a model learns recall from before it reads whole sentences.

    ... \n#key:31f41b\n ... \n#key:31f41b\n ... \n#key:31f41b\n ...

The first is the statement, the others are questions. Keys have 4 to 32 hexadecimal digits, so that a digit cannot be
told from the one before it alone. Gaps between questions are log-uniform, so that short distances teach what long ones
then demand. In RULER's wording (needles.py) recall is not learned from nothing in a thousand steps, in this one it is,
and what is learned here carries over (docs/lab-log.md).
"""

from dataclasses import dataclass

import numpy as np

from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.errors import TitansError
from titans.tasks.filler import Filler, gaps
from titans.tasks.sample import Piece, Sample, Stretch, stated, unasked

QUESTION = "\n#key:"
DIGITS = 4, 32


@dataclass(frozen=True, kw_only=True)
class PassKeys:
    """The task (a `Task`)."""

    filler: Filler
    """the text around the keys"""
    tokenizer: Tokenizer = ByteTokenizer()  # noqa: RUF009 (it has no state)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def shortest(self) -> int:
        """A statement and a question, of the longest key."""
        return 2 * sum(map(len, self._parts("0" * DIGITS[1])))

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens; the key is stated within the first quarter.

        Raises:
            TitansError: `length` is below `shortest`.
        """
        if length < self.shortest:
            raise TitansError(f"{length} tokens are too few to state a pass key and ask for it: {self.shortest} do")
        key = random.bytes(DIGITS[1] // 2).hex()[: random.integers(DIGITS[0], DIGITS[1] + 1)]
        question, answer, end = self._parts(key)
        statement, asked = unasked(np.concatenate([question, answer, end])), stated(question, answer, end)
        room = length - len(statement)
        before = int(random.integers((room - len(asked)) // 4 + 1))
        parts: list[Piece | Stretch] = [*self.filler.stretch(before, random), statement]
        room -= before
        for gap in gaps(room, len(asked), random):
            parts += [*self.filler.stretch(gap, random), asked]
            room -= gap + len(asked)
        return Sample((*parts, *self.filler.stretch(room, random)))

    def _parts(self, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        question, answer, end = (self.tokenizer.encode(text) for text in (QUESTION, key, "\n"))
        return question, answer, end
