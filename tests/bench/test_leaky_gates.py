"""Gates that leak: every token of every memory writes and forgets, only as long as it is asked for."""

import json
import sys
from statistics import fmean

import leaky_gates
import pytest
import torch
from leaky_gates import DEPTHS, LEAKS, leaking, measure, table

from titans import MemoryConfig, TitansConfig, TitansLM
from titans.cli.main import main
from titans.memory.layer import GateProjections
from titans.tasks.needles import needles
from titans.tasks.score import Score, score


@pytest.fixture
def model() -> TitansLM:
    torch.manual_seed(0)
    memory = MemoryConfig(num_heads=1, depth=1, chunk_size=4)
    return TitansLM(TitansConfig(variant="lmm", dim=16, num_layers=2, num_heads=1, memory=memory)).eval()


@pytest.mark.parametrize(("step", "forget"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.03)])
def test_every_memory_leaks_by_so_much_and_no_longer_than_it_is_asked_to(model, step, forget):
    gates = [one for one in model.modules() if isinstance(one, GateProjections)]
    assert len(gates) == 2
    x = 30 * torch.randn(1, 64, 16)
    before = [one(x) for one in gates]
    with leaking(model, step, forget):
        within = [one(x) for one in gates]
    for (g, eta, theta), (leaky_g, leaky_eta, leaky_theta) in zip(before, within, strict=True):
        assert theta.min() == 0
        assert theta.max() > 0.3
        assert torch.equal(leaky_theta, theta.clamp_min(step))
        assert torch.allclose(-torch.expm1(leaky_g), (-torch.expm1(g)).clamp_min(forget), atol=1e-6)
        assert torch.equal(leaky_eta, eta)
    for one, (g, _, theta) in zip(gates, before, strict=True):
        assert torch.equal(one(x)[0], g)
        assert torch.equal(one(x)[2], theta)


def test_the_questions_are_those_of_titans_eval(model, tmp_path, capsys):
    model.save(tmp_path)
    options = ("--kind", "pk", "--depths", "5", "--samples", "2", "--length", "700", "--json")
    assert main(["eval", "needles", "--checkpoint", str(tmp_path), *options]) == 0
    by_eval = json.loads(capsys.readouterr().out)["scores"]
    found = measure(model, "as trained", 700, 10)
    assert list(found["right_by_depth"]) == [str(cell["depth"]) for cell in by_eval]
    assert found["tokens_right"] == pytest.approx(fmean(cell["tokens_right"] for cell in by_eval))
    asked = [score(model, needles("pk", (), depth=d), 700, 2, seed=(0, round(1000 * d)), batch_size=2) for d in DEPTHS]
    tokens = [one.tokens_right for one in asked if one.tokens_right is not None]
    assert len(tokens) == 5
    assert found["tokens_right"] == pytest.approx(sum(tokens) / 5)
    assert found["samples"] == 10


@pytest.mark.parametrize(("leak", "step", "forget"), [(name, *LEAKS[name]) for name in LEAKS])
def test_a_model_is_asked_with_its_leak(model, leak, step, forget, monkeypatch):
    seen = []

    def spy(model, *_arguments, **_options):
        g, _, theta = next(one for one in model.modules() if isinstance(one, GateProjections))(
            30 * torch.randn(1, 64, 16)
        )
        seen.append((theta.min().item(), -torch.expm1(g.max()).item()))
        return Score(length=700, samples=2, right=0.0, tokens_right=0.0)

    monkeypatch.setattr("leaky_gates.score", spy)
    measure(model, leak, 700, 10)
    assert seen == [pytest.approx((step, forget))] * 5


def test_the_table_has_a_line_for_each_model_and_leak():
    first, second, *_ = LEAKS
    runs = [
        {"model": "b", "leak": first, "length": 2048, "samples": 20, "right": 0.95},
        {"model": "a", "leak": second, "length": 512, "samples": 10, "right": 0.1},
        {"model": "a", "leak": first, "length": 2048, "samples": 20, "right": 1.0},
    ]
    assert table(runs).splitlines()[2:] == [
        f"| a | {first} | - | 20 of 20 |",
        f"| a | {second} | 1 of 10 | - |",
        f"| b | {first} | - | 19 of 20 |",
    ]


def test_samples_that_would_not_be_asked_are_refused(model, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        model.save(tmp_path / name / "lmm")
    out = str(tmp_path / "leaks.json")

    def asked(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["leaky_gates.py", "--leaks", "as trained", "--out", out, *arguments])
        leaky_gates.main()

    one = ("--checkpoint", str(tmp_path / "a" / "lmm"), "--lengths", "700")
    asked(*one, "--samples", "5")
    assert capsys.readouterr().out.count("of 5 |") == 1
    with pytest.raises(SystemExit):
        asked(*one, "--samples", "10")
    assert "has 700 bytes with fewer samples: choose another --out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        asked("--checkpoint", str(tmp_path / "a" / "lmm"), str(tmp_path / "b" / "lmm"))
    assert "the same name" in capsys.readouterr().err
