"""How far a memory's gates stand open: what `TrainConfig.gate_penalty` adds to the loss.

A window of training ends long before a forget gate of 0.0001 a token has cost anything, and a million tokens later
nothing is left of what was written. Only gates that are exactly shut where nothing asks for more keep it, so what is
not needed has to cost something (docs/lab-log.md has what that changes).
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


def _writing(gate: Tensor) -> Tensor:
    return (gate / LEAK).clamp_max(1)


def _forgetting(gate: Tensor) -> Tensor:
    return torch.log1p(gate / TRACE) / math.log1p(1 / TRACE)


@contextmanager
def watched(model: StatefulModel) -> Iterator[Callable[[], Tensor]]:
    """Within, a function that gives the openness of all gates that `model` has used: a scalar with gradients.

    The mean of min(theta / LEAK, 1), theta as a share of max_step and before momentum takes its part, and that of
    log(1 + alpha / TRACE) / log(1 + 1 / TRACE), over tokens, heads and memories, added up: from 0 to 2. 0 for a model
    without memories.
    """
    steps, forgets = [], []

    def see(kind: list[Tensor], margin: float, cost: Callable[[Tensor], Tensor]) -> Callable:
        def saw(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
            kind.append(cost(closing(torch.sigmoid(logits), margin)).mean())

        return saw

    hooks = []
    for gates in model.modules():
        if isinstance(gates, GateProjections):
            hooks.append(gates.step.register_forward_hook(see(steps, STEP_MARGIN, _writing)))
            if gates.forget is not None:
                hooks.append(gates.forget.register_forward_hook(see(forgets, FORGET_MARGIN, _forgetting)))
    try:
        yield lambda: sum((torch.stack(kind).mean() for kind in (steps, forgets) if kind), torch.zeros(()))
    finally:
        for hook in hooks:
            hook.remove()
