"""One small set of results that has every section, nulls, and strings that try to break the page."""

import pytest

from titans.report.results import (
    Distance,
    Machine,
    ModelSummary,
    Recall,
    Results,
    Stream,
    StreamPoint,
    TaskScore,
    Training,
    TrainingPoint,
)

HOSTILE = '<script>alert("x")</script> & $\\frac{ id="a" url(#b) \x00\ud800 日本 </svg>'


def needle(model: str, kind: str, length: int, depth: float, share: float, samples: int) -> TaskScore:
    return TaskScore(
        model=model,
        task=f"needles {kind}",
        length=length,
        accuracy=share,
        tokens_accuracy=share,
        samples=samples,
        depth=depth,
    )


def curve(level: float) -> list[TrainingPoint]:
    batches = [TrainingPoint(tokens=100 * i, seconds=float(i), bits=level + 1 / i) for i in range(1, 20)]
    held_out = [TrainingPoint(tokens=100 * i, seconds=float(i), bits=level, validation=True) for i in (10, 19)]
    return [*batches, *held_out]


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def results() -> Results:
    summary = {"parameters": 1000, "train_tokens": 1900, "train_seconds": 90.0}
    return Results(
        title="A small run",
        command="titans quickstart --seed 0",
        created="2026-01-02T03:04:05",
        machine=Machine(processor="a processor", cores=2, memory_gb=8.0, python="3.12", torch="2.13"),
        settings={"seed": 0, "learning_rate": 0.001, "guard": True, "window_size": 64},
        models={
            "titans": ModelSummary(label="Titans (MAG)", final_bits_per_byte=2.125, **summary),
            "control": ModelSummary(label="Attention only", final_bits_per_byte=2.25, **summary),
        },
        training=Training(curves={"titans": curve(2.0), "control": curve(2.1)}),
        distance=Distance(
            buckets=[(0, 64), (64, 4096), (4096, 8192)],
            series={
                "memory on": [2.5, 2.25, None],
                "memory frozen": [2.5, None, None],
                "control": [2.5, 2.375, 2.5],
                "control, equal time": [None, None, None],
            },
            bytes=[10, 20, 0],
        ),
        recall=Recall(
            distances=[32, 64, 128, 4096],
            depths=[0.0, 0.5, 1.0],
            window=64,
            trained_to=128,
            samples=20,
            accuracy={
                "titans": [[1.0, 1.0, 0.75, 0.25], [1.0, 1.0, 0.5, None], [1.0, 1.0, 0.5, None]],
                "control": [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.125, None], [1.0, 1.0, 0.0, None]],
            },
            chance=0.1,
        ),
        scores=[
            needle("titans", "n", 2048, 0.0, 0.99, 50),
            needle("titans", "n", 2**21, 0.0, 0.61, 20),
            needle("titans", "n", 2048, 0.5, 0.42, 50),
            needle("titans", "n", 2**21, 0.5, 0.25, 20),
            needle("titans", "n", 2**21, 1.0, 0.07, 20),
            needle("titans", "n", 2048, 1.0, 1.0, 50),
            needle("control", "n", 2048, 0.5, 0.13, 50),
            needle("control", "n", 2048, 1.0, 0.75, 50),
            needle("titans", "pk", 2048, 0.5, 1.0, 50),
        ],
        stream=Stream(
            points=[
                StreamPoint(tokens=n, seconds=n / 100, resident_mb=400.0, tokens_per_second=100.0, bits_per_byte=2.0)
                for n in (500_000, 1_000_000)
            ]
        ),
        notes=["Two tiny models, one seed."],
    )
