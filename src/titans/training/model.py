"""What the training loop asks of a model, and where and how precisely it computes."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class CarriedState(Protocol):
    """What a model carries from one window to the next: a frozen tree of tensors."""

    def detach(self) -> Self: ...

    def to(self, device: torch.device | str, /) -> Self: ...

    def save(self, path: str | Path) -> None: ...

    @classmethod
    def load(cls, path: str | Path) -> Self: ...


class Reader(Protocol):
    """A `torch.nn.Module` that predicts and carries a state.

    Calling it with tokens [B, T], a state or None and reset [B, T] gives logits [B, T, V], or those of the last
    `logits_to_keep` positions, and the next state.
    """

    training: bool

    def __call__(
        self, tokens: Tensor, *, state: Any = None, reset: Tensor | None = None, logits_to_keep: int = 0
    ) -> tuple[Tensor, Any]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = True) -> Any: ...


class StatefulModel(Reader, Protocol):
    """A reader that can be trained and saved, such as `TitansLM`.

    `loss` takes labels [B, T] besides, perhaps with weights, and gives the mean loss in nats over those that are not
    -100.
    """

    @property
    def state_type(self) -> type[CarriedState]: ...

    def loss(
        self,
        tokens: Tensor,
        labels: Tensor,
        *,
        state: Any = None,
        reset: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Any]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def save(self, folder: str | Path) -> None: ...

    @classmethod
    def load(cls, folder: str | Path) -> Self: ...


def device_of(model: Reader) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def tokens_per_row(tokens: int, rows: int) -> int:
    """How many tokens each of `rows` reads in a call of about `tokens`: whole segments and chunks where it can be.

    8,192 tokens fit into a processor's caches; of 40,960 one took 15 to 20 % longer (blocks of width 192, AMD EPYC).
    """
    each = max(1, tokens // rows)
    return each - each % 64 if each > 64 else each


@contextmanager
def evaluating(model: Reader) -> Iterator[None]:
    """`model` as it is measured: not in training, and without gradients; afterwards it is as it was."""
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context in which the forward pass runs: "bfloat16" is autocast, "float32" changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def best_device() -> torch.device:
    """The first GPU if there is one, otherwise the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
