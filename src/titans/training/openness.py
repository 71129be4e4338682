"""How far a memory's gates stand open: what `TrainConfig.gate_penalty` adds to the loss.

A window of training ends long before a forget gate of 0.0001 a token has cost anything, and a million tokens later
nothing is left of what was written. Only gates that are exactly shut where nothing asks for more keep it, so what is
not needed has to cost something (docs/lab-log.md has what that changes).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from titans.memory.gates import FORGET_MARGIN, STEP_MARGIN
from titans.memory.layer import GateProjections, closing
from titans.training.model import StatefulModel

LEAK = 0.1
"""A gate further open than this is open on purpose and pays no more for it."""


@contextmanager
def watched(model: StatefulModel) -> Iterator[Callable[[], Tensor]]:
    """Within, a function that gives the openness of all gates that `model` has used: a scalar with gradients.

    The mean of min(gate / LEAK, 1) over tokens, heads and memories, for theta (as a share of max_step, and before
    momentum takes its part) and for alpha, added up. 0 for a model without memories.
    """
    steps, forgets = [], []

    def see(kind: list[Tensor], margin: float) -> Callable:
        def saw(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
            kind.append((closing(torch.sigmoid(logits), margin) / LEAK).clamp_max(1).mean())

        return saw

    hooks = []
    for gates in model.modules():
        if isinstance(gates, GateProjections):
            hooks.append(gates.step.register_forward_hook(see(steps, STEP_MARGIN)))
            if gates.forget is not None:
                hooks.append(gates.forget.register_forward_hook(see(forgets, FORGET_MARGIN)))
    try:
        yield lambda: sum((torch.stack(kind).mean() for kind in (steps, forgets) if kind), torch.zeros(()))
    finally:
        for hook in hooks:
            hook.remove()
