import json
from pathlib import Path

import pytest
import torch
from torch import nn

from titans.baselines import BaselineConfig, BaselineLM
from titans.memory.config import MemoryConfig
from titans.memory.gates import FORGET_MARGIN, STEP_MARGIN
from titans.memory.layer import GateProjections
from titans.memory.networks import MemoryNetwork
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.training.config import TrainConfig
from titans.training.loop import train
from titans.training.openness import watched

CONFIG = TitansConfig(
    dim=16, num_layers=2, num_heads=2, segment_size=8, window_size=8, memory=MemoryConfig(num_heads=2, chunk_size=4)
)
TOKENS = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))


def set_gate(projection: nn.Module, gate: float, margin: float) -> None:
    """The same for every token."""
    assert isinstance(projection, nn.Linear)
    nn.init.zeros_(projection.weight)
    nn.init.constant_(projection.bias, torch.logit(torch.tensor((gate + margin) / (1 + 2 * margin))).item())


def gates_of(model: nn.Module) -> list[GateProjections]:
    return [module for module in model.modules() if isinstance(module, GateProjections)]


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
@pytest.mark.parametrize(("alpha", "forgetting"), [(0.0, 0.0), (0.01, 0.15019), (0.1, 0.51957), (0.9, 0.97741)])
@pytest.mark.parametrize(("eta", "carrying"), [(0.5, 0.10018), (0.99, 0.65292), (0.99999, 0.99856)])
def test_openness_is_logarithms_of_theta_and_alpha_and_of_what_momentum_carries(
    variant: str, alpha: float, forgetting: float, eta: float, carrying: float
) -> None:
    model = TitansLM(CONFIG.replace(variant=variant))
    first, second = gates_of(model)
    for gates in (first, second):
        assert gates.forget is not None
        assert gates.momentum is not None
        set_gate(gates.forget, alpha, FORGET_MARGIN)
        set_gate(gates.momentum, eta, 0.0)
    set_gate(first.step, 0.02, STEP_MARGIN)
    set_gate(second.step, 0.8, STEP_MARGIN)
    with watched(model) as openness:
        model(TOKENS)
        assert openness().item() == pytest.approx((0.23805 + 0.95218) / 2 + forgetting + carrying, abs=1e-4)


def test_its_gradient_reaches_every_gate_and_less_of_one_that_is_open() -> None:
    model = TitansLM(CONFIG)
    first, second = gates_of(model)
    for gates, opened in ((first, 0.05), (second, 0.5)):
        assert gates.forget is not None
        set_gate(gates.forget, opened, FORGET_MARGIN)
        set_gate(gates.step, opened, STEP_MARGIN)
    with watched(model) as openness:
        model(TOKENS)
        openness().backward()
    slopes = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    for gate in ("step", "forget"):
        nearly, half = (slopes[f"blocks.{n}.mixer.memory.gates.{gate}.bias"] for n in (0, 1))
        assert (nearly > half).all()
        assert (half > 0).all()
    assert (slopes["blocks.0.mixer.memory.gates.momentum.bias"] > 0).all()


def test_where_gates_begin() -> None:
    torch.manual_seed(0)
    gates = GateProjections(8, MemoryConfig(num_heads=3, depth=1, initial_momentum=0.05), MemoryNetwork(4, depth=1))
    g, log_eta, theta = gates(torch.zeros(1, 1, 8))
    assert log_eta is not None
    eta = log_eta.exp().flatten()
    assert (1 - g.exp()).flatten().tolist() == pytest.approx([0.001, 0.01, 0.1], rel=1e-3)
    assert eta.tolist() == pytest.approx([0.05] * 3)
    assert theta.flatten().tolist() == pytest.approx((0.5 * (1 - eta)).tolist())


def test_nothing_is_watched_afterwards_even_if_the_model_fails() -> None:
    model = TitansLM(CONFIG)
    with pytest.raises(RuntimeError, match="stopped"), watched(model):
        raise RuntimeError("stopped")
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_memories_or_forgetting_has_only_what_it_has() -> None:
    control = TitansLM(CONFIG.replace(variant="attention"))
    keeping = TitansLM(CONFIG.replace(memory=MemoryConfig(num_heads=2, forgetting=False)))
    passing = TitansLM(CONFIG.replace(memory=MemoryConfig(num_heads=2, momentum=False)))
    llama = BaselineLM(BaselineConfig(name="llama", dim=16, num_layers=1, num_heads=2))
    for model, most in ((control, 0), (llama, 0), (keeping, 2), (passing, 2)):
        with watched(model) as openness:
            model(TOKENS)
            assert 0 <= openness().item() <= most


def trained(out: Path, source, steps: int, penalty: float, **more) -> tuple[TitansLM, list[dict]]:
    """The model and the lines of its metrics, one for each step."""
    torch.manual_seed(0)
    model = TitansLM(CONFIG)
    config = TrainConfig(
        steps=steps, batch_size=2, length=8, learning_rate=0.1, log_every=1, gate_penalty=penalty, **more
    )
    train(model, source, config, out)
    return model, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_training_with_the_penalty_closes_the_gates(tmp_path: Path, batches) -> None:
    found = []
    for penalty in (0.0, 10.0):
        model, _ = trained(tmp_path / str(penalty), batches(), 160, penalty)
        with watched(model) as openness, torch.no_grad():
            model(batches().next().tokens)
            found.append(openness().item())
    assert found[1] < found[0] / 2


def test_the_penalty_begins_small_where_it_has_a_warm_up(tmp_path: Path, batches) -> None:
    _, (at_once,) = trained(tmp_path / "at-once", batches(), 1, 10.0)
    _, slowly = trained(tmp_path / "slowly", batches(), 20, 10.0, penalty_warmup_steps=20)
    assert slowly[0]["grad_norm"] < at_once["grad_norm"] / 1.5
    assert slowly[0]["loss"] == at_once["loss"]


def test_the_penalty_is_in_the_gradient_and_not_in_the_loss_that_is_reported(tmp_path: Path, batches) -> None:
    _, (free,) = trained(tmp_path / "free", batches(), 1, 0.0)
    _, (penalised,) = trained(tmp_path / "penalised", batches(), 1, 10.0)
    assert penalised["loss"] == free["loss"]
    assert penalised["grad_norm"] > 1.5 * free["grad_norm"]
