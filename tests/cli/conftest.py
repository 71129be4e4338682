"""A text, and a model small enough to train in a second, behind every preset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from titans.cli.main import main
from titans.memory.config import MemoryConfig
from titans.models import presets
from titans.models.config import TitansConfig

SETTINGS = "--steps 6 --batch-size 2 --length 16 --log-every 1 --save-every 4 --eval-every 3 --eval-tokens 64"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dög\n" * 40)
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Long enough for a task to hide things in."""
    path = tmp_path / "book.txt"
    words = np.random.default_rng(0).choice(["stone", "river", "and", "the", "walks", "over"], 4000)
    path.write_text(" ".join(words.tolist()))
    return path


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `titans train --out tmp_path/NAME` with a tiny model, few steps, and further options."""
    memory = MemoryConfig(num_heads=1, chunk_size=4)

    def preset(name: str, **overrides) -> TitansConfig:
        config = TitansConfig(dim=8, num_layers=1, num_heads=1, segment_size=8, window_size=8, memory=memory)
        return config.replace(**overrides)

    monkeypatch.setattr(presets, "preset", preset, raising=False)

    def run(name: str, *options: str | Path) -> int:
        return main(["train", "--out", str(tmp_path / name), *SETTINGS.split(), *map(str, options)])

    return run
