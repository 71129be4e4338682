"""Every test starts from the same random state, on one thread."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# Triton kernels run in its interpreter, which has to be known before anything imports it: torch.compile does.
os.environ["TRITON_INTERPRET"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # begun in the background, a process may have none


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In $TITANS_DATA a folder of bAbI's five tasks, each with a story of each split."""
    from titans.tasks.babi import LABELS  # not above: nothing of titans may come before TRITON_INTERPRET

    folder = tmp_path / "data" / "babi"
    folder.mkdir(parents=True)
    for task, answers in LABELS.items():
        for split in ("train", "test"):
            story = f"1 The {min(answers)} it is.\n2 What is it? \t{min(answers)}\t1\n"
            (folder / f"{task}_story_{split}.txt").write_text(story)
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
