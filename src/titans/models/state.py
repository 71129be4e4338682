"""The state of a language model: an explicit value that makes any split of a stream equal one call."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from titans.errors import TitansError
from titans.files import load_tensors, save_tensors
from titans.memory.state import MemoryState, TensorTree
from titans.models.config import TitansConfig

if TYPE_CHECKING:
    from titans.models.language_model import TitansLM


@dataclass(frozen=True)
class AttentionState(TensorTree):
    """What attention remembers of a stream. B rows, H heads, d head dimension, N slots of the window or segment."""

    keys: Tensor
    """[B, N, H, d], rotated; window: the newest last; segment: by position in the segment"""
    values: Tensor
    """[B, N, H, d]"""
    tail: Tensor
    """convolution tail of q, k, v [B, conv_size - 1, 3 dim]"""


@dataclass(frozen=True)
class ContextState(TensorTree):
    """What MAC keeps of the open segment besides its tokens."""

    keys: Tensor
    """keys of the memory tokens [B, N, H, d], rotated, by position in the segment"""
    values: Tensor
    """[B, N, H, d]"""
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

    @property
    def rows(self) -> int:
        """Streams in the batch."""
        return len(self.position)

    def save(self, path: str | Path) -> None:
        """Writes the state to one safetensors file, atomically."""
        save_tensors(path, "model state", self.tensors(), self.config.to_dict())

    @classmethod
    def load(cls, path: str | Path, model: "TitansLM | None" = None) -> "LMState":
        """Reads what `save` wrote.

        Args:
            model: the model that will use the state; its configuration must be the one in the file.

        Raises:
            TitansError: the file is missing, damaged, foreign, or belongs to another model.
        """
        tensors, header = load_tensors(path, "model state")
        config = TitansConfig.from_dict(header)
        if model is not None and model.config != config:
            raise TitansError(f"{path} belongs to a model with another configuration; load it with that model")
        from titans.models.language_model import empty_state  # the model knows the shape of its own state

        return empty_state(config).with_tensors(tensors)
