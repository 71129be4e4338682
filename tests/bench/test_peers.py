"""The scripts of `make bench`; other packages only where they are installed."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peers
import performance_aims
import performance_page
import pytest

from titans.bench.contest import Outcome, Result
from titans.bench.memory import QUICK, contests
from titans.bench.results import Measurements
from titans.bench.timing import quartiles
from titans.report.results import Machine


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("default")
def test_titans_pytorch_is_the_same_kind_of_memory(training: bool):
    pytest.importorskip("titans_pytorch")
    size = replace(QUICK[0], T=128)
    for contender in peers.layers(size, training)[:3]:
        contender.make().run()
    layer: Any = peers._titans_pytorch(size, 1, 64)
    shapes = [tuple(p.shape) for p in layer.memory_model_parameters]
    assert shapes == [(size.H, size.d), (size.H, size.d, size.h), (size.H, size.h, size.d)]


@pytest.mark.filterwarnings("default")
def test_layers_and_models_of_transformers_run():
    pytest.importorskip("transformers")
    from titans.bench import model

    for contender in [*peers.layers(QUICK[0], True), *peers.models(model.QUICK)]:
        if contender.name in (peers.MAMBA, peers.LLAMA, "gated delta, Qwen3-Next"):
            contender.make().run()


def result(name: str, tokens_per_second: float, speed: float, peak: float) -> Result:
    return Result(
        name=name,
        tokens=100,
        tokens_per_second=quartiles([tokens_per_second]),
        speed=quartiles([speed]),
        peak_mb=peak,
    )


def test_the_page_has_the_command_the_ratios_and_the_tables(tmp_path: Path):
    base = "native, chunk 16"
    title = next(each.title for each in contests() if each.title.startswith("layer, forward + backward"))
    outcome = Outcome(
        title=title,
        base=base,
        threads=1,
        results=[result(base, 8000, 1, 40), result(peers.PER_TOKEN, 100, 0.0125, 4000)],
    )
    measurements = Measurements(
        subject="memory",
        command="python benchmarks/performance.py memory",
        created="2026-01-02T03:04:05+00:00",
        machine=Machine(processor="a processor", cores=2, memory_gb=8.0, python="3.12", torch="2.13"),
        packages={"titans-pytorch": "0.5.5"},
        rounds=7,
        outcomes=[outcome],
    )
    numbers = tmp_path / "results" / "performance.json"
    page = performance_page.render({"memory": measurements}, numbers, numbers.with_suffix(".svg"), tmp_path)
    assert "| layer, training, speed against titans-pytorch per token | at least 80 | 80 | yes |" in page
    assert "| layer, training, memory as a share of titans-pytorch's per token | at most 0.1 | 0.01 | yes |" in page
    assert "chunks of 64 |" not in page  # nothing was measured for that aim
    assert "```\npython benchmarks/performance.py memory\n```" in page
    assert "titans-pytorch 0.5.5" in page
    assert "(results/performance.svg)" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 400
    assert title.startswith(performance_page.HEADLINES)


def test_an_aim_is_reached_by_all_by_some_or_by_none():
    def step(threads: int, mac: float, mag: float) -> Outcome:
        speeds = {"mac": mac, "mag": mag, peers.MAC: 1.0, "attention": 10.0}
        results = [result(name, 100, speed, 1) for name, speed in speeds.items()]
        return Outcome(title="training step", base=peers.MAC, threads=threads, results=results)

    found: Any = SimpleNamespace(outcomes=[step(1, 9, 3), step(2, 6, 3)])
    rows = list(performance_aims.aims({"model": found}))
    assert rows[0] == "| | wanted | 1 thread | 2 threads | reached |"
    assert (
        "| training step, mac, speed against titans-pytorch's MAC, its script | at least 8 | 9 | 6 | in part |" in rows
    )
    assert "| training step, mag, speed against titans-pytorch's MAC, its script | at least 8 | 3 | 3 | no |" in rows
    assert "| training step, mac, duration against the control's | at most 2.5 | 1.11 | 1.67 | yes |" in rows
    assert "| training step, mag, duration against the control's | at most 2.5 | 3.33 | 3.33 | no |" in rows
