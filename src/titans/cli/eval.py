"""Measure a trained model: how well it predicts text, or how well it does a task.

Example:
    titans eval --checkpoint runs/book --text other.txt
    titans eval --checkpoint runs/book                    (the text that the run held out)
    titans eval needles --checkpoint runs/needles --kind n --length 2048 16384 --depths 5 --haystack books/
    titans eval needles --checkpoint runs/needles --save runs/scores     (then: titans report runs/scores)
    titans eval state-tracking --checkpoint runs/S3 --length 64 512      (the problem that its recipe has taught)
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, Suppress, arg

from titans.cli import corpus
from titans.cli.imports import import_torch
from titans.cli.soundness import require_sound
from titans.errors import TitansError

if TYPE_CHECKING:
    from titans.cli.scores import Kept
    from titans.data.text import Document
    from titans.tasks.catalogue import Choices
    from titans.training.evaluate import Evaluation

_OWNERS = {
    "text": ("text",),
    "max_tokens": ("text",),
    "haystack": ("needles", "babilong"),
    "kind": ("needles",),
    "depths": ("needles",),
    "question": ("babilong",),
    "mode": ("babilong",),
    "babi": ("babilong",),
    "problem": ("state-tracking",),
    "tokens_each": ("state-tracking",),
    "num_pairs": ("mqar",),
    "vocab_size": ("mqar",),
}
_MOST = {
    "--length": 1 << 40,
    "--max-tokens": 1 << 40,
    "--batch-size": 1 << 16,
    "--depths": 1001,  # they are thousandths of the text
}
_OF_ANY_TASK = ("length", "samples", "seed", "save", "label")


def run(
    task: Annotated[Positional[str], arg(metavar="TASK", help_behavior_hint="(default: predict text)")] = "text",
    *,
    checkpoint: Annotated[Path, arg(metavar="DIR")],
    text: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: what the run held out)")] = None,
    max_tokens: int = 262_144,
    length: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = (2048, 4096, 8192, 16384),
    samples: int = 20,
    seed: int = 0,
    kind: Literal["pk", "n", "w", "mk", "mv"] = "pk",
    depths: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: anywhere)")] = None,
    haystack: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: what the run held out)")] = None,
    question: Literal["qa1", "qa2", "qa3", "qa4", "qa5"] = "qa1",
    mode: Literal["finetuned", "fewshot"] = "finetuned",
    babi: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: babi in $TITANS_DATA)")] = None,
    problem: Annotated[
        Literal["parity", "mod5", "S3", "A5", "S5"], arg(help_behavior_hint="(default: the recipe's, or parity)")
    ] = "parity",
    tokens_each: Annotated[int, arg(help_behavior_hint="(default: the recipe's, or 1)")] = 1,
    num_pairs: int = 8,
    vocab_size: Annotated[int, arg(help_behavior_hint="(default: the recipe's, or 8192)")] = 8192,
    batch_size: int = 8,
    piece: int = 8192,
    save: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: nowhere)")] = None,
    label: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the checkpoint's folder)")] = None,
    json: bool = False,
    typed: Suppress[frozenset[str]] = frozenset(),
) -> None:
    """Reads text once, documents side by side, with the memory carried along; or puts a task's questions.

    Args:
        task: needles, babilong, mqar, copying, in-context-recall, noisy-recall, fuzzy-recall or state-tracking; without
            one the text is predicted
        checkpoint: folder of a run or of a saved model
        text: text to predict: file, folder, .gz or - for standard input
        max_tokens: bytes of text to predict at most
        length: tasks: tokens of a sample, one or more; babilong: 0 for the facts alone
        samples: tasks: questions per length and depth
        seed: tasks: of the samples
        kind: needles: pass key, number, word (UUID), many keys, many values
        depths: needles: so many places, evenly from the text's beginning to its end
        haystack: needles, babilong: text to hide things in: file, folder or .gz
        question: babilong: which of bAbI's tasks
        mode: babilong: without or with the benchmark's instruction and examples
        babi: babilong: folder of bAbI's files
        problem: state-tracking: which problem
        tokens_each: state-tracking: in how many tokens an element is told
        num_pairs: mqar: keys with a value
        vocab_size: mqar: its tokens
        batch_size: documents or samples read side by side
        piece: tokens per call, of all that is read side by side; matters for speed and memory only
        save: tasks: folder whose results.json takes the scores, beside those of other models, for titans report
        label: tasks: the model's name there
        json: print the result as JSON
        typed: names of the options that were given
    """
    counts = {"--max-tokens": max_tokens, "--batch-size": batch_size, "--piece": piece, "--samples": samples}
    counts |= {"--tokens-each": tokens_each, "--num-pairs": num_pairs, "--vocab-size": vocab_size}
    counts["--depths"] = 1 if depths is None else depths
    least = 0 if task == "babilong" else 1  # 0: the facts alone
    for name, value in (*counts.items(), *(("--length", one) for one in length)):
        lowest = least if name == "--length" else 1
        highest = _MOST.get(name, 1 << 31)
        if not lowest <= value <= highest:
            raise TitansError(f"{name} is {value}; it must be at least {lowest} and at most {highest:,}")
    if not length:
        raise TitansError("--length is empty: give it one length or more")
    if seed < 0:
        raise TitansError(f"--seed is {seed}; it must be at least 0")
    if save is None and label is not None:
        raise TitansError("--label names the model in the results that --save writes: give --save DIR as well")
    import_torch()
    from titans.tasks.catalogue import TASKS, Choices, title

    if task == "text" or task in TASKS:
        _require_its_own(task, typed)
    if task != "text":
        from titans.cli import scores

        choices = Choices(
            kind=kind,
            question=question,
            mode=mode,
            babi=babi,
            problem=problem,
            tokens_each=tokens_each,
            num_pairs=num_pairs,
            vocab_size=vocab_size,
        )
        choices = corpus.as_learned(checkpoint, choices, typed)
        asked = scores.Asked(
            lengths=tuple(dict.fromkeys(length)),
            samples=samples,
            depths=depths,
            seed=seed,
            batch_size=batch_size,
            piece=piece,
        )
        with require_sound(checkpoint):
            cells = scores.measure(
                checkpoint, task, haystack, choices, asked, _kept(save, label, checkpoint, task, choices)
            )
        scores.show(title(task, choices), checkpoint, seed, cells, as_json=json)
        return
    with tempfile.TemporaryDirectory() as spool:
        held_out = text is None
        documents = corpus.held_out(checkpoint, "--text") if held_out else corpus.documents(text, spool=Path(spool))
        with require_sound(checkpoint):
            evaluation = _evaluate(checkpoint, documents, max_tokens, batch_size, piece)
    if json:
        from json import dumps

        print(dumps({"bits_per_byte": evaluation.bits_per_token} | evaluation.to_dict(), indent=2))
    else:
        _show(evaluation)


def _require_its_own(task: str, typed: frozenset[str]) -> None:
    """TitansError for an option that has nothing to do with what is asked."""
    for name in sorted(typed):
        flag, owners = f"--{name.replace('_', '-')}", _OWNERS.get(name, (task,))
        if task == "text" and name in _OF_ANY_TASK:
            raise TitansError(f"{flag} is about a task: name one, for example titans eval needles {flag} ...")
        if task not in owners:
            whose = "text to predict" if owners == ("text",) else " and ".join(owners)
            raise TitansError(f"{flag} is about {whose}: leave it out, or ask for that")


def _kept(save: Path | None, label: str | None, checkpoint: Path, task: str, choices: "Choices") -> "Kept | None":
    """Where the scores go, if anywhere, with the command that is running."""
    if save is None:
        return None
    from titans.cli.findings import command
    from titans.cli.scores import Kept
    from titans.tasks.catalogue import title
    from titans.training.checkpoint import run_of

    model = label or Path(os.path.realpath(run_of(checkpoint))).name
    return Kept(folder=save, model=model, task=title(task, choices), command=command())


def _evaluate(
    checkpoint: Path, documents: "list[Document]", max_tokens: int, batch_size: int, piece: int
) -> "Evaluation":
    from titans.baselines import BaselineLM, RowByRow, load_model
    from titans.data.batches import DocumentBatches
    from titans.training.evaluate import evaluate
    from titans.training.model import best_device, tokens_per_row
    from titans.training.progress import Progress

    model = load_model(checkpoint).to(best_device())
    corpus.require_bytes(checkpoint, model.config.vocab_size)
    rows = min(batch_size, len(documents))
    source = DocumentBatches(documents, rows, tokens_per_row(piece, rows), epochs=1)
    total = min(max_tokens, sum(map(len, documents)))
    with Progress("eval", total=total, unit="bytes") as progress:
        reader = RowByRow(model) if isinstance(model, BaselineLM) else model
        return evaluate(reader, source, max_tokens, progress=progress)


def _show(evaluation: "Evaluation") -> None:
    from rich.table import Table

    from titans.console import Console

    table = Table(title=f"{evaluation.bits_per_token:.4f} bits per byte over {evaluation.tokens:,} bytes")
    for heading in ("bytes into the document", "bits per byte", "bytes"):
        table.add_column(heading, justify="right")
    for bucket in evaluation.by_distance:
        table.add_row(bucket.label, f"{bucket.bits_per_token:.4f}", f"{bucket.tokens:,}")
    Console().print(table)
