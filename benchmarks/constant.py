"""Two million tokens as one stream: does the memory of the machine stay constant, and the speed?

Without --checkpoint, a freshly initialised tiny model of every variant reads, each in a process of its own. Speeds are
medians over pieces of 2,048 tokens, so that short disturbances do not count. It fails if the process needs 5 % more
memory at the end than after 100,000 tokens.

    python benchmarks/constant.py --tokens 2000000 --out docs/results/constant.json
"""

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from titans.cli import corpus
from titans.cli.findings import machine
from titans.data.text import Document
from titans.files import write_json
from titans.models.config import VARIANTS
from titans.models.language_model import TitansLM
from titans.models.presets import preset
from titans.training.checkpoint import find_checkpoint
from titans.training.progress import Progress
from titans.training.stream import StreamMoment, stream

PIECE = 2048
SETTLED = 100_000  # tokens after which memory may grow no more
LARGEST_GROWTH = 5.0  # percent
LARGEST_SPREAD = 10.0  # percent


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
        moments, _ = stream(model, documents, tokens, progress, piece=PIECE, moments=tokens // PIECE)
    return {"model": name, "variant": model.config.variant, "parameters": model.num_parameters} | summarise(moments)


def summarise(moments: Sequence[StreamMoment]) -> dict:
    """Growth of the memory since it settled, and the spread of the speed over tenths of the stream."""
    settled = next(moment for moment in moments if moment.tokens >= SETTLED)
    growth = 100 * (moments[-1].resident_mb / settled.resident_mb - 1)
    tenths = [moments[i * len(moments) // 10 : (i + 1) * len(moments) // 10] for i in range(10)]
    speeds = [median(moment.tokens_per_second for moment in tenth) for tenth in tenths]
    spread = 100 * (max(speeds) - min(speeds)) / median(speeds)
    return {
        "tokens": moments[-1].tokens,
        "settled_mb": round(settled.resident_mb, 1),
        "end_mb": round(moments[-1].resident_mb, 1),
        "growth_percent": round(growth, 2),
        "constant": growth < LARGEST_GROWTH,
        "tokens_per_second_by_tenth": [round(speed) for speed in speeds],
        "spread_percent": round(spread, 1),
        "flat": spread <= LARGEST_SPREAD,
    }


def table(results: Sequence[dict]) -> str:
    """The results in Markdown."""
    lines = [
        f"| model | parameters | MB after {SETTLED:,} tokens | MB at the end | growth | tokens/s by tenth | spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        speeds = " / ".join(f"{speed:,}" for speed in result["tokens_per_second_by_tenth"])
        lines.append(
            f"| {result['model']} | {result['parameters']:,} | {result['settled_mb']} | {result['end_mb']} "
            f"| {result['growth_percent']:+.2f} % | {speeds} | {result['spread_percent']} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="the folder of a run or of a saved model")
    parser.add_argument("--text", help="a file, folder or .gz; left out: the Python standard library's sources")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results/constant.json"))
    arguments = parser.parse_args()
    if arguments.tokens <= SETTLED:
        parser.error(f"--tokens must be more than {SETTLED:,}")
    documents = corpus.documents(arguments.text, spool=Path("runs/constant"))
    names = [arguments.checkpoint] if arguments.checkpoint else [v for v in VARIANTS if v != "attention"]
    command, results = shlex.join(["python", "benchmarks/constant.py", *sys.argv[1:]]), []
    # A fresh process for each: memory that one model gave back would hide the growth of the next.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name in names:
            results.append(pool.submit(read, name, documents, arguments.tokens).result())
            write_json(arguments.out, {"command": command, "machine": asdict(machine()), "results": results})
    print(table(results))
    if not all(result["constant"] for result in results):
        raise SystemExit(f"memory grew by {LARGEST_GROWTH:g} % or more")


if __name__ == "__main__":
    main()
