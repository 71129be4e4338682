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

TRACE = 0.01
"""The scale on which what an open gate costs rises fastest. An open one pays little more than one that is half open.
It still has a slope: a token in twenty that writes for nothing is hardly felt in training, and loses needles later."""

HORIZON = 1000.0
"""Tokens. A momentum whose surprise fades over as many costs nine tenths, one that fades over ten a third."""


def _opening(margin: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: torch.log1p(closing(torch.sigmoid(logits), margin) / TRACE) / math.log1p(1 / TRACE)


def _carrying(logits: Tensor) -> Tensor:
    fading = torch.sigmoid(-logits)  # 1 - eta, exact for eta near 1
    return -torch.log((fading + 1 / HORIZON) / (1 + 1 / HORIZON)) / math.log1p(HORIZON)


@contextmanager
def watched(model: StatefulModel) -> Iterator[Callable[[], Tensor]]:
    """Within, a function that gives the openness of all gates that `model` has used: a scalar with gradients.

    The means over tokens, heads and memories of log(1 + gate / TRACE) / log(1 + 1 / TRACE) for alpha and for theta (as
    a share of its upper end, before momentum takes its part), and of what momentum carries, which rises with the
    logarithm of its horizon 1 / (1 - eta) from 0 at eta = 0 to 1 at eta = 1, added up: from 0 to 3. 0 for a model
    without memories. The mean is over the calls' means: slots of MAC's segments that have no token, where a document
    ends within one, count as well.
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
                (gates.step, steps, _opening(STEP_MARGIN)),
                (gates.forget, forgets, _opening(FORGET_MARGIN)),
                (gates.momentum, carries, _carrying),
            ):
                if gate is not None:
                    hooks.append(gate.register_forward_hook(see(kind, cost)))
    try:
        yield lambda: sum((torch.stack(kind).mean() for kind in (steps, forgets, carries) if kind), torch.zeros(()))
    finally:
        for hook in hooks:
            hook.remove()
