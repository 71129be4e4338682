"""How much does a memory hold? Memories of several depths and widths on multi-query associative recall (MQAR).

One block with one memory, of one head where no more are named, everything else as in `titans train --recipe mqar`: 8
to 128 pairs mixed. Their width decides how many numbers a memory's state has, so that a deep memory stands beside
matrices of as many numbers and of equal width. Two matrices are wider than their model, and so beside a deep memory of
as many numbers in a model of the same width; two memories are several matrices of the model's width, in heads of their
own. A vector memory has heads one number wide, as an LSTM's cells are: a key of one number is a sign, so that what
each cell keeps is decided by its gates. What is read from all cells is normalised together; alone, a number would leave
nothing but its sign.

Each is trained at every rate; the table has the rate at which it is best on average over the seeds. What is done is
kept: the same command goes on where it was interrupted, and more seeds, rates or memories can be added.

    python benchmarks/capacity.py --seeds 0 1 2 --rates 1e-3 3e-3
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
from gain_summary import markdown_table
from long_context_page import percent
from records import Records, in_processes
from torch import Tensor

from titans.data.tokenizer import ByteTokenizer
from titans.memory.config import MemoryConfig
from titans.memory.layer import NeuralMemory
from titans.memory.norm import RMSNorm
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.report.style import add_legend, line_styles, new_panel, save_svg, styled
from titans.tasks.mqar import MQAR
from titans.tasks.recipes import MQAR_PAIRS, Source, recipe
from titans.tasks.score import score
from titans.training.config import TrainConfig
from titans.training.loop import train
from titans.training.progress import Progress

SAMPLES, EVAL_SEED = 200, 5


@dataclass(frozen=True)
class Memory:
    """What is compared: width of the model and shape of its memory.

    In names "depth 2 (4x)" is one with an expansion of 4, "matrix of 45" one that is as wide in any model, and
    "8 matrices of 32" are as many heads.
    """

    dim: int
    depth: int = 1
    expansion: int = 1
    heads: int = 1
    head_dim: int | None = None

    @property
    def config(self) -> TitansConfig:
        base = recipe("mqar").config
        memory: MemoryConfig = base.memory.replace(
            num_heads=self.heads, head_dim=self.head_dim, depth=self.depth, expansion=self.expansion
        )
        return base.replace(dim=self.dim, memory=memory)

    @property
    def is_vector(self) -> bool:
        return self.head_dim == 1

    def build(self) -> TitansLM:
        """A new model."""
        model = TitansLM(self.config)
        if self.is_vector:
            for memory in memories_of(model):
                memory.output_norm = OverAllCells(self.heads, eps=memory.output_norm.eps)
        return model

    def __str__(self) -> str:
        if self.is_vector:
            return f"vector of {self.heads}, width {self.dim}"
        kind = f"depth {self.depth} ({self.expansion}x)"
        if self.depth == 1:
            kind = "matrix" if self.heads == 1 else f"{self.heads} matrices"
        own = "" if self.head_dim is None else f" of {self.head_dim}"
        return f"{kind}{own}, width {self.dim}"


class OverAllCells(RMSNorm):
    """What a vector memory's heads are normalised by: all of them."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        flat = None if gate is None else gate.flatten(-2)
        return super().forward(x.flatten(-2), flat).unflatten(-1, x.shape[-2:])


# A matrix beside deep memories of as many numbers (1,024, 2,048 and 8,192, to within 4 %), some of them as wide as
# another matrix.
MEMORIES = {
    str(memory): memory
    for memory in (
        Memory(32, heads=32, head_dim=1),
        Memory(32, heads=128, head_dim=1),
        Memory(32),
        Memory(23, depth=2),
        Memory(45),
        Memory(32, head_dim=45),
        Memory(32, heads=2, head_dim=32),
        Memory(32, depth=2),
        Memory(16, depth=2, expansion=4),
        Memory(90),
        Memory(32, head_dim=90),
        Memory(32, heads=8, head_dim=32),
        Memory(64, depth=2),
        Memory(32, depth=2, expansion=4),
    )
}


@dataclass(frozen=True)
class Job:
    """One training."""

    memory: str
    rate: float
    seed: int


def trained(source: Source, build: Callable[[], TitansLM], settings: TrainConfig) -> tuple[TitansLM, float]:
    """A new model after training on a recipe's own samples, on one thread, and how many seconds that took."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    model = build()
    with TemporaryDirectory() as folder:
        result = train(model, source((), settings, ByteTokenizer()), settings, Path(folder))
    return model, round(result.seconds, 1)


def measure(job: Job, steps: int) -> dict:
    """Trains one model and asks it; in a process of its own."""
    found, memory = recipe("mqar"), MEMORIES[job.memory]
    settings = replace(found.settings.for_steps(steps), learning_rate=job.rate, seed=job.seed)
    model, seconds = trained(found.source, memory.build, settings)
    right = {
        str(pairs): score(
            model, MQAR(vocab_size=memory.config.vocab_size, num_pairs=pairs), settings.length, SAMPLES, seed=EVAL_SEED
        ).tokens_right
        for pairs in MQAR_PAIRS
    }
    about = {"state": state_size(model), "parameters": model.num_parameters}
    return asdict(job) | about | {"train_seconds": seconds, "right": right}


def state_size(model: TitansLM) -> int:
    """Numbers that the weights of its memories have."""
    return sum(weight.numel() for memory in memories_of(model) for weight in memory.initial_weights)


def memories_of(model: TitansLM) -> list[NeuralMemory]:
    """All memories of a model."""
    return [module for module in model.modules() if isinstance(module, NeuralMemory)]


def best(runs: list[dict]) -> list[dict]:
    """For each memory, what each seed has right at its best rate, on average over the seeds that all its rates have."""
    rows = []
    for name in MEMORIES:
        by_rate: dict[float, list[dict]] = {}
        for one in runs:
            if one["memory"] == name:
                by_rate.setdefault(one["rate"], []).append(one)
        if by_rate:
            common = set.intersection(*({one["seed"] for one in own} for own in by_rate.values()))
            means = {
                rate: fmean(fmean(one["right"].values()) for one in own if not common or one["seed"] in common)
                for rate, own in by_rate.items()
            }
            rate = max(means, key=means.__getitem__)
            own = sorted(by_rate[rate], key=itemgetter("seed"))
            right = {pairs: [one["right"][str(pairs)] for one in own] for pairs in MQAR_PAIRS}
            about = {key: own[0][key] for key in ("state", "parameters")}
            rows.append({"memory": name} | about | {"rate": rate, "right": right})
    return rows


def table(runs: list[dict]) -> str:
    """As Markdown; values right in %, a number for each seed."""
    heads = ["memory", "state", "parameters", "rate", *(f"{pairs} pairs" for pairs in MQAR_PAIRS)]
    lines = [
        [
            row["memory"],
            f"{row['state']:,}",
            f"{row['parameters']:,}",
            f"{row['rate']:g}",
            *(", ".join(map(percent, shares)) for shares in row["right"].values()),
        ]
        for row in best(runs)
    ]
    return markdown_table(heads, lines)


def draw(rows: list[dict], path: Path) -> None:
    """Share right by number of pairs, a line for each memory."""
    styles = line_styles([row["memory"] for row in rows])
    with styled():
        figure, axes = new_panel("What a memory holds", "share of the values right", "pairs", lines=len(rows))
        for row in rows:
            color, dash, marker = styles[row["memory"]]
            axes.plot([fmean(shares) for shares in row["right"].values()], color=color, linestyle=dash, marker=marker)
        axes.set_xticks(range(len(MQAR_PAIRS)), [str(pairs) for pairs in MQAR_PAIRS])
        axes.set_ylim(0, 1.02)
        add_legend(figure, styles, {})
        save_svg(figure, path)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=[*MEMORIES], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--steps", type=int, default=recipe("mqar").settings.steps)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--out", type=Path, default=Path("docs/results/capacity.json"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    records = Records(options.out, "capacity.py", {"steps": options.steps})
    done = {Job(one["memory"], one["rate"], one["seed"]) for one in records.runs}
    planned = [Job(name, rate, seed) for seed in options.seeds for name in options.memories for rate in options.rates]
    waiting = [job for job in planned if job not in done]
    try:
        with Progress("train and ask", total=len(waiting), unit="memories") as progress:
            for found in in_processes(partial(measure, steps=options.steps), waiting, options.workers):
                if found is not None:
                    records.add(found)
                    progress.advance(1)
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command goes on from here") from None
    print(table(records.runs))
    draw(best(records.runs), options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
