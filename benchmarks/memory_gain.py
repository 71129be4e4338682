"""Does the memory earn its place? Titans and the same model without memory, trained side by side on several seeds.

Four models with about as many parameters each read the same batches in the same order:

    titans                 the variant asked for
    control                the same blocks without memory
    control, equal time    the control, trained on for as long as Titans takes
    full attention         the control with a window over the whole training context: the ceiling

Then each reads held-out documents: bits per byte by distance from the document's beginning and, where training showed
pass keys, how many of them it recalls. What is done is kept: the same command goes on where it was interrupted, and
more seeds can be added to a finished one. Checkpoints are in runs/, in a folder named after the result.

    python benchmarks/memory_gain.py --variant mag --depth 2 --tokens 4000000 --out docs/results/memory_gain.json
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

import torch
from gain_summary import MODELS, draw, summarise, to_markdown
from records import Records, in_processes

from titans.cli import corpus
from titans.cli.comparison import RECALL_DEPTHS, RECALL_SAMPLES
from titans.data.batches import BatchSource, DocumentBatches, MixedBatches
from titans.data.text import Document, split_documents
from titans.files import read_json
from titans.memory.config import MemoryConfig
from titans.models.config import VARIANTS, TitansConfig, Variant
from titans.models.language_model import TitansLM
from titans.models.presets import control_of
from titans.report.metrics import METRICS_NAME, read_curve
from titans.tasks.comparison_keys import PassKeyBatches, recall
from titans.training.checkpoint import current
from titans.training.config import TrainConfig
from titans.training.evaluate import evaluate
from titans.training.loop import train
from titans.training.progress import Progress

RECALL_DISTANCES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
TIMED_ROUNDS, TIMED_STEPS = 5, 4
SECONDS_PER_LINE = 15.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared, and on what; results of different settings do not mix."""

    text: str | None
    variant: Variant
    depth: int
    chunk_size: int
    window: int
    ceiling_window: int
    dim: int
    layers: int
    heads: int
    memory_layers: list[int]
    tokens: int
    length: int
    rows: int
    learning_rate: float
    pass_keys: float
    eval_tokens: int
    recall_distances: list[int]

    def steps(self, tokens: int) -> int:
        """Training steps for so many tokens."""
        return max(1, round(tokens / (self.rows * self.length)))


@dataclass(frozen=True)
class Job:
    """One model of one seed."""

    seed: int
    model: str
    config: TitansConfig
    steps: int
    folder: Path


def configurations(settings: Settings) -> dict[str, TitansConfig]:
    """The model behind each name, all with about as many parameters."""
    titans = TitansConfig(
        variant=settings.variant,
        dim=settings.dim,
        num_layers=settings.layers,
        num_heads=settings.heads,
        window_size=settings.window,
        segment_size=settings.window,
        memory_layers=tuple(settings.memory_layers),
        memory=MemoryConfig(num_heads=settings.heads, depth=settings.depth, chunk_size=settings.chunk_size),
    )
    control = control_of(titans)
    ceiling = control.replace(window_size=settings.ceiling_window)
    return dict(zip(MODELS, (titans, control, control, ceiling), strict=True))


def batches(settings: Settings, documents: Sequence[Document], seed: int) -> BatchSource:
    """Text, with pass keys in a share of the rows."""
    key_rows = round(settings.pass_keys * settings.rows)
    if key_rows == 0:
        return DocumentBatches(documents, settings.rows, settings.length, seed)
    text = DocumentBatches(documents, settings.rows - key_rows, settings.length, seed)
    return MixedBatches([text, PassKeyBatches(documents, key_rows, settings.length, seed)])


def train_config(settings: Settings, steps: int, seed: int) -> TrainConfig:
    """How every model is trained."""
    return TrainConfig(
        steps=steps,
        batch_size=settings.rows,
        length=settings.length,
        learning_rate=settings.learning_rate,
        seed=seed,
    )


def step_seconds(settings: Settings, documents: Sequence[Document]) -> dict[str, float]:
    """Median time of a training step of Titans and of the control, taken in turns: other work slows both alike."""
    configs = configurations(settings)
    times: dict[str, list[float]] = {"titans": [], "control": []}
    with TemporaryDirectory() as folder:
        for turn in range(TIMED_ROUNDS):
            for name, seconds in times.items():
                source, config = batches(settings, documents, 0), train_config(settings, TIMED_STEPS, 0)
                result = train(TitansLM(configs[name]), source, config, Path(folder, f"{name}-{turn}"))
                seconds.append(result.seconds / TIMED_STEPS)
    return {name: median(seconds) for name, seconds in times.items()}


def jobs(settings: Settings, seeds: Sequence[int], seconds: dict[str, float], folder: Path) -> list[Job]:
    """Everything there is to train, seed by seed."""
    equal_time = round(settings.tokens * seconds["titans"] / seconds["control"])
    return [
        Job(
            seed,
            model,
            config,
            settings.steps(equal_time if model == "control, equal time" else settings.tokens),
            folder / f"seed-{seed}-{model.replace(',', '').replace(' ', '-')}",
        )
        for seed in seeds
        for model, config in configurations(settings).items()
    ]


def measure(job: Job, settings: Settings, documents: list[Document], held_out: list[Document]) -> dict:
    """Trains one model, or goes on with it, and reads the held-out text; in a process of its own."""
    torch.manual_seed(job.seed)
    model = TitansLM(job.config)
    result = train(
        model,
        batches(settings, documents, job.seed),
        train_config(settings, job.steps, job.seed),
        job.folder,
        resume=current(job.folder) is not None,
    )
    evaluation = evaluate(
        model, DocumentBatches(held_out, min(16, len(held_out)), 1024, epochs=1), settings.eval_tokens
    )
    distances = {bucket.label: bucket.bits_per_token for bucket in evaluation.by_distance}
    return {
        "seed": job.seed,
        "model": job.model,
        "parameters": model.num_parameters,
        "tokens": result.tokens,
        "train_seconds": round(result.seconds, 1),
        "bits_per_byte": {"all": evaluation.bits_per_token} | distances,
        "bytes": {bucket.label: bucket.tokens for bucket in evaluation.by_distance},
        "recall": _recall(model, held_out, settings, job.seed) if settings.pass_keys > 0 else None,
    }


def _recall(model: TitansLM, held_out: list[Document], settings: Settings, seed: int) -> dict[str, float]:
    """Share of keys recalled at each distance, mean over the depths."""
    return {
        str(distance): fmean(recall(model, held_out, distance, depth, RECALL_SAMPLES, seed) for depth in RECALL_DEPTHS)
        for distance in settings.recall_distances
    }


def records_of(out: Path, settings: Settings, documents: Sequence[Document]) -> Records:
    """What there is so far; the first time, the times that decide how long the control trains."""
    seconds = read_json(out)["step_seconds"] if out.exists() else step_seconds(settings, documents)
    about = {"settings": asdict(settings), "step_seconds": seconds}
    records = Records(out, "memory_gain.py", about, summarise)
    records.write()
    return records


def run(
    waiting: list[Job],
    workers: int,
    settings: Settings,
    split: tuple[list[Document], list[Document]],
    records: Records,
) -> None:
    """Works through the jobs, a few at a time, and writes each result as soon as it is there."""
    total = sum(job.steps for job in waiting) * settings.rows * settings.length
    work = partial(measure, settings=settings, documents=split[0], held_out=split[1])
    with Progress("train and evaluate", total=total, unit="tokens") as progress:
        seen = sum(map(tokens_read, waiting))
        progress.skip(seen)
        for found in in_processes(work, waiting, workers, SECONDS_PER_LINE):
            if found is not None:
                records.add(found)
            now = sum(map(tokens_read, waiting))
            progress.advance(now - seen, finished=len(records.runs))
            seen = now


def tokens_read(job: Job) -> int:
    """How many tokens a training has read so far."""
    if not (job.folder / METRICS_NAME).exists():
        return 0
    return max((point.tokens for point in read_curve(job.folder)), default=0)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a file, folder or .gz; left out: the Python standard library's sources")
    parser.add_argument("--variant", choices=[v for v in VARIANTS if v != "attention"], default="mag")
    parser.add_argument("--depth", type=int, choices=(1, 2), default=1, help="layers of the memory network")
    parser.add_argument("--chunk-size", type=int, default=32)
    parser.add_argument("--window", type=int, default=32, help="of attention; for mac, the segment")
    parser.add_argument("--ceiling-window", type=int, default=2048, help="of full attention")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2, help="of attention and of the memory")
    parser.add_argument("--memory-layers", type=int, nargs="+", default=[1], help="blocks with a memory, from 0")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="training tokens")
    parser.add_argument("--length", type=int, default=512, help="tokens per row and step")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--pass-keys", type=float, default=0.0, help="share of the rows, for example 0.5")
    parser.add_argument("--eval-tokens", type=int, default=500_000, help="held-out tokens")
    parser.add_argument("--recall-distances", type=int, nargs="+", default=list(RECALL_DISTANCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--out", type=Path, default=Path("runs/memory_gain.json"))
    parsed = parser.parse_args()
    if not 0 <= parsed.pass_keys < 1 or round(parsed.pass_keys * parsed.rows) == parsed.rows:
        parser.error("--pass-keys must be from 0 to below 1 and leave a row for text")
    return parsed


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    folder = Path("runs") / options.out.stem
    split = split_documents(corpus.documents(settings.text, spool=folder))
    records = records_of(options.out, settings, split[0])
    done = {(result["seed"], result["model"]) for result in records.runs}
    planned = jobs(settings, options.seeds, records.about["step_seconds"], folder)
    waiting = [job for job in planned if (job.seed, job.model) not in done]
    try:
        run(waiting, options.workers, settings, split, records)
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command goes on from here") from None
    results = read_json(options.out)
    print(to_markdown(results))
    draw(results, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
