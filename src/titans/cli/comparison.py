"""The quickstart's work: three trainings side by side, then everything that is measured on the trained models."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from titans.cli import corpus, findings
from titans.data.batches import DocumentBatches, MixedBatches
from titans.data.text import SPOOLED_NAME, Document, split_documents
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.frozen import without_writes
from titans.models.language_model import TitansLM
from titans.models.presets import control_of
from titans.report.html import write_report
from titans.report.metrics import METRICS_NAME, read_curve
from titans.report.results import RESULTS_NAME, Recall, Results, Training, TrainingPoint, write_results
from titans.tasks.comparison_keys import CHANCE, LONGEST, PassKeyBatches, recall
from titans.training.config import TrainConfig
from titans.training.evaluate import Evaluation, evaluate
from titans.training.interrupt import hold_interrupts
from titans.training.loop import TrainResult, train
from titans.training.optimizer import make_optimizer
from titans.training.progress import Progress
from titans.training.stream import StreamMoment, stream

ROWS, LENGTH, LEARNING_RATE = 4, 512, 3e-3
TIMING_SHARE = 0.02  # of the time, to measure how long a step takes
TRAINING_SHARE = 0.45  # of the time, for the slower model; the rest is the third training and the measurements
STREAM_TOKENS = 1_048_576
DISTANCE_TOKENS = 300_000
RECALL_DISTANCES = (256, 512, 1024, 2048, 4096, 8192)
RECALL_DEPTHS = (0.0, 0.25, 0.5)
RECALL_SAMPLES = 8
_RUNS = ("titans", "control", "control_equal_time")
OWN_FILES = (*_RUNS, findings.MODEL, findings.MEMORY, SPOOLED_NAME, RESULTS_NAME, ".*.tmp")
"""What `compare` makes in its folder, report aside."""


@dataclass(frozen=True)
class Contender:
    """One of the models that are compared."""

    label: str
    config: TitansConfig
    steps: int


def compare(text: str | None, out: Path, minutes: float, seed: int, *, as_json: bool) -> None:
    """Runs the whole comparison and prints its table, or its results as JSON."""
    torch.set_num_threads(1)  # the models are small: two single-threaded processes beat one with two threads
    started, scale = time.perf_counter(), min(1.0, minutes / 8)
    samples = max(2, round(RECALL_SAMPLES * scale))
    documents = corpus.documents(text, spool=out)
    for document in documents:  # a bad byte is better found now than after the trainings
        document.read(0, len(document))
    train_documents, held_out = split_documents(documents, seed=seed)
    with _two_processes() as pool:
        contenders = _contenders(pool, train_documents, minutes, seed)
        print(findings.introduction(contenders.values(), train_documents, held_out, minutes), file=sys.stderr)
        running: dict[str, Future[TrainResult]] = {}

        def begin(name: str) -> None:
            with hold_interrupts():
                running[name] = pool.submit(_train, contenders[name], train_documents, held_out, seed, out / name)

        begin("titans")
        begin("control")
        _watch(running, contenders, out, until=("control",))
        contenders["control_equal_time"] = _for_equal_time(contenders["control_equal_time"], out)
        begin("control_equal_time")
        _watch(running, contenders, out, until=("titans",))
        titans = TitansLM.load(running["titans"].result().checkpoint)
        moments = _stream(titans, held_out, out, round(STREAM_TOKENS * scale) if minutes < 4 else STREAM_TOKENS)
        evaluations, recalls = {}, {}
        evaluations["memory on"] = _by_distance(titans, held_out, scale, "memory on")
        evaluations["memory frozen"] = _by_distance(without_writes(titans), held_out, scale, "memory frozen")
        recalls["titans"] = _recall(titans, held_out, seed, samples, "recall, Titans")
        control = TitansLM.load(running["control"].result().checkpoint)
        evaluations["control"] = _by_distance(control, held_out, scale, "control")
        recalls["control"] = _recall(control, held_out, seed, samples, "recall, control")
        _watch(running, contenders, out, until=("control_equal_time",))
        longer = TitansLM.load(running["control_equal_time"].result().checkpoint)
        evaluations["control, equal time"] = _by_distance(longer, held_out, scale, "control, equal time")

    results = Results(
        title="Titans quickstart: what the memory adds",
        command=findings.command(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=findings.machine(),
        settings=findings.settings(
            contenders["titans"].config, text=text, seed=seed, minutes=(time.perf_counter() - started) / 60
        ),
        models={
            name: findings.summary(contender.label, contender.config, running[name].result(), evaluations[series])
            for (name, contender), series in zip(
                contenders.items(), ("memory on", "control", "control, equal time"), strict=True
            )
        },
        training=Training(curves={name: _validation(out / name) for name in contenders}),
        distance=findings.by_distance(evaluations),
        recall=Recall(
            distances=list(RECALL_DISTANCES),
            depths=list(RECALL_DEPTHS),
            window=contenders["titans"].config.window_size,
            trained_to=LONGEST,
            samples=samples,
            accuracy=recalls,
            chance=CHANCE,
        ),
        stream=findings.streamed(moments),
        notes=findings.notes(evaluations, minutes),
    )
    write_results(out, results)
    report = write_report(out)
    if as_json:
        print(json.dumps(asdict(results), indent=2))
    else:
        findings.show(results, out, report)


@contextmanager
def _two_processes() -> Iterator[ProcessPoolExecutor]:
    """Processes for the trainings, which end at once if the work inside does not succeed."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), _begin_process) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin_process() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # Ctrl-C is the other process's to handle
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _validation(run: Path) -> list[TrainingPoint]:
    """The held-out points of a curve; those of training batches count pass keys more than text."""
    return [point for point in read_curve(run) if point.validation]


def _contenders(
    pool: ProcessPoolExecutor, documents: Sequence[Document], minutes: float, seed: int
) -> dict[str, Contender]:
    """Titans, the control that sees as many tokens, and the control that trains as long."""
    memory = MemoryConfig(num_heads=2, depth=1, chunk_size=32)
    config = TitansConfig(variant="mag", dim=64, num_layers=2, num_heads=2, window_size=32, memory=memory)
    control = control_of(config)
    print("Measuring how long a training step takes.", file=sys.stderr)
    with hold_interrupts():  # side by side, as they will be trained
        timed = [
            pool.submit(_seconds_per_step, each, documents, seed, TIMING_SHARE * minutes * 60)
            for each in (config, control)
        ]
    step, control_step = (future.result() for future in timed)
    steps = max(10, round(TRAINING_SHARE * minutes * 60 / step))
    longer = round(steps * max(1.0, step / control_step))  # as it looks now; _for_equal_time knows better
    return {
        "titans": Contender("Titans (MAG)", config, steps),
        "control": Contender("control, equal tokens", control, steps),
        "control_equal_time": Contender("control, equal time", control, longer),
    }


def _for_equal_time(control: Contender, out: Path) -> Contender:
    """With as many steps as take as long as Titans' training, by how fast both have been since they began."""
    titans, equal_tokens = (_curve(out / name) for name in ("titans", "control"))
    if not titans:  # a training of seconds: what was measured before has to do
        return control
    speed, control_speed = (curve[-1].tokens / curve[-1].seconds for curve in (titans, equal_tokens))
    steps = equal_tokens[-1].tokens / (ROWS * LENGTH)
    return replace(control, steps=round(steps * max(1.0, control_speed / speed)))


def _curve(run: Path) -> list[TrainingPoint]:
    """What a training has written so far."""
    return read_curve(run) if (run / METRICS_NAME).exists() else []


def _source(documents: Sequence[Document], seed: int) -> MixedBatches:
    """Half of the rows text, half of them text with pass keys."""
    text = DocumentBatches(documents, ROWS // 2, LENGTH, seed)
    return MixedBatches([text, PassKeyBatches(documents, ROWS // 2, LENGTH, seed)])


def _seconds_per_step(config: TitansConfig, documents: Sequence[Document], seed: int, seconds: float) -> float:
    """Median time of the training steps of a model that is thrown away after about `seconds`."""
    model = TitansLM(config)
    optimizer = make_optimizer(model, _train_config(10, seed))
    source = _source(documents, seed)
    times, started = [], time.perf_counter()
    while len(times) < 6 or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        batch = source.next()
        model.loss(batch.tokens, batch.labels, reset=batch.reset, weights=batch.weights)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begun)
    return median(times[len(times) // 3 :])  # the first steps are slower than all later ones


def _train_config(steps: int, seed: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=ROWS,
        length=LENGTH,
        learning_rate=LEARNING_RATE,
        seed=seed,
        log_every=5,
        eval_every=max(1, steps // 8),
        eval_tokens=16_384,
        save_every=max(1, steps // 3),
    )


def _train(
    contender: Contender, documents: list[Document], held_out: list[Document], seed: int, out: Path
) -> TrainResult:
    """One training, in a process of its own."""
    torch.manual_seed(seed)
    return train(
        TitansLM(contender.config),
        _source(documents, seed),
        _train_config(contender.steps, seed),
        out,
        validation=lambda: DocumentBatches(held_out, min(ROWS, len(held_out)), LENGTH, seed, epochs=1),
    )


def _watch(
    running: dict[str, Future[TrainResult]], contenders: dict[str, Contender], out: Path, until: tuple[str, ...]
) -> None:
    """Shows the progress of the trainings until some are done."""
    total = sum(contender.steps for contender in contenders.values()) * ROWS * LENGTH
    with Progress("train all three", total=total, unit="tokens") as progress:
        seen = None
        while True:
            done, _ = wait([running[name] for name in until], timeout=1.0)
            curves = {name: _curve(out / name) for name in contenders}
            now = sum(max((point.tokens for point in curve), default=0) for curve in curves.values())
            bits = {name: curve[-1].bits for name, curve in curves.items() if curve and curve[-1].bits is not None}
            if seen is None:  # what was trained while something else was shown
                seen = now
                progress.skip(now)
            progress.advance(now - seen, **{name: value for name, value in bits.items() if value is not None})
            seen = now
            for future in done:
                future.result()  # a failure ends the wait
            if len(done) == len(until):
                return


def _stream(model: TitansLM, held_out: list[Document], out: Path, tokens: int) -> list[StreamMoment]:
    """Reads so many tokens in one go; saves the model and the memory that has read them."""
    with Progress("stream", total=tokens, unit="tokens") as progress:
        moments, state = stream(model, held_out, tokens, progress)
    model.save(out / findings.MODEL)
    state.save(out / findings.MEMORY, model)
    return moments


def _by_distance(model: TitansLM, held_out: list[Document], scale: float, name: str) -> Evaluation:
    tokens = round(DISTANCE_TOKENS * scale)
    with Progress(f"predict, {name}", total=tokens, unit="tokens") as progress:
        source = DocumentBatches(held_out, min(16, len(held_out)), 1024, epochs=1)
        return evaluate(model, source, tokens, progress=progress)


def _recall(model: TitansLM, held_out: list[Document], seed: int, samples: int, name: str) -> list[list[float | None]]:
    """Accuracy by depth (rows) and distance (columns)."""
    rows: list[list[float | None]] = []
    with Progress(name, total=len(RECALL_DISTANCES) * len(RECALL_DEPTHS) * samples, unit="keys") as progress:
        for depth in RECALL_DEPTHS:
            rows.append([])
            for distance in RECALL_DISTANCES:
                rows[-1].append(recall(model, held_out, distance, depth, samples, seed))
                progress.advance(samples)
    return rows
