import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from titans.bench.contest import Outcome, Result
from titans.bench.figure import draw
from titans.bench.results import Measurements, measure
from titans.bench.table import columns, heading, short, show, to_markdown
from titans.bench.timing import Quartiles, quartiles
from titans.report.results import Machine

MACHINE = Machine(processor="a processor", cores=2, memory_gb=8.0, python="3.12", torch="2.13")


def around(median: float) -> Quartiles:
    return Quartiles(low=0.9 * median, median=median, high=1.1 * median)


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(
        title="a contest",
        base="one",
        threads=2,
        matrix_product_gflops=quartiles([88.0]),
        results=[
            Result(name="one", tokens=10, tokens_per_second=around(20_000), speed=quartiles([1.0]), peak_mb=12.25),
            Result(name="two", tokens=10, tokens_per_second=around(1.5), speed=around(0.0123), ours=False),
            Result(name="three", tokens=10, problem="ModuleNotFoundError: No module named 'three'"),
        ],
    )


def test_the_table_has_medians_spread_and_only_columns_with_something_in_them(outcome: Outcome):
    assert heading(outcome) == "a contest, 2 threads"
    assert columns(outcome) == {
        "": ["one", "two", "three"],
        "tokens/s": ["20,000", "2", ""],
        "spread": ["20%", "20%", ""],
        "µs/token": ["50", "666,667", ""],
        "speed": ["1", "0.0123", ""],
        "memory MB": ["12.2", "", ""],
    }


def test_one_round_has_no_spread(outcome: Outcome):
    once = replace(outcome, results=[Result(name="one", tokens=10, tokens_per_second=quartiles([20.0]))])
    assert columns(once)["spread"] == ["-"]


def test_markdown_says_what_it_is_relative_to_and_what_is_missing(outcome: Outcome):
    lines = to_markdown(outcome).splitlines()
    assert lines[0].split("|")[2].strip() == "tokens/s"
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[6] == "Speed 1 is one; the matrix product ran at 88 GFLOP/s."
    assert lines[8] == "three not measured: ModuleNotFoundError: No module named 'three'"


def test_the_terminal_shows_the_same(outcome: Outcome, capsys):
    show(outcome)
    out = capsys.readouterr().out
    assert "20,000" in out
    assert "three not measured: ModuleNotFoundError: No module named 'three'" in out


@pytest.mark.parametrize(("number", "text"), [(1234.5, "1,234"), (99.96, "100"), (0.01234, "0.0123"), (2.5, "2.5")])
def test_numbers_have_three_digits(number: float, text: str):
    assert short(number) == text


def test_the_picture_is_an_svg_and_the_same_on_every_run(outcome: Outcome, tmp_path: Path):
    nothing = Outcome(title="nothing", base="x", threads=1, results=outcome.results[2:])
    for name in ("a.svg", "b.svg"):
        draw([outcome, nothing], tmp_path / name)
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_measurements_come_back_from_json(contest, capsys):
    found = measure("memory", [contest], rounds=2, threads=[1], peaks=False, command="titans bench", machine=MACHINE)
    assert len(found.outcomes) == 1
    assert found.outcomes[0].results[1].speed is not None
    assert Measurements.from_dict(json.loads(json.dumps(found.to_dict()))) == found
