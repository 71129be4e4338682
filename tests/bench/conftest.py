"""Contests that cost nothing."""

import io

import pytest

from titans.bench.contest import Contender, Contest, Work
from titans.training.progress import Progress


def make_nothing() -> Work:
    return Work(run=lambda: None, parameters=7)


def make_trouble() -> Work:
    raise ModuleNotFoundError("No module named 'fast'\nsecond line")


@pytest.fixture
def contest() -> Contest:
    contenders = (
        Contender(name="one", make=make_nothing, tokens=10, flops=100),
        Contender(name="two", make=make_nothing, tokens=20),
        Contender(name="missing", make=make_trouble, tokens=10, ours=False),
    )
    return Contest(title="doing nothing", base="one", contenders=contenders)


@pytest.fixture
def progress() -> Progress:
    return Progress("bench", stream=io.StringIO())
