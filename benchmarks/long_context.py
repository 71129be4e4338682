"""The tables of docs/long-context.md: models trained by a recipe, asked at every length, several seeds side by side.

Every step is a command of `titans` that can be typed by itself: one `titans train` per model, rate and seed, then one
`titans eval` per question. Runs, their scores and logs are in --runs, the scores of all in
docs/results/RECIPE/results.json, with a page and a picture of them beside it. What is done is kept: the same command
goes on where it was interrupted, and models, seeds and longer texts can be added.

    python benchmarks/long_context.py needles --models mag lmm --seeds 0 1 2 --text books --haystack held_out.txt
    python benchmarks/long_context.py parity --models lmm attention llama mamba2
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from threading import Lock

import long_context_tables
from long_context_page import write_page

from titans.baselines import NAMES, BaselineConfig, baseline_like, load_model
from titans.cli.corpus import require_as_begun, require_text
from titans.cli.processors import processors
from titans.errors import TitansError
from titans.files import read_json
from titans.models.config import VARIANTS, TitansConfig
from titans.models.presets import control_of
from titans.report.results import RESULTS_NAME, ModelSummary, Results, read_results, write_results
from titans.tasks.recipes import MQAR_PAIRS, recipe
from titans.training.checkpoint import current, find_checkpoint, read_progress, read_settings
from titans.training.metrics import Meter
from titans.training.progress import Progress

TITANS = Path(sys.executable).with_name("titans")
LABELS = {
    "mac": "Titans (MAC)",
    "mag": "Titans (MAG)",
    "mal": "Titans (MAL)",
    "lmm": "Titans (LMM)",
    "attention": "control",
    "llama": "Llama",
    "llama-swa": "Llama, sliding window",
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "delta": "DeltaNet",
    "delta-neg": "DeltaNet, steps up to 2",
    "gated-delta": "Gated DeltaNet",
    "gated-delta-neg": "Gated DeltaNet, steps up to 2",
    "hybrid": "hybrid",
}


@dataclass(frozen=True)
class Question:
    """What one `titans eval` asks."""

    task: str
    """the task and its options"""
    lengths: tuple[int, ...]
    samples: int
    batch_size: int = 8
    depths: int | None = None

    def up_to(self, longest: int) -> "Question":
        """The same without longer samples."""
        return replace(self, lengths=tuple(length for length in self.lengths if length <= longest))

    def arguments(self, haystack: str | None) -> list[str]:
        """Of `titans eval`."""
        found = [*self.task.split(), "--length", *map(str, self.lengths), "--samples", str(self.samples)]
        found += ["--batch-size", str(self.batch_size)]
        found += [] if self.depths is None else ["--depths", str(self.depths)]
        return found if haystack is None else [*found, "--haystack", haystack]


KINDS, SHORT = ("pk", "n", "w"), (2048, 4096, 8192, 16384)
RECALL = (128, 512, 2048)
QUESTIONS: dict[str, tuple[Question, ...]] = {
    "needles": (
        *(Question(f"needles --kind {kind}", SHORT, samples=100, batch_size=50) for kind in KINDS),
        *(Question(f"needles --kind {kind}", (131072,), samples=4, depths=5) for kind in KINDS),
        Question("needles --kind pk", (2097152,), samples=4, depths=5),
    ),
    "babilong": tuple(
        Question(f"babilong --question qa{number}", lengths, samples, batch_size)
        for lengths, samples, batch_size in (
            ((0, 1024, 4096), 100, 50),
            ((16384,), 50, 10),
            ((32768,), 20, 10),
            ((131072,), 20, 10),
        )
        for number in range(1, 6)
    ),
    "parity": (Question("state-tracking --problem parity", (32, 128, 512, 2048), samples=100, batch_size=50),),
    "S3": (Question("state-tracking --problem S3 --tokens-each 2", (128, 512, 1024), samples=100, batch_size=50),),
    "mqar": tuple(Question(f"mqar --num-pairs {pairs}", (512,), samples=200, batch_size=50) for pairs in MQAR_PAIRS),
    "copying": (Question("copying", (128, 256, 512, 4096), samples=200, batch_size=50),),
    **{
        name: (Question(name, RECALL, samples=200, batch_size=50),)
        for name in ("in-context-recall", "noisy-recall", "fuzzy-recall")
    },
}


@dataclass(frozen=True)
class Run:
    """One training and what is asked of it."""

    recipe: str
    model: str
    seed: int
    rate: float | None
    """learning rate; None: the recipe's"""
    folder: Path

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return f"{LABELS[self.model]}{rate}, seed {self.seed}"

    @property
    def scores(self) -> Path:
        """Where its scores are."""
        return self.folder / "scores"

    @property
    def checkpoint(self) -> Path | None:
        """What has been trained, if anything."""
        return current(self.folder)

    def train(self, text: str | None) -> list[str]:
        """The command that trains it, or goes on."""
        if self.checkpoint is not None:
            return ["titans", "train", "--resume", str(self.folder)]
        kind = "--variant" if self.model in VARIANTS else "--baseline"
        found = ["titans", "train", "--recipe", self.recipe, kind, self.model, "--seed", str(self.seed)]
        found += [] if self.rate is None else ["--learning-rate", f"{self.rate:g}"]
        found += [] if text is None else ["--text", text]
        return [*found, "--out", str(self.folder)]

    @property
    def config(self) -> TitansConfig | BaselineConfig:
        """The model that `train` builds."""
        like = recipe(self.recipe).config
        if self.model in NAMES:
            return baseline_like(self.model, like)
        return control_of(like) if self.model == "attention" else like.replace(variant=self.model)

    def require_as_now(self, text: str | None, haystack: str | None) -> None:
        """Refuses what is there if `train` would make something else by now, or questions were asked elsewhere."""
        if self.checkpoint is None:
            return
        settings = replace(recipe(self.recipe).settings, seed=self.seed)
        settings = settings if self.rate is None else replace(settings, learning_rate=self.rate)
        expected = self.config
        try:
            found = type(expected).from_dict(read_json(self.checkpoint / "config.json"))
            if found != expected or read_settings(self.checkpoint) != settings:
                raise TitansError(
                    f"{self.folder} holds another model than the recipe {self.recipe} makes now, or one trained "
                    "otherwise: move it away, or name another folder by --runs"
                )
            require_as_begun(self.folder, settings)
            if recipe(self.recipe).reads_text:
                require_text(self.folder, text)
        except TitansError as error:
            raise SystemExit(str(error)) from None
        for other in self.haystacks - {haystack}:
            raise SystemExit(
                f"{self.scores} holds answers about {other or 'what the run held out'}: move it away, or ask with the "
                "same --haystack"
            )

    def is_trained(self) -> bool:
        """Whether the last step has been taken."""
        if self.checkpoint is None:
            return False
        progressed = read_progress(self.checkpoint)
        return progressed.step == progressed.config["steps"]

    def eval(self, arguments: Sequence[str]) -> list[str]:
        """The command that asks it."""
        return ["titans", "eval", *arguments, "--checkpoint", str(self.folder), "--save", str(self.scores)]

    def unanswered(self, question: Question, haystack: str | None) -> Question:
        """What has not been asked: the same without the lengths that have all their scores."""
        if not (self.scores / RESULTS_NAME).exists():
            return question
        asked = _without_lengths(self.eval(question.arguments(haystack)))
        found = [score for score in read_results(self.scores).scores if score.command is not None]
        there = Counter(score.length for score in found if _without_lengths(shlex.split(score.command)) == asked)
        depths = question.depths or 1
        return replace(question, lengths=tuple(length for length in question.lengths if there[length] < depths))

    @property
    def haystacks(self) -> set[str | None]:
        """What its answers were hidden in, as the commands name it; None: in what the run held out."""
        if not (self.scores / RESULTS_NAME).exists():
            return set()
        commands = [shlex.split(score.command or "") for score in read_results(self.scores).scores]
        return {command[command.index("--haystack") + 1] if "--haystack" in command else None for command in commands}

    def summary(self) -> ModelSummary:
        """Its size and its training."""
        meter = Meter.from_dict(read_progress(find_checkpoint(self.folder)).meter)
        return ModelSummary(
            label=self.label,
            parameters=load_model(self.folder).num_parameters,
            train_tokens=meter.tokens,
            train_seconds=meter.seconds,
            final_bits_per_byte=None,
        )


class Table:
    """The scores of all runs in one file."""

    def __init__(self, folder: Path, title: str, command: str) -> None:
        self.folder, self._lock = folder, Lock()
        there = (folder / RESULTS_NAME).exists()
        results = read_results(folder) if there else Results(title=title)
        earlier = (results.command or "").splitlines()
        self._results = replace(results, command="\n".join(dict.fromkeys([*earlier, command])))

    def take(self, run: Run) -> None:
        """The scores and the size of a run, in place of those that were there."""
        found = read_results(run.scores)
        own = [replace(score, model=run.label) for score in found.scores]
        with self._lock:
            others = [score for score in self._results.scores if score.model != run.label]
            self._results = replace(
                self._results,
                created=found.created,
                scores=[*others, *own],
                models=self._results.models | {run.label: run.summary()},
            )
            write_results(self.folder, self._results)


def steps(run: Run, options: argparse.Namespace) -> Iterator[list[str]]:
    """The commands that are still to be run, in their order."""
    if not run.is_trained():
        yield run.train(options.text)
    for question in QUESTIONS[run.recipe]:
        left = run.unanswered(question.up_to(options.longest), options.haystack)
        if left.lengths:
            yield run.eval(left.arguments(options.haystack))


def execute(command: Sequence[str], log: Path, threads: int) -> int:
    """Runs a command of `titans` with its output at the end of `log`, and returns its exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print(shlex.join(command), file=file, flush=True)
        done = subprocess.run([TITANS, *command[1:]], stdout=file, stderr=file, env=environment, check=False)
    return done.returncode


def work(run: Run, commands: Sequence[list[str]], threads: int, table: Table, progress: Progress) -> None:
    """Runs a run's commands one after the other, and has all its scores in the table."""
    if (run.scores / RESULTS_NAME).exists():
        table.take(run)
    log = run.folder.with_name(f"{run.folder.name}.log")
    for command in commands:
        code = execute(command, log, threads)
        if code:
            raise SystemExit(f"{shlex.join(command)} ended with code {code}: {log.read_text().splitlines()[-1]}")
        if command[1] == "eval":
            table.take(run)
        progress.advance(1)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=QUESTIONS)
    parser.add_argument("--models", nargs="+", choices=LABELS, default=["mac", "mag", "mal", "lmm"], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[None], help="learning rates (default: the recipe's)")
    parser.add_argument("--text", help="to train on, for recipes that read text")
    parser.add_argument("--haystack", help="to hide things in when asking (default: what a run held out)")
    parser.add_argument("--longest", type=int, default=2097152, help="leave out longer samples")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side; each has its share of the processors")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(given)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; it must be at least 1")
    shortest = min(length for question in QUESTIONS[options.recipe] for length in question.lengths)
    if options.longest < shortest:
        parser.error(f"--longest is {options.longest}; it must be at least {shortest}, the shortest sample's")
    for name in ("text", "haystack"):
        path = getattr(options, name)
        if path is not None and not Path(path).exists():
            parser.error(f"--{name} {path} does not exist")
        if path is not None and not recipe(options.recipe).reads_text:
            parser.error(f"the recipe {options.recipe!r} reads no text: leave --{name} out")
    return options


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    runs = [
        Run(options.recipe, model, seed, rate, options.runs / options.recipe / _folder(model, seed, rate))
        for seed in dict.fromkeys(options.seeds)
        for model in dict.fromkeys(options.models)
        for rate in dict.fromkeys(options.rates)
    ]
    command = shlex.join(["python", "benchmarks/long_context.py", *(sys.argv[1:] if given is None else given)])
    for run in runs:
        run.require_as_now(options.text, options.haystack)
    table = Table(options.out / options.recipe, f"Titans and others: {options.recipe}", command)
    plans = [(run, list(steps(run, options))) for run in runs]
    threads = max(1, processors() // options.jobs)
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        Progress("train and ask", total=sum(len(plan) for _, plan in plans), unit="commands") as progress,
    ):
        try:
            waiting = [pool.submit(work, run, plan, threads, table, progress) for run, plan in plans]
            failed = [str(error) for future in as_completed(waiting) if (error := future.exception()) is not None]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise SystemExit("interrupted: the same command goes on from here") from None
    if failed:
        raise SystemExit("\n".join(failed))
    print(write_page(table.folder))
    if options.out.resolve() == long_context_tables.RESULTS:
        long_context_tables.main()


def _without_lengths(command: Sequence[str]) -> list[str]:
    """The same command without `--length` and its numbers."""
    if "--length" not in command:
        return [*command]
    start = command.index("--length")
    rest = list(dropwhile(str.isdigit, command[start + 1 :]))
    return [*command[:start], *rest]


def _folder(model: str, seed: int, rate: float | None) -> str:
    return f"{model}-{seed}" if rate is None else f"{model}-{rate:g}-{seed}"


if __name__ == "__main__":
    main()
