"""How well a model predicts, in all and by the distance from the beginning of the document.

Letters: B rows, T tokens per row and batch.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from titans.data.batches import IGNORED, BatchSource
from titans.errors import TitansError
from titans.models.loss import check_logits
from titans.training.model import Reader, autocast, device_of, evaluating
from titans.training.progress import Progress

DISTANCES = (0, 64, 256, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class DistanceBucket:
    """The predictions of tokens that stand `start` to `stop` tokens after the beginning of their document."""

    start: int
    stop: int | None
    tokens: int
    bits_per_token: float

    @property
    def label(self) -> str:
        """For example "1k-2k"; the last one is "16k+"."""
        start = _thousands(self.start)
        return f"{start}+" if self.stop is None else f"{start}-{_thousands(self.stop)}"


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over `tokens` predictions. A token of the byte tokenizer is a byte, so its bits are bits per byte."""

    tokens: int
    loss: float
    bits_per_token: float
    by_distance: tuple[DistanceBucket, ...]

    def to_dict(self) -> dict:
        """As JSON holds it; every bucket has its label."""
        buckets = [asdict(bucket) | {"label": bucket.label} for bucket in self.by_distance]
        return asdict(self) | {"by_distance": buckets}


def evaluate(
    model: Reader,
    source: BatchSource,
    max_tokens: int | None = None,
    *,
    precision: str = "float32",
    progress: Progress | None = None,
) -> Evaluation:
    """Reads `source` once with a carried state and averages the loss of its labels.

    Args:
        source: batches whose rows begin with a document; read to its end or for `max_tokens` labels.
        precision: "float32", or "bfloat16" for autocast.

    Raises:
        TitansError: there is nothing to predict.
        NonFiniteError: the model predicts NaN or infinite logits.
    """
    device = device_of(model)
    edges = torch.tensor(DISTANCES[1:])
    nats = torch.zeros(len(DISTANCES), dtype=torch.float64)
    counts = torch.zeros(len(DISTANCES), dtype=torch.int64)
    state, origins = None, None
    with evaluating(model):
        while max_tokens is None or counts.sum() < max_tokens:
            try:
                batch = source.next()
            except StopIteration:
                break
            on_device = batch.to(device)
            with autocast(device, precision):
                logits, state = model(on_device.tokens, state=state, reset=on_device.reset)
            check_logits(logits)
            flat = functional.cross_entropy(
                logits.flatten(0, 1).float(), on_device.labels.flatten(), ignore_index=IGNORED, reduction="none"
            )
            distances, origins = _distances(batch.reset, origins)
            labelled = (batch.labels != IGNORED).flatten()
            if max_tokens is not None:
                labelled &= labelled.cumsum(0) <= max_tokens - counts.sum()
            buckets = torch.bucketize(distances.flatten()[labelled], edges, right=True)
            nats.index_add_(0, buckets, flat.cpu().double()[labelled])
            counts.index_add_(0, buckets, torch.ones_like(buckets))
            if progress is not None:
                progress.advance(int(labelled.sum()), bits=_bits(nats.sum(), counts.sum()))
    if not counts.any():
        raise TitansError("there is nothing to predict in the text: every document is a single token")
    stops = (*DISTANCES[1:], None)
    rows = zip(DISTANCES, stops, nats, counts, strict=True)
    buckets = tuple(DistanceBucket(start, stop, int(n), _bits(sum_, n)) for start, stop, sum_, n in rows if n > 0)
    loss = float(nats.sum() / counts.sum())
    return Evaluation(int(counts.sum()), loss, loss / math.log(2), buckets)


def _distances(reset: Tensor, origins: Tensor | None) -> tuple[Tensor, Tensor]:
    """How many tokens of its document come before each predicted token.

    Args:
        reset: [B, T] bool, a document starts here.
        origins: [B] int64, where the document that was running began, relative to this window (0 or below); None for
            rows that begin here.

    Returns:
        distances [B, T] int64, and the origins for the next window [B].
    """
    num_rows, length = reset.shape
    places = torch.arange(length).expand(num_rows, length)
    running = torch.zeros(num_rows, dtype=torch.int64) if origins is None else origins
    begins = torch.where(reset, places, running[:, None]).cummax(dim=1).values  # [B, T]
    return places - begins + 1, begins[:, -1] - length


def _bits(nats: Tensor, count: Tensor) -> float:
    return float(nats / count) / math.log(2)


def _thousands(number: int) -> str:
    return f"{number // 1024}k" if number >= 1024 else str(number)
