"""What language models predict: whether it is sound, and the loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.errors import NonFiniteError

IGNORED = -100  # label without a loss, as in torch


def check_logits(logits: Tensor) -> None:
    """Raises NonFiniteError if some are NaN or infinite: the likeliest of them would still be some token."""
    if not bool(logits.isfinite().all()):
        raise NonFiniteError("the model predicts NaN or infinite logits: its weights or its memory are spoilt")


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats over the labels that are not -100; 0 without any.

    Args:
        logits: [B, T, V]; half precision is taken to float32 first.
        labels: [B, T] int64.
        weights: [B, T], how much each label counts in the mean; None for all the same.
    """
    logits, labels = logits.flatten(0, 1), labels.flatten()
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    counted = (labels != IGNORED).to(logits.dtype)
    if weights is not None:
        counted = weights.flatten() * counted
    nats = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    total = counted.sum()
    return (nats * counted).sum() / torch.where(total > 0, total, 1)
