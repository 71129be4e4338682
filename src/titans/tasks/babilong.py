"""BABILong: the facts of a bAbI story hidden in the text of books, and a question about them.

From BABILong (Kuratov et al. 2024, arXiv 2406.10149; repository booydar/babilong): facts keep their order and lie at
random between sentences of other text, which is cut so that the sample has its length; length 0 is "0K", the facts
alone. There are two modes:

    fewshot     instruction, examples, the context, the question; the answer in the words of the examples
    finetuned   the context, the question and the answer, nothing else, for models that are trained on the task

Ours: a question is drawn at random from those whose story fits, where the benchmark's data set asks all of bAbI's test
questions in their order, but for those with more than about a fact for eight tokens (at 1,000 tokens 86 % of qa3's are
left, with 41 facts on average; in tokens as long as words and full stops 99 % fit, with 50, and in bytes 35 %, with
22). A fact lies at the end of the sentence in which a random token falls, where the benchmark draws from a list of all
sentences, or at that token where no sentence ends after it: in the last one, which is cut to fit, and in texts without
sentences; white space between sentences stays, and at the ends of the context, and so do sentences of less than ten
tokens, which the benchmark leaves out; finetuned, a new line begins the question and a full stop ends the answer, where
the benchmark has tokens of its own, and one model may learn all tasks, and several questions of a story.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.errors import TitansError
from titans.tasks.babi import LABELS, SPLITS, BabiTask, Question, Split, babi_folder, read_questions
from titans.tasks.babilong_prompts import WORDINGS, Plain
from titans.tasks.filler import Filler, hidden
from titans.tasks.sample import Piece, Sample, joined, stated, unasked
from titans.tasks.sentences import background, next_end

Mode = Literal["fewshot", "finetuned"]
MODES: tuple[Mode, ...] = get_args(Mode)


class Babilong:
    """One of the tasks (a `Task`).

        task = Babilong("qa1", Filler(documents), split="train", mode="finetuned")

    A model's answer can be had in two ways: `sample` states it, for training and for scores of the next token, and
    `prompt` leaves it to the model, whose words `babilong_prompts.scored` then judges as the benchmark does.
    """

    def __init__(
        self,
        task: BabiTask,
        filler: Filler | None,
        *,
        split: Split,
        mode: Mode = "fewshot",
        earlier: float = 0.0,
        tokenizer: Tokenizer = ByteTokenizer(),  # noqa: B008 (it has no state)
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            filler: what hides the facts, in the tokenizer's tokens; None: there is only length 0.
            split: of bAbI's questions: "train" or "test".
            earlier: share of a story's earlier questions that are asked and answered too, each after the facts that it
                came after, as far as there is room: to learn more from a sample than the one answer at its end.
            folder: where bAbI's files are; None: in `babi` of $TITANS_DATA.

        Raises:
            ValueError: there is no such task, split or mode, or `earlier` does not go with it.
            TitansError: bAbI's files are missing or damaged.
        """
        for name, value, known in (("task", task, LABELS), ("split", split, SPLITS), ("mode", mode, MODES)):
            if value not in known:
                raise ValueError(f"Babilong.{name} is {value!r}; it must be one of {', '.join(known)}")
        self.task: BabiTask = task
        self.split, self.mode, self.tokenizer = split, mode, tokenizer
        if not 0 <= earlier <= 1 or (earlier and mode == "fewshot"):
            raise ValueError(f"Babilong.earlier is {earlier!r}; it must be from 0 to 1, and 0 with mode fewshot")
        self._filler, self._wording = filler, WORDINGS[task] if mode == "fewshot" else Plain()
        self._earlier = earlier
        questions = read_questions(folder or babi_folder(), task, split)
        self._opening = self._unasked(self._wording.opening())
        self._facts = {fact: self._unasked(f" {fact}") for fact in {f for q in questions for f in q.facts}}
        sizes = np.array([self._size(question) for question in questions])
        order = sizes.argsort(kind="stable")
        self._questions, self._sizes = [questions[i] for i in order], sizes[order]

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def shortest(self) -> int:
        """The shortest story, and no filler at all."""
        return int(self._sizes[0])

    @property
    def labels(self) -> frozenset[str]:
        """What may be an answer."""
        return LABELS[self.task]

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: the facts of a random story that is not too long, the question, and its answer as text.

        Of length 0 are the facts without any filler, as many tokens as they take: one differs from another, so they
        are to be scored one at a time.

        Raises:
            TitansError: no story fits into so few tokens, or there is no text to hide it in.
        """
        question = self._draw(length, random)
        return self._told(question, self._answered(question), length, random)

    def prompt(self, length: int, random: np.random.Generator) -> tuple[Sample, Question]:
        """As `sample`, up to where the model begins to answer in its own words, and what it is asked."""
        question = self._draw(length, random)
        return self._told(question, self._unasked(self._wording.closing(question.text)), length, random), question

    def _draw(self, length: int, random: np.random.Generator) -> Question:
        if length and self._filler is None:
            raise TitansError(f"no text to hide the facts of {self.task} in: give one, or length 0 for the facts alone")
        fitting = np.searchsorted(self._sizes, length, side="right") if length else len(self._sizes)
        if not fitting:
            raise TitansError(
                f"{length} tokens are too few for a sample of BABILong's {self.task}: it takes {self.shortest} "
                "(or 0 for the facts alone)"
            )
        return self._questions[int(random.integers(fitting))]

    def _told(self, question: Question, end: Piece, length: int, random: np.random.Generator) -> Sample:
        """The opening, the facts in their text, and `end`."""
        facts = [self._facts[fact] for fact in question.facts]
        if self._filler is None or not length:
            if self.mode == "fewshot":  # as the benchmark's prompt has them; finetuned they are what training showed
                facts = [self._unasked(" ".join(question.facts))]
            return Sample((self._opening, *facts, end))
        hay = length - len(self._opening) - sum(map(len, facts)) - len(end)
        for asked in self._chosen(question.earlier, random):
            piece, after = joined([self._answered(asked), self._unasked(self._wording.end)]), len(asked.facts) - 1
            if len(piece) <= hay:
                facts[after] = joined([facts[after], piece])
                hay -= len(piece)
        rest = background(self._filler, hay, self.tokenizer, random)
        places = random.integers(hay + 1, size=len(facts)).tolist()
        cuts = sorted(next_end(rest, place, self.tokenizer) for place in places)
        return Sample((self._opening, *hidden(rest, facts, cuts), end))

    def _chosen(self, earlier: Sequence[Question], random: np.random.Generator) -> list[Question]:
        if not self._earlier:
            return []
        return [asked for asked in earlier if asked.facts and random.random() < self._earlier]

    def _answered(self, question: Question) -> Piece:
        """The question with its answer."""
        asked = self._wording.closing(question.text) + self._wording.lead(question.text)
        answer = f" {question.answer}{self._wording.end}"
        return stated(self.tokenizer.encode(asked), self.tokenizer.encode(answer))

    def _size(self, question: Question) -> int:
        """Tokens of its sample without filler."""
        facts = sum(len(self._facts[fact]) for fact in question.facts)
        return len(self._opening) + facts + len(self._answered(question))

    def _unasked(self, text: str) -> Piece:
        return unasked(self.tokenizer.encode(text))
