"""What a baseline carries from call to call: the content of transformers' cache, as a value.

Letters: B rows, H heads, N tokens that attention still sees, d head dimension, C channels, K taps of the convolution.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from titans.baselines.config import BaselineConfig
from titans.errors import TitansError
from titans.files import load_tensors, save_tensors, spoilt
from titans.memory.state import TensorTree, require_places


@dataclass(frozen=True)
class AttentionState(TensorTree):
    """What a block of attention remembers."""

    keys: Tensor
    """[B, H, N, d], rotated; the oldest first"""
    values: Tensor
    """[B, H, N, d]"""


@dataclass(frozen=True)
class RecurrentState(TensorTree):
    """What a recurrent block remembers."""

    tail: Tensor
    """the last inputs of the convolution [B, C, K]"""
    memory: Tensor
    """Mamba [B, C, n], Mamba-2 [B, H, d, n] with n numbers per channel; gated delta [B, H, key, value]"""


@dataclass(frozen=True)
class BaselineState(TensorTree):
    """Everything a `BaselineLM` knows about the streams it has read, one per row of the batch."""

    position: Tensor
    """tokens read [B] int64, the same in every row"""
    layers: tuple[AttentionState | RecurrentState, ...]
    config: BaselineConfig
    """of the model that the state belongs to"""

    @property
    def rows(self) -> int:
        """Streams in the batch."""
        return len(self.position)

    def save(self, path: str | Path) -> None:
        """Writes the state to one safetensors file, atomically."""
        save_tensors(path, "baseline state", self.tensors(), self.config.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "BaselineState":
        """Reads what `save` wrote.

        Raises:
            TitansError: the file is missing, damaged or foreign.
        """
        tensors, header = load_tensors(path, "baseline state")
        config = BaselineConfig.from_dict(header, Path(path))
        try:
            layers = tuple(_layer(tensors, config, layer) for layer in range(config.num_layers))
            state = cls(tensors["position"], layers, config)
        except KeyError as error:
            raise TitansError(f"{path} is incomplete: it has no tensor {error}") from error
        if spoilt(tensors) is not None:
            raise TitansError(f"{path} holds NaN or infinite values, from which no memory recovers; make it again")
        require_places(path, tensors)
        return state


def _layer(tensors: dict[str, Tensor], config: BaselineConfig, layer: int) -> AttentionState | RecurrentState:
    at = f"layers.{layer}"
    if config.attends(layer):
        return AttentionState(tensors[f"{at}.keys"], tensors[f"{at}.values"])
    return RecurrentState(tensors[f"{at}.tail"], tensors[f"{at}.memory"])
