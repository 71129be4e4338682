"""What changes over a run: the learning rate, by a linear warm-up and half a cosine, and the price on open gates."""

import math

from titans.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of `step`, counted from 1 to `config.steps`.

    It rises evenly to `config.learning_rate` at the last warm-up step and falls to `final_lr_fraction` of it at the
    last step of all.
    """
    warmup = config.warmup_steps if config.warmup_steps is not None else min(1000, config.steps // 20)
    if step <= warmup:
        return config.learning_rate * step / warmup
    fallen = (step - warmup) / (config.steps - warmup)
    cosine = (1 + math.cos(math.pi * fallen)) / 2
    return config.learning_rate * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)


def gate_penalty(step: int, config: TrainConfig) -> float:
    """The price on open gates at `step`, counted from 1: it rises evenly to `config.gate_penalty` and stays there."""
    return config.gate_penalty * min(1.0, step / max(1, config.penalty_warmup_steps))
