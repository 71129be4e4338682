"""Every task by its name, with what can be chosen about it (`titans eval TASK`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from titans.data.batches import TokenDocument
from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.tasks.babi import BabiTask
from titans.tasks.babilong import Babilong, Mode
from titans.tasks.copying import SelectiveCopying
from titans.tasks.filler import Filler
from titans.tasks.mad import FuzzyRecall, InContextRecall, noisy_recall
from titans.tasks.mqar import MQAR
from titans.tasks.needles import Kind, needles
from titans.tasks.sample import Task
from titans.tasks.state_tracking import ModularCounting, WordProblem, parity

Problem = Literal["parity", "mod5", "S3", "A5", "S5"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a task may need to know; each takes what concerns it."""

    haystack: Sequence[TokenDocument] = ()
    """needles, babilong: text to hide things in, in the tokenizer's tokens"""
    tokenizer: Tokenizer = ByteTokenizer()  # noqa: RUF009 (it has no state)
    """needles, babilong: what the model reads"""
    kind: Kind = "pk"
    """needles: which of them"""
    depth: float | None = None
    """needles: where they lie, 0 the text's beginning, 1 its end; None: anywhere"""
    question: BabiTask = "qa1"
    """babilong: which of bAbI's tasks"""
    mode: Mode = "finetuned"
    """babilong: with the benchmark's instruction and examples, or without"""
    babi: Path | None = None
    """babilong: folder of bAbI's files; None: in $TITANS_DATA"""
    problem: Problem = "parity"
    """state-tracking: which of them"""
    tokens_each: int = 1
    """state-tracking: in how many tokens an element is told"""
    num_pairs: int = 8
    """mqar: keys with a value"""
    vocab_size: int = 8192
    """mqar: its tokens"""


TASKS: dict[str, Callable[[Choices], Task]] = {
    "needles": lambda choices: needles(choices.kind, choices.haystack, choices.tokenizer, depth=choices.depth),
    "babilong": lambda choices: Babilong(
        choices.question,
        Filler(choices.haystack) if choices.haystack else None,
        split="test",
        mode=choices.mode,
        tokenizer=choices.tokenizer,
        folder=choices.babi,
    ),
    "mqar": lambda choices: MQAR(vocab_size=choices.vocab_size, num_pairs=choices.num_pairs),
    "copying": lambda _: SelectiveCopying(),
    "in-context-recall": lambda _: InContextRecall(),
    "noisy-recall": lambda _: noisy_recall(),
    "fuzzy-recall": lambda _: FuzzyRecall(shortest_key=FuzzyRecall.longest_key),  # as MAD evaluates it
    "state-tracking": lambda choices: state_tracking(choices.problem, choices.tokens_each),
}
READ_TEXT = ("needles", "babilong")  # in the model's tokens; the others have tokens of their own


def hides_in_text(name: str, choices: Choices) -> bool:
    """Whether the task needs a haystack: pk's is RULER's noise."""
    return name in READ_TEXT and not (name == "needles" and choices.kind == "pk")


def title(name: str, choices: Choices) -> str:
    """The task with its kind, in words that tell it from every other."""
    kinds = {
        "needles": choices.kind,
        "babilong": choices.question if choices.mode == "finetuned" else f"{choices.question}, own words",
        "mqar": f"{choices.num_pairs} pairs of {choices.vocab_size:,} tokens",
        "state-tracking": choices.problem
        if choices.tokens_each == 1
        else f"{choices.problem}, {choices.tokens_each} tokens each",
    }
    return f"{name} {kinds[name]}" if name in kinds else name


def state_tracking(problem: Problem, tokens_each: int) -> Task:
    """A word problem, parity or counting modulo 5."""
    if problem == "parity":
        return parity(tokens_each)
    if problem == "mod5":
        return ModularCounting(modulus=5, tokens_each=tokens_each)
    return WordProblem(group=problem, tokens_each=tokens_each)
