"""How far a memory's gates stand open: what `TrainConfig.gate_penalty` adds to the loss.

A window of training ends long before a forget gate of 0.0001 a token has cost anything, and a million tokens later
nothing is left of what was written. Only gates that are exactly shut where nothing asks for more keep it, so what is
not needed has to cost something (docs/lab-log.md has what that changes). What momentum still carries is a write as
well, one that comes later: with the other gates shut, a needle pushed a hundred tokens ago is still moving the weights.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from titans.memory.gates import FORGET_MARGIN, STEP_MARGIN
from titans.memory.layer import GateProjections, closing
from titans.training.model import StatefulModel

LEAK = 0.1
"""A step gate further open than this is open on purpose and pays no more for it."""
TRACE = 0.01
"""The scale on which what forgetting costs rises fastest. Every forget gate pays, an open one little more than one
that is half open: one token in two hundred that forgets a fifth is nothing in training, and all after 16,000 tokens."""

HORIZON = 1000.0
"""Tokens. A momentum whose surprise fades over as many costs nine tenths, one that fades over ten a third."""


def _writing(logits: Tensor) -> Tensor:
    return (closing(torch.sigmoid(logits), STEP_MARGIN) / LEAK).clamp_max(1)


def _forgetting(logits: Tensor) -> Tensor:
    return torch.log1p(closing(torch.sigmoid(logits), FORGET_MARGIN) / TRACE) / math.log1p(1 / TRACE)


def _carrying(logits: Tensor) -> Tensor:
    fading = torch.sigmoid(-logits)  # 1 - eta, exact for eta near 1
    return -torch.log((fading + 1 / HORIZON) / (1 + 1 / HORIZON)) / math.log1p(HORIZON)


@contextmanager
def watched(model: StatefulModel) -> Iterator[Callable[[], Tensor]]:
    """Within, a function that gives the openness of all gates that `model` has used: a scalar with gradients.

    The means over tokens, heads and memories of min(theta / LEAK, 1), theta as a share of its upper end and before
    momentum takes its part, of log(1 + alpha / TRACE) / log(1 + 1 / TRACE), and of what momentum carries, which rises
    with the logarithm of its horizon 1 / (1 - eta) from 0 at eta = 0 to 1 at eta = 1, added up: from 0 to 3. 0 for a
    model without memories.
    """
    steps, forgets, carries = [], [], []

    def see(kind: list[Tensor], cost: Callable[[Tensor], Tensor]) -> Callable:
        def saw(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
            kind.append(cost(logits).mean())

        return saw

    hooks = []
    for gates in model.modules():
        if isinstance(gates, GateProjections):
            for gate, kind, cost in (
                (gates.step, steps, _writing),
                (gates.forget, forgets, _forgetting),
                (gates.momentum, carries, _carrying),
            ):
                if gate is not None:
                    hooks.append(gate.register_forward_hook(see(kind, cost)))
    try:
        yield lambda: sum((torch.stack(kind).mean() for kind in (steps, forgets, carries) if kind), torch.zeros(()))
    finally:
        for hook in hooks:
            hook.remove()
