"""bAbI (Weston et al. 2015, arXiv 1502.05698): short stories of facts, with questions about them on the way.

The lines of a file are numbered anew in every story. A question's line states its answer and the numbers of the facts
that it rests on, with tabs between:

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary? <tab>bathroom<tab>1
    4 Daniel went back to the hallway.

Read here are the five tasks that BABILong is mostly reported on. Train and test are bAbI's own split; where stories
are as short as in qa4 the same ones come up in both: of its test questions 74 % are, facts and all, in the training
files too (qa1: 1.6 %, qa2 and qa3: none, qa5: 0.1 %).
"""

import gzip
import logging
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from titans.errors import TitansError

BabiTask = Literal["qa1", "qa2", "qa3", "qa4", "qa5"]
Split = Literal["train", "test"]

_PLACES = frozenset({"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"})
LABELS: dict[BabiTask, frozenset[str]] = {
    "qa1": _PLACES,  # where somebody is
    "qa2": _PLACES,  # where a thing is that somebody carries about
    "qa3": _PLACES,  # where a thing was before it came somewhere
    "qa4": _PLACES,  # which place lies north (south, east, west) of which
    "qa5": frozenset({"Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"}),  # who gave what to whom
}
"""what may be the answer to a question of a task"""
SPLITS: dict[Split, str] = {"train": "train|valid", "test": "test"}
"""how the files of a split are called: those to choose a model by are cut from the training data"""

_KNOWN: dict[Split, int] = {"train": 10_000, "test": 1_000}
_log = logging.getLogger(__name__)
_FACT = re.compile(r"(\d+) (.+\.)")
_QUESTION = re.compile(r"(\d+) (.+\?) *\t(\w+)\t[\d ]+")


@dataclass(frozen=True)
class Question:
    """A question and the story so far."""

    facts: tuple[str, ...]
    """sentences, in the order in which they were told"""
    text: str
    answer: str
    earlier: tuple["Question", ...] = field(default=(), compare=False)
    """what was asked before in the same story"""


def babi_folder() -> Path:
    """The folder `babi` of $TITANS_DATA.

    Raises:
        TitansError: the variable is not set.
    """
    data = os.environ.get("TITANS_DATA")
    if not data:
        raise TitansError("TITANS_DATA is not set: set it to the folder that holds babi, the files of the bAbI tasks")
    return Path(data) / "babi"


def read_questions(folder: Path, task: BabiTask, split: Split) -> list[Question]:
    """Every question of a task's files (`qa1_..._train.txt`, plain or .gz), in their order.

    Raises:
        TitansError: the folder or the file is missing, or a file is unreadable, empty or damaged.
    """
    if not folder.is_dir():
        raise TitansError(
            f"{folder} is no folder: put the files of the bAbI tasks there, or name their folder (--babi, or "
            "TITANS_DATA for the one above it)"
        )
    name = re.compile(rf"{task}_(.+_)?({SPLITS[split]})(\..+)?\.txt(\.gz)?")
    files = sorted(file for file in folder.iterdir() if name.fullmatch(file.name))
    if not files:
        raise TitansError(
            f"{folder} holds no {split} file of {task} ({task}_..._{split}.txt, plain or .gz): put it there"
        )
    questions = [question for file in files for question in _questions_of(file, task)]
    if len(questions) != _KNOWN[split]:
        _say(f"{folder} holds {len(questions):,} {split} questions of {task}; bAbI has {_KNOWN[split]:,}")
    return questions


@cache
def _say(what: str) -> None:
    """Once."""
    _log.warning(what)


def _questions_of(file: Path, task: BabiTask) -> list[Question]:
    questions = list(_parse(file, _text(file).splitlines(), LABELS[task]))
    if not questions:
        raise TitansError(f"{file} is empty, without a single question: copy it again")
    return questions


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TitansError(f"{file} is damaged ({error}): copy it again") from error
    except OSError as error:
        raise TitansError(f"cannot read {file}: {error.strerror}; check its permissions") from error


def _parse(file: Path, lines: list[str], labels: frozenset[str]) -> Iterator[Question]:
    facts: list[str] = []
    questions: list[Question] = []
    previous = 0
    for at, line in enumerate(lines, 1):
        told, asked = _FACT.fullmatch(line), _QUESTION.fullmatch(line)
        number = int((told or asked or ["", "-1"])[1])
        if number == 1:
            facts, questions, previous = [], [], 0
        if number != previous + 1:
            raise _damaged(file, at, "neither the next fact or question of its story nor the first of another")
        previous = number
        if told:
            facts.append(told[2])
        elif asked:
            if asked[3] not in labels:
                raise _damaged(file, at, f"{asked[3]!r} answers no question of the task")
            questions.append(Question(tuple(facts), asked[2], asked[3], tuple(questions)))
            yield questions[-1]


def _damaged(file: Path, at: int, why: str) -> TitansError:
    return TitansError(f"{file} is damaged at line {at} ({why}): copy it again")
