from pathlib import Path

import pytest
import torch
from torch import nn

from titans.errors import TitansError
from titans.training.config import TrainConfig
from titans.training.optimizer import decays, load_moments, make_optimizer, moments


def step(model: nn.Module, optimizer: torch.optim.Optimizer, gradient: float = 0.5) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def test_only_matrices_decay() -> None:
    assert decays("head.weight", torch.zeros(2, 2))
    assert decays("memory.weights.0", torch.zeros(4, 2, 2))
    assert not decays("norm.weight", torch.zeros(2))
    assert not decays("gate.bias", torch.zeros(4, 2))
    assert not decays("mixer.A_log", torch.zeros(4, 2))  # as state-spaces/mamba trains it


def test_decay_shrinks_matrices_and_leaves_vectors(small_model) -> None:
    model = small_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, TrainConfig(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_moments_come_back_exactly(small_model) -> None:
    config = TrainConfig(learning_rate=0.1)
    first, second = small_model(), small_model()
    optimizer = make_optimizer(first, config)
    step(first, optimizer)
    second.load_state_dict(first.state_dict())
    restored = make_optimizer(second, config)
    load_moments(
        Path("a"), second, restored, {name: tensor.clone() for name, tensor in moments(first, optimizer).items()}
    )
    step(first, optimizer, -0.1)  # of another size and sign, or a step would be the same without the moments
    step(second, restored, -0.1)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_moments_of_another_model_are_refused(small_model) -> None:
    model, other = small_model(), small_model(dim=4)
    optimizer = make_optimizer(model, TrainConfig())
    step(model, optimizer)
    with pytest.raises(TitansError, match="of another model"):
        load_moments(Path("a"), other, make_optimizer(other, TrainConfig()), moments(model, optimizer))


@pytest.mark.parametrize("kind", ["step", "exp_avg", "exp_avg_sq"])
def test_a_moment_that_is_missing_is_named(small_model, kind: str) -> None:
    model = small_model()
    optimizer = make_optimizer(model, TrainConfig())
    step(model, optimizer)
    found = moments(model, optimizer)
    del found[f"head.weight/{kind}"]
    with pytest.raises(TitansError, match=f"a is incomplete: it has no head.weight/{kind}; copy it again"):
        load_moments(Path("a"), model, make_optimizer(model, TrainConfig()), found)
