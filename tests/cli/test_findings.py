import torch

from titans.cli.findings import machine


def test_a_machine_is_named_with_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    without = machine().processor
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert machine().processor == f"{without}, NVIDIA H200"
