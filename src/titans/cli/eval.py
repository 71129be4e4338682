"""Measure how well a model predicts text, in bits per byte, and how that changes along a document.

Example:
    titans eval --checkpoint runs/book --text other.txt
    titans eval --checkpoint runs/book                    (the text that the run held out)
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from titans.cli import corpus
from titans.cli.imports import import_torch
from titans.errors import TitansError

if TYPE_CHECKING:
    from titans.data.text import Document
    from titans.training.evaluate import Evaluation


def run(
    *,
    checkpoint: Annotated[Path, arg(metavar="DIR")],
    text: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: what the run held out)")] = None,
    max_tokens: int = 262_144,
    batch_size: int = 8,
    length: int = 512,
    json: bool = False,
) -> None:
    """Reads the text once, documents side by side, with the memory carried along.

    Args:
        checkpoint: folder of a run or of a saved model
        text: text file, folder, .gz or - for standard input
        max_tokens: bytes to predict at most
        batch_size: documents read side by side
        length: bytes per step of reading; matters for speed and memory only
        json: print the result as JSON
    """
    for name, value in (("--max-tokens", max_tokens), ("--batch-size", batch_size), ("--length", length)):
        if value < 1:
            raise TitansError(f"{name} is {value}; it must be at least 1")
    import_torch()
    with tempfile.TemporaryDirectory() as spool:
        documents = _held_out(checkpoint) if text is None else corpus.documents(text, spool=Path(spool))
        evaluation = _evaluate(checkpoint, documents, max_tokens, batch_size, length)
    if json:
        from json import dumps

        print(dumps({"bits_per_byte": evaluation.bits_per_token} | evaluation.to_dict(), indent=2))
    else:
        _show(evaluation)


def _held_out(run: Path) -> "list[Document]":
    from titans.data.text import split_documents
    from titans.training.checkpoint import find_checkpoint, read_settings

    checkpoint = find_checkpoint(run)
    documents = corpus.remembered(run)
    return split_documents(documents, seed=read_settings(checkpoint).seed)[1]


def _evaluate(
    checkpoint: Path, documents: "list[Document]", max_tokens: int, batch_size: int, length: int
) -> "Evaluation":
    from titans.data.batches import DocumentBatches
    from titans.models.language_model import TitansLM
    from titans.training.checkpoint import find_checkpoint
    from titans.training.evaluate import evaluate
    from titans.training.model import best_device
    from titans.training.progress import Progress

    model = TitansLM.load(find_checkpoint(checkpoint)).to(best_device())
    source = DocumentBatches(documents, min(batch_size, len(documents)), length, epochs=1)
    total = min(max_tokens, sum(map(len, documents)))
    with Progress("eval", total=total, unit="bytes") as progress:
        return evaluate(model, source, max_tokens, progress=progress)


def _show(evaluation: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{evaluation.bits_per_token:.4f} bits per byte over {evaluation.tokens:,} bytes")
    for heading in ("bytes into the document", "bits per byte", "bytes"):
        table.add_column(heading, justify="right")
    for bucket in evaluation.by_distance:
        table.add_row(bucket.label, f"{bucket.bits_per_token:.4f}", f"{bucket.tokens:,}")
    Console().print(table)
