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
"""A forget gate further open than this forgets on purpose and pays no more for it."""


@contextmanager
def watched(model: StatefulModel) -> Iterator[Callable[[], Tensor]]:
    """Within, a function that gives the openness of all gates that `model` has used: a scalar with gradients.

    The mean over tokens, heads and memories of theta (before momentum takes its share), plus that of min(alpha / LEAK,
    1). 0 for a model without memories.
    """
    thetas, alphas = [], []

    def saw_step(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        thetas.append(closing(torch.sigmoid(logits), STEP_MARGIN).mean())

    def saw_forget(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        alphas.append((closing(torch.sigmoid(logits), FORGET_MARGIN) / LEAK).clamp_max(1).mean())

    hooks = []
    for gates in model.modules():
        if isinstance(gates, GateProjections):
            hooks.append(gates.step.register_forward_hook(saw_step))
            if gates.forget is not None:
                hooks.append(gates.forget.register_forward_hook(saw_forget))
    try:
        yield lambda: sum((torch.stack(seen).mean() for seen in (thetas, alphas) if seen), torch.zeros(()))
    finally:
        for hook in hooks:
            hook.remove()
