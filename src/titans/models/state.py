"""The state of a language model: an explicit value that makes any split of a stream equal one call."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from titans.errors import TitansError
from titans.files import LAYOUT_KEY, check_layout, load_tensors, save_tensors, spoilt
from titans.memory.state import MemoryState, TensorTree, require_places
from titans.models.config import TitansConfig

if TYPE_CHECKING:
    from titans.models.language_model import TitansLM

_WEIGHTS = "weights"  # where a file keeps the fingerprint of the model that made the state
LAYOUT = 4  # of the tensors in a file; earlier ones kept windows, what MAC recalls or the guard knows in other slots
_SAMPLES = 64  # numbers of each parameter that go into the fingerprint


@dataclass(frozen=True)
class AttentionState(TensorTree):
    """What attention remembers of a stream. B rows, H heads, d head dimension, N slots of the window or segment."""

    keys: Tensor
    """[B, N, H, d], rotated; the token at position p of its document is in slot p mod N, so that a window is a ring and
    a new token takes the place of the oldest; slots that no token of the document has reached are zero"""
    values: Tensor
    """[B, N, H, d]"""
    tail: Tensor
    """convolution tail of q, k, v [B, conv_size - 1, 3 dim]"""


@dataclass(frozen=True)
class ContextState(TensorTree):
    """What MAC keeps of the open segment besides its tokens."""

    keys: Tensor
    """keys of the memory tokens [B, M, H, d], rotated, in order; zero where the segment has not come that far"""
    values: Tensor
    """[B, M, H, d]"""
    weights: tuple[Tensor, ...]
    """memory weights at the start of the open segment, one [B, H, d_in, d_out] per memory layer"""
    tail: Tensor
    """convolution tail of the retrieving queries [B, conv_size - 1, dim]"""


@dataclass(frozen=True)
class BlockState(TensorTree):
    """State of one block; None for what the block does not have."""

    memory: MemoryState | None = None
    attention: AttentionState | None = None
    context: ContextState | None = None


@dataclass(frozen=True)
class LMState(TensorTree):
    """Everything a `TitansLM` knows about the streams it has read, one per row of the batch."""

    position: Tensor
    """tokens since the document began [B] int64"""
    blocks: tuple[BlockState, ...]
    config: TitansConfig
    """of the model that the state belongs to"""
    owned: bool = False
    """whether nothing else has these tensors (`own`); copies of any kind forget it"""

    @property
    def rows(self) -> int:
        """Streams in the batch."""
        return len(self.position)

    def save(self, path: str | Path, model: "TitansLM | None" = None) -> None:
        """Writes the state to one safetensors file, atomically.

        Args:
            model: the model that made the state; `load` then refuses every model with other weights.
        """
        weights = {} if model is None else {_WEIGHTS: fingerprint(model)}
        header = self.config.to_dict() | weights | {LAYOUT_KEY: LAYOUT}
        save_tensors(path, "model state", self.tensors(), header)

    @classmethod
    def load(cls, path: str | Path, model: "TitansLM | None" = None) -> "LMState":
        """Reads what `save` wrote.

        Args:
            model: the model that will use the state; its configuration, and its weights if `save` knew them, must be
                those of the model that made the state.

        Raises:
            TitansError: the file is missing, damaged, foreign, or belongs to another model.
        """
        tensors, header = load_tensors(path, "model state")
        check_layout(path, header, LAYOUT)
        weights = header.pop(_WEIGHTS, None)
        config = TitansConfig.from_dict(header, Path(path))
        if model is not None and model.config != config:
            raise TitansError(f"{path} belongs to a model with another configuration; load it with that model")
        if model is not None and weights is not None and weights != fingerprint(model):
            raise TitansError(f"{path} belongs to a model with other weights; load it with the model that made it")
        if spoilt(tensors) is not None:
            raise TitansError(f"{path} holds NaN or infinite values, from which no memory recovers; make it again")
        require_places(path, tensors)
        from titans.models.language_model import empty_state  # the model knows the shape of its own state

        try:
            return empty_state(config).with_tensors(tensors)
        except TitansError as error:
            raise TitansError(f"{path} is damaged: {error}; copy or make it again") from error


def fingerprint(model: nn.Module) -> str:
    """A short text that differs between models with different weights, from some numbers of each parameter.

    They are rounded, so that the same model in float64 or bfloat16 keeps its fingerprint; float16 rounds otherwise.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        every = max(1, parameter.numel() // _SAMPLES)
        some = parameter.detach().flatten()[::every].to("cpu", torch.bfloat16)
        digest.update(some.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
