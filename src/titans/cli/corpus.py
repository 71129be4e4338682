"""The text of a run, which `train` reads, and which `train --resume` and `eval` find again in the run's folder."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from titans.errors import TitansError

if TYPE_CHECKING:
    from titans.data.text import Document
    from titans.data.tokenizer import Tokenizer
    from titans.tasks.catalogue import Choices
    from titans.tasks.recipes import Recipe
    from titans.training.config import TrainConfig

NAME = "run.json"
_log = logging.getLogger("titans")


@dataclass(frozen=True)
class Corpus:
    """The text of a run."""

    text: "list[Document]" = field(default_factory=list)
    beside: "list[Document]" = field(default_factory=list)
    """trained on as well, never held out"""

    def sides(self, seed: int) -> "tuple[list[Document], list[Document]]":
        """Documents to train on, and those held out; none where there is no text."""
        from titans.data.text import split_documents

        train, held_out = split_documents(self.text, seed=seed) if self.text else ([], [])
        return [*train, *self.beside], held_out


def corpus_of(recipe: "Recipe | None", text: str | None, *, spool: Path, reuse: bool = False) -> Corpus:
    """What a run of that recipe reads, given `--text`."""
    from titans.data.text import standard_library_sources

    if recipe is not None and not recipe.reads_text:
        return Corpus()
    found = documents(text, spool=spool, reuse=reuse)
    size = 0 if recipe is None or text is None else min(recipe.sources_beside, sum(map(len, found)))
    return Corpus(found, standard_library_sources(most=size) if size else [])


def documents(text: str | None, *, spool: Path, reuse: bool = False) -> "list[Document]":
    """The documents of a file, folder, .gz or "-"; of None, the Python standard library's sources."""
    from titans.data.text import find_documents, local_text, standard_library_sources

    return standard_library_sources() if text is None else find_documents(local_text(text, spool=spool, reuse=reuse))


def require_outside(run: Path, text: str | None) -> None:
    """Refuses a run in the folder that it reads: its own files would be read as text.

    Raises:
        TitansError: it lies there.
    """
    if text not in (None, "-") and Path(text).is_dir() and _is_inside(run, Path(text)):
        raise TitansError(f"--out {run} lies in the text {text}, which would change with it: name a folder outside")


def remember(
    run: Path, text: str | None, recipe: str | None, corpus: Corpus, settings: "TrainConfig"
) -> "tuple[list[Document], list[Document]]":
    """Notes in the run's folder which text it reads, what that is like, and the recipe that it follows.

    Returns:
        What `remembered` will: documents to train on, and those held out.
    """
    from titans.data.text import fingerprint
    from titans.files import write_json
    from titans.tasks.recipes import recipe as named

    sides = corpus.sides(settings.seed)
    noted = {
        "text": _name(text),
        "recipe": recipe,
        "documents": fingerprint(chain(*sides)),
        "batches": None if recipe is None else named(recipe).fingerprint(settings),
    }
    write_json(run / NAME, noted)
    if corpus.beside:
        _log.info("beside the text %s bytes of Python's sources are read", f"{sum(map(len, corpus.beside)):,}")
    return sides


def remembered(run: Path, recipe: "Recipe | None", seed: int) -> "tuple[list[Document], list[Document]]":
    """What a run of that recipe was begun with: documents to train on, and those held out.

    Raises:
        TitansError: `run` is not a run of `titans train`, or its text is gone, or another one or divided otherwise by
            now.
    """
    from titans.data.text import fingerprint

    path, noted = run / NAME, _noted(run)
    text, known = noted.get("text", ""), noted.get("documents")
    if text is not None and not (isinstance(text, str) and text):
        raise TitansError(f'{path} is damaged: its "text" names no file; put the path of the text there')
    found = corpus_of(recipe, text, spool=run, reuse=True)
    sides = found.sides(seed)
    if known is not None and fingerprint(chain(*sides)) != known:
        python = "Python's standard library"
        name = python if text is None else f"{text} or {python}" if found.beside else text
        raise TitansError(
            f"{name} has changed since {run} was begun with it, or is divided otherwise by now: restore it, or start a "
            "new run"
        )
    return sides


def require_as_begun(run: Path, settings: "TrainConfig") -> "Recipe | None":
    """The recipe that a run follows, `recipe_of`, if it still teaches what it did.

    Raises:
        TitansError: it does not, or as `recipe_of`.
    """
    recipe, known = recipe_of(run), _noted(run).get("batches")
    if recipe is not None and recipe.fingerprint(settings) != known:
        raise TitansError(
            f"{run} was begun when its recipe for {recipe.task} taught otherwise (another version of titans or of its "
            "data): go on with that one, or start a new run"
        )
    return recipe


def require_text(run: Path, text: str | None) -> None:
    """Refuses a run of another text than that of `--text`.

    Raises:
        TitansError: it is one, or no run of `titans train`.
    """
    name, wanted = _noted(run).get("text"), _name(text)
    if name != wanted:
        python = "Python's sources"
        raise TitansError(f"{run} was trained on {name or python}, not on {wanted or python}: name another folder")


def held_out(folder: Path, instead: str) -> "list[Document]":
    """What the run of a checkpoint left out of its training.

    Args:
        instead: the option by which another text is given.

    Raises:
        TitansError: as `remembered`, there is no checkpoint, or it is of a task without text.
    """
    from titans.training.checkpoint import find_checkpoint, read_settings, run_of

    checkpoint, run = find_checkpoint(folder), run_of(folder)
    if not (run / NAME).exists():
        raise TitansError(
            f"{folder} is not the folder of a run, and does not say which text was held out: name one by {instead}"
        )
    recipe = recipe_of(run)
    if recipe is not None and not recipe.reads_text:
        raise TitansError(
            f"{folder} has learned {recipe.task} and no text: ask it by titans eval {recipe.task}, with its options"
        )
    try:
        return remembered(run, recipe, read_settings(checkpoint).seed)[1]
    except TitansError as error:
        raise TitansError(f"{error}; or name another text by {instead}") from error


def text_tokenizer(checkpoint: Path, vocab_size: int) -> "Tokenizer":
    """What the model of a run or a saved model reads text with: bytes, or its own pieces of words.

    Raises:
        TitansError: its tokens stand for no text, or its tokenizer.json is missing, damaged or another one.
    """
    from titans.training.checkpoint import find_checkpoint, read_tokenizer

    tokenizer = read_tokenizer(find_checkpoint(checkpoint))
    if tokenizer.vocab_size != vocab_size:
        raise TitansError(
            f"{checkpoint} has {vocab_size} token ids that stand for no text: name a model of texts, or give --tokens"
        )
    return tokenizer


def require_bytes(checkpoint: Path, vocab_size: int) -> None:
    """Refuses a model that does not read text as bytes.

    Raises:
        TitansError: it has other token ids, or pieces of words.
    """
    from titans.data.pieces import TOKENIZER_NAME
    from titans.data.tokenizer import ByteTokenizer
    from titans.training.checkpoint import find_checkpoint

    pieces = (find_checkpoint(checkpoint) / TOKENIZER_NAME).exists()
    if pieces or vocab_size != ByteTokenizer.vocab_size:
        what = f"reads {vocab_size:,} pieces of words" if pieces else f"has {vocab_size} token ids"
        raise TitansError(f"{checkpoint} {what}, not the 256 bytes that this reads: ask it by titans eval TASK")


def recipe_of(run: Path) -> "Recipe | None":
    """The recipe that a run follows; None if it just reads text.

    Raises:
        TitansError: `run` is not a run of `titans train`, or there is no such recipe.
    """
    from titans.tasks.recipes import recipe

    name = _noted(run).get("recipe")
    if not (name is None or isinstance(name, str)):
        raise TitansError(f'{run / NAME} is damaged: its "recipe" is no name; put the name of the recipe there')
    return None if name is None else recipe(name)


def require_its_task(folder: Path, task: str) -> None:
    """Refuses a model of a run that has learned another task: its tokens mean something else.

    Raises:
        TitansError: it has; of a model without a run nobody knows.
    """
    from titans.training.checkpoint import run_of

    run = run_of(folder)
    if not (run / NAME).exists():
        return
    recipe = recipe_of(run)
    learned = "text" if recipe is None else recipe.task
    if learned != task:
        raise TitansError(f"{folder} has learned {learned}; {task} has other tokens: name a model that has learned it")


def as_learned(folder: Path, choices: "Choices", typed: Collection[str]) -> "Choices":
    """The choices with what the recipe of a run has to say about them.

    Args:
        typed: names of those that the user made.

    Raises:
        TitansError: the user has chosen otherwise.
    """
    from titans.training.checkpoint import run_of

    run = run_of(folder)
    recipe = recipe_of(run) if (run / NAME).exists() else None
    learned = {} if recipe is None else recipe.asked
    for name in learned:
        if name in typed and getattr(choices, name) != learned[name]:
            as_typed = {one: f"--{one.replace('_', '-')}" for one in learned}
            all_of_it = " ".join(f"{as_typed[one]} {value}" for one, value in learned.items())
            raise TitansError(f"{folder} has learned its task with {all_of_it}: leave {as_typed[name]} out")
    return replace(choices, **learned)


def _name(text: str | None) -> str | None:
    """As run.json has it: wherever one goes on with the run."""
    return text if text in (None, "-") else os.path.realpath(text)


def _is_inside(path: Path, folder: Path) -> bool:
    # not Path.resolve, which fails at links that lead in a circle
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _noted(run: Path) -> dict:
    from titans.files import read_json

    path = run / NAME
    if not path.exists():
        raise TitansError(f"{run} does not say which text it was trained on: it is not the folder of a run")
    return read_json(path)
