"""Two million tokens as one stream: does the memory of the machine stay constant, and the speed?

Without --checkpoint, a freshly initialised tiny model of every variant reads, each in a process of its own. Afterwards
the same tokens are read again and again in turns from the state after 100,000 tokens and from the last one: only
the age of the state differs, not what else the machine is doing. It fails if the process needs 5 % more memory at the
end than after 100,000 tokens, or a token 10 % more time.

    python benchmarks/constant.py --tokens 2000000 --out docs/results/constant.json
"""

import argparse
import multiprocessing
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from titans.cli import corpus
from titans.cli.findings import machine
from titans.data.text import Document
from titans.errors import TitansError
from titans.files import write_json
from titans.models.config import VARIANTS
from titans.models.language_model import TitansLM
from titans.models.presets import preset
from titans.models.state import LMState
from titans.training.checkpoint import find_checkpoint
from titans.training.progress import Progress
from titans.training.stream import stream

PIECE = 2048
SETTLED = 100_000  # tokens after which memory may grow no more
ROUNDS = 31  # readings of one piece from either state
LARGEST_GROWTH = 5.0  # percent
LARGEST_DELAY = 10.0  # percent


def load(name: str) -> TitansLM:
    """A fresh tiny model if `name` is a variant, otherwise the model in the folder `name`."""
    if name not in VARIANTS:
        return TitansLM.load(find_checkpoint(name))
    torch.manual_seed(0)
    return TitansLM(preset("tiny", variant=name))


def read(name: str, documents: Sequence[Document], tokens: int) -> dict:
    """One model's stream, summed up."""
    torch.set_num_threads(1)
    model = load(name)
    with Progress(name, total=tokens, unit="tokens") as progress:
        (settled,), young = stream(model, documents, SETTLED, progress, piece=PIECE, moments=1)
        moments, old = stream(model, documents, tokens - SETTLED, progress, piece=PIECE, state=young)
    growth = 100 * (moments[-1].resident_mb / settled.resident_mb - 1)
    young_seconds, old_seconds = in_turns(model, young, old)
    delay = 100 * (median(old_seconds) / median(young_seconds) - 1)
    return {
        "model": name,
        "variant": model.config.variant,
        "parameters": model.num_parameters,
        "tokens": tokens,
        "tokens_per_second": round(tokens / (settled.seconds + moments[-1].seconds)),
        "settled_mb": round(settled.resident_mb, 1),
        "end_mb": round(moments[-1].resident_mb, 1),
        "growth_percent": round(growth, 2),
        "delay_percent": round(delay, 2),
        "constant": growth < LARGEST_GROWTH and delay < LARGEST_DELAY,
    }


@torch.no_grad()
def in_turns(model: TitansLM, young: LMState, old: LMState) -> tuple[list[float], list[float]]:
    """Seconds to read the same random tokens from either state, in turns."""
    inputs = torch.randint(model.config.vocab_size, (1, PIECE))
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for state, seconds in zip((young, old), taken, strict=True):
            begun = time.perf_counter()
            model(inputs, state)
            seconds.append(time.perf_counter() - begun)
    return taken


def table(results: Sequence[dict]) -> str:
    """The results in Markdown."""
    lines = [
        f"| model | parameters | tokens/s | MB after {SETTLED:,} tokens | at the end | growth | time per token |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        model, parameters, speed = result["model"], result["parameters"], result["tokens_per_second"]
        lines.append(
            f"| {model} | {parameters:,} | {speed:,} | {result['settled_mb']} | {result['end_mb']} "
            f"| {result['growth_percent']:+.2f} % | {result['delay_percent']:+.2f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", nargs="+", metavar="DIR", help="folders of runs or of saved models")
    parser.add_argument("--text", help="a file, folder or .gz; left out: the Python standard library's sources")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results/constant.json"))
    arguments = parser.parse_args()
    if arguments.tokens <= SETTLED:
        parser.error(f"--tokens must be more than {SETTLED:,}")
    try:
        _measure(arguments)
    except TitansError as error:
        raise SystemExit(str(error)) from None


def _measure(arguments: argparse.Namespace) -> None:
    documents = corpus.documents(arguments.text, spool=Path("runs/constant"))
    names = arguments.checkpoint or [v for v in VARIANTS if v != "attention"]
    command, results = shlex.join(["python", "benchmarks/constant.py", *sys.argv[1:]]), []
    # A fresh process for each: memory that one model gave back would hide the growth of the next.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name in names:
            results.append(pool.submit(read, name, documents, arguments.tokens).result())
            write_json(arguments.out, {"command": command, "machine": asdict(machine()), "results": results})
    print(table(results))
    if not all(result["constant"] for result in results):
        raise SystemExit(f"memory grew by {LARGEST_GROWTH:g} % or time per token by {LARGEST_DELAY:g} %")


if __name__ == "__main__":
    main()
