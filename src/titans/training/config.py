"""TrainConfig: how a model is trained. Importing it does not import torch."""

from dataclasses import dataclass
from typing import Literal

from titans.configuration import Configuration
from titans.parsing import check_types, require

_MOST_TOKENS = 2**31


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Configuration):
    """Settings of one training run."""

    steps: int = 1000
    """optimiser steps"""
    batch_size: int = 8
    """documents read side by side, one per row"""
    length: int = 512
    """tokens per row and step; gradients stop at its edges, the state goes on"""
    learning_rate: float = 1e-3
    """highest learning rate, reached at the end of the warm-up"""
    warmup_steps: int | None = None
    """steps over which the learning rate rises; None: a twentieth of all, at most 1000"""
    final_lr_fraction: float = 0.1
    """learning rate of the last step as a fraction of the highest"""
    weight_decay: float = 0.1
    """AdamW decay, on matrices only"""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW averaging of the gradient and of its square"""
    clip_norm: float = 1.0
    """largest norm of the gradient; longer ones are scaled down to it"""
    gate_penalty: float = 0.0
    """added to the loss: this many times how far the memory's gates stand open (`titans.training.openness`)"""
    penalty_warmup_steps: int = 0
    """steps over which that rises from nothing: what is not used yet would be shut before it is learned"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast, the weights stay float32"""
    seed: int = 0
    """seed of the first weights and of the order of the documents"""
    log_every: int = 10
    """steps per line in metrics.jsonl, which gives their mean"""
    eval_every: int = 200
    """steps between evaluations on held-out text"""
    eval_tokens: int = 65536
    """held-out tokens per evaluation"""
    save_every: int = 200
    """steps between checkpoints"""

    def __post_init__(self) -> None:
        check_types(self)
        counts = ("steps", "batch_size", "length", "log_every", "eval_every", "eval_tokens", "save_every")
        for name in counts:
            require(self, name, getattr(self, name) >= 1, "at least 1")
        size = f"so small that a step with length {self.length} has at most {_MOST_TOKENS:,} tokens"
        require(self, "batch_size", self.batch_size * self.length <= _MOST_TOKENS, size)
        require(self, "learning_rate", self.learning_rate > 0, "above 0")
        require(self, "warmup_steps", self.warmup_steps is None or self.warmup_steps >= 0, "0 or more")
        require(self, "final_lr_fraction", 0 <= self.final_lr_fraction <= 1, "between 0 and 1")
        require(self, "weight_decay", self.weight_decay >= 0, "0 or more")
        require(self, "betas", all(0 <= beta < 1 for beta in self.betas), "two numbers of at least 0 and below 1")
        require(self, "clip_norm", self.clip_norm > 0, "above 0 (large enough, it clips nothing)")
        require(self, "gate_penalty", self.gate_penalty >= 0, "0 or more")
        require(self, "penalty_warmup_steps", self.penalty_warmup_steps >= 0, "0 or more")
        require(self, "seed", 0 <= self.seed < 2**63, "0 or more, and below 2**63")

    def require_rise(self) -> None:
        """Raises a ValueError where the run ends before its warm-ups.

        Not with the other checks, since of a recipe's settings and what was typed only both together need fit.
        """
        for name in ("warmup_steps", "penalty_warmup_steps"):
            require(self, name, (getattr(self, name) or 0) <= self.steps, f"at most steps ({self.steps})")

    def for_steps(self, steps: int) -> "TrainConfig":
        """The same in so many steps, with warm-ups that are no longer than they are."""
        warmup = None if self.warmup_steps is None else min(self.warmup_steps, steps)
        return self.replace(
            steps=steps, warmup_steps=warmup, penalty_warmup_steps=min(self.penalty_warmup_steps, steps)
        )
