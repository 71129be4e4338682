"""Train a language model on text: a file, a folder, a .gz or standard input, of any size.

Example:
    titans train --text book.txt --out runs/book --steps 2000
    titans train --resume runs/book

Ctrl-C saves a checkpoint first. A tenth of the text is held out for validation.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from titans.cli import corpus
from titans.cli.imports import import_torch
from titans.errors import TitansError
from titans.training.config import TrainConfig

if TYPE_CHECKING:
    from titans.data.text import Document
    from titans.models.language_model import TitansLM
    from titans.training.loop import TrainResult


def run(
    *,
    text: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: Python's standard library)")] = None,
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(required, unless resuming)")] = None,
    preset: str = "tiny",
    variant: Annotated[
        Literal["mac", "mag", "mal", "lmm", "attention"] | None,
        arg(metavar="{mac,mag,mal,lmm,attention}", help_behavior_hint="(default: the preset's)"),
    ] = None,
    resume: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: a new run)")] = None,
    json: bool = False,
    settings: Annotated[TrainConfig, arg(name="")] = TrainConfig(),  # noqa: B008 (it is frozen)
) -> None:
    """Trains, or goes on training.

    Args:
        text: text file, folder, .gz or - for standard input
        out: folder of the new run: checkpoint, metrics.jsonl
        preset: size of the model: tiny, small, 170m, ...
        variant: memory as context, as gate, as layer, alone, or attention without a memory
        resume: folder of a run to go on with, with its own text and settings
        json: print the result as JSON
        settings: how to train
    """
    if resume is not None:
        if (text, out, preset, variant, settings) != (None, None, "tiny", None, TrainConfig()):
            raise TitansError("--resume takes the text and every setting from the run: leave the other options out")
        import_torch()
        result = _resume(resume)
    elif out is None:
        raise TitansError("--out is missing: name a folder for the run, for example --out runs/first")
    else:
        import_torch()
        result = _begin(text, out, preset, variant, settings)
    _show(result, json)


def _begin(text: str | None, out: Path, preset: str, variant: str | None, settings: TrainConfig) -> "TrainResult":
    import torch

    from titans.data.text import split_documents
    from titans.data.tokenizer import ByteTokenizer
    from titans.files import removed_on_failure
    from titans.models import presets
    from titans.models.language_model import TitansLM
    from titans.training.checkpoint import LINK, refuse_to_overwrite

    overrides = {"vocab_size": ByteTokenizer.vocab_size} | ({"variant": variant} if variant else {})
    config = presets.preset(preset, **overrides)
    refuse_to_overwrite(out)
    with removed_on_failure(out, unless=out / LINK):
        sides = split_documents(corpus.documents(text, spool=out), seed=settings.seed)
        corpus.remember(out, text)
        torch.manual_seed(settings.seed)
        return _train(TitansLM(config), *sides, settings, out, resume=False)


def _resume(run: Path) -> "TrainResult":
    from titans.data.text import split_documents
    from titans.models.language_model import TitansLM
    from titans.training.checkpoint import find_checkpoint, read_settings

    checkpoint = find_checkpoint(run)
    settings = read_settings(checkpoint)
    sides = split_documents(corpus.remembered(run), seed=settings.seed)
    return _train(TitansLM.load(checkpoint), *sides, settings, run, resume=True)


def _train(
    model: "TitansLM",
    train_documents: "list[Document]",
    held_out: "list[Document]",
    settings: TrainConfig,
    out: Path,
    *,
    resume: bool,
) -> "TrainResult":
    from titans.data.batches import DocumentBatches
    from titans.training.loop import train
    from titans.training.model import best_device
    from titans.training.progress import Progress

    rows, length = settings.batch_size, settings.length
    source = DocumentBatches(train_documents, rows, length, settings.seed)

    def validation() -> DocumentBatches:
        return DocumentBatches(held_out, min(rows, len(held_out)), length, settings.seed, epochs=1)

    total = settings.steps * rows * length
    try:
        with Progress("train", total=total, unit="tokens") as progress:
            return train(
                model.to(best_device()),
                source,
                settings,
                out,
                validation=validation,
                progress=progress,
                resume=resume,
            )
    except KeyboardInterrupt as stop:
        if str(stop):
            raise KeyboardInterrupt(f"{stop}; continue with: titans train --resume {out}") from None
        raise


def _show(result: "TrainResult", as_json: bool) -> None:
    if as_json:
        from json import dumps

        print(dumps(result.to_dict(), indent=2))
        return
    held_out = f"{result.validation.bits_per_token:.3f} bits per byte on held-out text; " if result.validation else ""
    print(f"{result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:.0f} s; {held_out}{result.checkpoint}")
