import pytest
import torch

from titans.cli.findings import _mean_recall, machine
from titans.report.results import Recall


def test_a_machine_is_named_with_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    without = machine().processor
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert machine().processor == f"{without}, NVIDIA H200"


def test_recall_is_counted_beyond_the_window_and_where_it_was_measured():
    accuracy: dict[str, list[list[float | None]]] = {"titans": [[1.0, 0.8, 0.4], [1.0, None, 0.3]]}
    recall = Recall(
        distances=[32, 64, 128], depths=[0.0, 0.5], window=32, trained_to=64, samples=4, accuracy=accuracy, chance=0.1
    )
    assert _mean_recall(recall, "titans") == pytest.approx(0.5)
