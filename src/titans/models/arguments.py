"""What language models are called with: tokens, flags and labels of the right shape, ids within the vocabulary."""

from typing import Any

import torch
from torch import Tensor

from titans.memory.arguments import check_devices, check_shapes, check_tensors
from titans.models.loss import IGNORED


def check_kept(logits_to_keep: int) -> None:
    """Raises ValueError unless it is a number of positions."""
    if type(logits_to_keep) is not int or logits_to_keep < 0:
        raise ValueError(f"logits_to_keep is {logits_to_keep!r}; it must be a whole number, at least 0")


def check_tokens(tokens: Tensor, vocab_size: int, **flags: Tensor | None) -> None:
    """Raises ValueError unless tokens is [B, T] int64 of at least one token, and each of `flags` [B, T] or None.

    Within torch.compile ids are not looked at.
    """
    if not isinstance(tokens, Tensor):
        raise ValueError(f"tokens must be a tensor [B, T] int64, got {type(tokens).__name__}")
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens must be [B, T] int64, got {tuple(tokens.shape)} {tokens.dtype}")
    if tokens.numel() == 0:
        raise ValueError(f"tokens is empty: {tuple(tokens.shape)}; pass at least one row of one token")
    _check_ids("token id", tokens, vocab_size)
    check_shapes("[B, T]", tokens.shape, **flags)


def check_labels(tokens: Tensor, labels: Tensor, weights: Tensor | None, vocab_size: int) -> None:
    """Raises ValueError unless labels is [B, T] int64 with ids or -100, and weights [B, T] or None."""
    check_tensors(tokens=tokens, labels=labels)
    if labels.shape != tokens.shape or labels.dtype != torch.int64:
        expected = f"[B, T] = {tuple(tokens.shape)} int64"
        raise ValueError(f"labels must be {expected}, got {tuple(labels.shape)} {labels.dtype}")
    check_shapes("[B, T]", tokens.shape, weights=weights)
    _check_ids("label", labels.masked_fill(labels == IGNORED, 0), vocab_size)


def check_state(tokens: Tensor, state: Any, kind: type, config: object) -> None:
    """Raises ValueError unless state is a `kind` of this configuration, for the rows and device of tokens."""
    if not isinstance(state, kind):
        raise ValueError(f"the state must be of type {kind.__name__}, got {type(state).__name__}")
    if state.config != config:
        raise ValueError("the state belongs to a model with another configuration")
    if state.rows != len(tokens):
        raise ValueError(f"the state has {state.rows} rows, tokens has {len(tokens)}")
    check_devices(tokens.device, **{"the state": state.position})


def _check_ids(name: str, ids: Tensor, vocab_size: int) -> None:
    if torch.compiler.is_compiling():  # a compiled graph cannot look at values
        return
    low, high = (int(bound) for bound in ids.aminmax()) if ids.numel() else (0, 0)
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise ValueError(f"{name} {bad} is outside the vocabulary 0 ... {vocab_size - 1}")
