"""Train a language model on text: a file, a folder, a .gz or standard input, of any size.

Example:
    titans train --text book.txt --out runs/book --steps 2000
    titans train --resume runs/book
    titans train --recipe needles --variant mac --text books/ --out runs/needles      (a task: see titans eval)

Ctrl-C saves a checkpoint first. A tenth of the text is held out for validation.
"""

import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from tyro.conf import Suppress, arg

from titans.cli import corpus
from titans.cli.folder import require_empty
from titans.cli.imports import import_torch
from titans.errors import TitansError
from titans.training.config import TrainConfig

if TYPE_CHECKING:
    from titans.baselines import BaselineLM
    from titans.data.text import Document
    from titans.data.tokenizer import Tokenizer
    from titans.models.language_model import TitansLM
    from titans.tasks.recipes import Recipe
    from titans.training.loop import TrainResult

_Name = TypeVar("_Name", bound=str)


def run(
    *,
    text: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: Python's standard library)")] = None,
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(required, unless resuming)")] = None,
    recipe: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: none, just read text)")] = None,
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: tiny, or the recipe's)")] = None,
    variant: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the preset's)")] = None,
    baseline: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: a Titans model)")] = None,
    resume: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: a new run)")] = None,
    json: bool = False,
    settings: Annotated[TrainConfig, arg(name="")] = TrainConfig(),  # noqa: B008 (it is frozen)
    typed: Suppress[frozenset[str]] = frozenset(),
) -> None:
    """Trains, or goes on training.

    Args:
        text: text file, folder, .gz or - for standard input; the recipe needles reads Python's sources beside it
        out: folder of the new run, a new or an empty one: checkpoint, metrics.jsonl
        recipe: a task to learn, with its own model and settings, unless given: needles, babilong, mqar,
            in-context-recall, noisy-recall, fuzzy-recall, copying, parity or S3; NAME-large on a GPU
        preset: size of the model: tiny, small, 170m, ...
        variant: memory as context (mac), as gate (mag), as layer (mal), alone (lmm), or attention without a memory
        baseline: another model instead, of as many parameters as the recipe's: llama, llama-swa, mamba, mamba2, delta,
            delta-neg, gated-delta, gated-delta-neg or hybrid; needs pip install 'titans[hf]'
        resume: folder of a run to go on with, with its own text, recipe and settings
        json: print the result as JSON
        settings: how to train
        typed: names of the options that were given, also those given as they would be anyway
    """
    if resume is not None:
        if typed - {"resume", "json"}:
            raise TitansError("--resume takes the text and every setting from the run: leave the other options out")
        import_torch()
        result = _resume(resume)
    elif baseline is not None and (recipe is None or variant is not None):
        raise TitansError("--baseline goes with --recipe and without --variant: it is another model for the same task")
    elif out is None:
        raise TitansError("--out is missing: name a folder for the run, for example --out runs/first")
    else:
        import_torch()
        result = _begin(text, out, recipe, preset, variant, baseline, settings, typed)
    _show(result, json)


def _begin(
    text: str | None,
    out: Path,
    name: str | None,
    preset: str | None,
    variant: str | None,
    baseline: str | None,
    settings: TrainConfig,
    typed: frozenset[str],
) -> "TrainResult":
    import torch

    from titans.baselines import NAMES, BaselineLM, baseline_like
    from titans.data.pieces import TOKENIZER_NAME, learn_pieces
    from titans.data.text import SPOOLED_NAME
    from titans.data.tokenizer import ByteTokenizer
    from titans.files import removed_on_failure
    from titans.models.config import VARIANTS
    from titans.models.language_model import TitansLM
    from titans.models.presets import control_of
    from titans.models.presets import preset as preset_of
    from titans.report.metrics import METRICS_NAME
    from titans.tasks.recipes import recipe as recipe_of
    from titans.training.checkpoint import LINK, refuse_to_overwrite

    known_variant, known_baseline = _one_of("variant", variant, VARIANTS), _one_of("baseline", baseline, NAMES)
    config = preset_of(preset or "tiny", vocab_size=ByteTokenizer.vocab_size)
    recipe = None if name is None else recipe_of(name)
    if recipe is not None:
        if text is not None and not recipe.reads_text:
            raise TitansError(f"the recipe {name!r} reads no text: leave --text out")
        config = recipe.config if preset is None else config.replace(vocab_size=recipe.config.vocab_size)
        settings = _overridden(recipe.settings, settings, typed)
    settings.require_rise()  # before a long text is read
    if known_variant is not None:
        as_large = known_variant == "attention" and recipe is not None
        config = control_of(config) if as_large else config.replace(variant=known_variant)
    refuse_to_overwrite(out)
    corpus.require_outside(out, text)
    own = (corpus.NAME, SPOOLED_NAME, TOKENIZER_NAME, METRICS_NAME, f"{LINK}*", ".*.tmp")
    with removed_on_failure(out, own, unless=out / LINK, busy=_in_use(out)):
        require_empty(out)
        read = corpus.corpus_of(recipe, text, spool=out)
        sides = corpus.remember(out, text, name, read, settings)
        tokenizer: Tokenizer = ByteTokenizer()
        if recipe is not None and recipe.vocabulary is not None:
            tokenizer = learn_pieces(recipe.vocabulary(sides[0]), config.vocab_size)
            tokenizer.save(out)
        torch.manual_seed(settings.seed)
        model = TitansLM(config) if known_baseline is None else BaselineLM(baseline_like(known_baseline, config))
        return _train(model, *sides, recipe, tokenizer, settings, out, resume=False)


def _one_of(kind: str, name: str | None, known: Sequence[_Name]) -> _Name | None:
    """The same name as one of those that are known; TitansError if it is none."""
    found = next((one for one in known if one == name), None)
    if name is not None and found is None:
        raise TitansError(f"there is no {kind} {name!r}; choose one of {', '.join(known)}")
    return found


def _overridden(settings: TrainConfig, given: TrainConfig, typed: frozenset[str]) -> TrainConfig:
    """A recipe's settings, and in place of some those that were typed."""
    changed = {field.name: getattr(given, field.name) for field in fields(given) if field.name in typed}
    return replace(settings.for_steps(changed.get("steps", settings.steps)), **changed)


def _resume(run: Path) -> "TrainResult":
    from titans.baselines import load_model
    from titans.files import locked
    from titans.training.checkpoint import find_checkpoint, read_settings, read_tokenizer

    find_checkpoint(run)  # before the lock makes a folder of that name
    with locked(run, busy=_in_use(run)):
        checkpoint = find_checkpoint(run)
        settings = read_settings(checkpoint)
        recipe = corpus.require_as_begun(run, settings)
        sides = corpus.remembered(run, recipe, settings.seed)
        return _train(load_model(checkpoint), *sides, recipe, read_tokenizer(checkpoint), settings, run, resume=True)


def _in_use(run: Path) -> str:
    return f"{run} is being trained by another process: wait for it, or name another folder"


def _train(
    model: "TitansLM | BaselineLM",
    train_documents: "list[Document]",
    held_out: "list[Document]",
    recipe: "Recipe | None",
    tokenizer: "Tokenizer",
    settings: TrainConfig,
    out: Path,
    *,
    resume: bool,
) -> "TrainResult":
    from titans.data.batches import BatchSource, DocumentBatches
    from titans.data.pieces import encoded
    from titans.training.checkpoint import LINK, current
    from titans.training.loop import train
    from titans.training.model import best_device
    from titans.training.progress import Progress

    rows, length = settings.batch_size, settings.length

    def validation() -> BatchSource:
        return DocumentBatches(held_out, min(rows, len(held_out)), length, settings.seed, epochs=1)

    if recipe is None:
        source = DocumentBatches(train_documents, rows, length, settings.seed)
        total = settings.steps * rows * length
    else:
        source = recipe.source(encoded(train_documents, tokenizer), settings, tokenizer)
        total = source.count(settings.steps)
    try:
        with Progress("train", total=total, unit="tokens") as progress:
            return train(
                model.to(best_device()),
                source,
                settings,
                out,
                validation=validation if recipe is None else None,
                progress=progress,
                resume=resume,
            )
    except KeyboardInterrupt as stop:
        if current(out) is None:
            raise
        said = str(stop) or f"the last checkpoint is {out / LINK}"
        raise KeyboardInterrupt(f"{said}; continue with: titans train --resume {shlex.quote(str(out))}") from None


def _show(result: "TrainResult", as_json: bool) -> None:
    if as_json:
        from json import dumps

        print(dumps(result.to_dict(), indent=2))
        return
    held_out = f"{result.validation.bits_per_token:.3f} bits per byte on held-out text; " if result.validation else ""
    print(f"{result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:.0f} s; {held_out}{result.checkpoint}")
