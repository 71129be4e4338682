"""A small recurrent model with the interface of TitansLM, so that the loop's mechanics are tested in milliseconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from titans.data.batches import DocumentBatches
from titans.files import load_tensors, save_tensors, write_json


@dataclass(frozen=True)
class HiddenState:
    hidden: Tensor

    def detach(self) -> "HiddenState":
        return HiddenState(self.hidden.detach())

    def to(self, device: torch.device | str) -> "HiddenState":
        return HiddenState(self.hidden.to(device))

    def save(self, path: str | Path) -> None:
        save_tensors(path, "hidden state", {"hidden": self.hidden}, {})

    @classmethod
    def load(cls, path: str | Path) -> "HiddenState":
        return cls(load_tensors(path, "hidden state")[0]["hidden"])


class SmallModel(nn.Module):
    """Embedding, dropout, a GRU cell that forgets at `reset`, and a linear layer."""

    state_type = HiddenState

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(256, dim)
        self.dropout = nn.Dropout(0.1)
        self.cell = nn.GRUCell(dim, dim)
        self.head = nn.Linear(dim, 256)

    def forward(
        self, tokens: Tensor, *, state: HiddenState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, HiddenState]:
        x = self.dropout(self.embedding(tokens))
        hidden = x.new_zeros(len(tokens), self.dim) if state is None else state.hidden
        outputs = []
        for t in range(tokens.shape[1]):
            if reset is not None:
                hidden = hidden * ~reset[:, t, None]
            hidden = self.cell(x[:, t], hidden)
            outputs.append(hidden)
        return self.head(torch.stack(outputs, dim=1)), HiddenState(hidden)

    def loss(
        self,
        tokens: Tensor,
        labels: Tensor,
        *,
        state: HiddenState | None = None,
        reset: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, HiddenState]:
        logits, after = self(tokens, state=state, reset=reset)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), after

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / "config.json", {"dim": self.dim})
        save_tensors(Path(folder) / "model.safetensors", "model", self.state_dict(), {})

    @classmethod
    def load(cls, folder: str | Path) -> "SmallModel":
        tensors, _ = load_tensors(Path(folder) / "model.safetensors", "model")
        model = cls(tensors["head.weight"].shape[1])
        model.load_state_dict(tensors)
        return model


@dataclass(frozen=True)
class Text:
    """A document in memory."""

    name: str
    data: bytes

    def __len__(self) -> int:
        return len(self.data)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(self.data[start:stop], dtype=np.uint8).astype(np.int64)


@pytest.fixture
def small_model():
    """Makes equal models."""

    def make(dim: int = 8) -> SmallModel:
        torch.manual_seed(0)
        return SmallModel(dim)

    return make


@pytest.fixture
def batches():
    """Makes equal sources: three documents of different lengths in two rows of eight tokens."""

    def make(epochs: int | None = None) -> DocumentBatches:
        texts = [b"one short text", b"and a longer one, " * 5, b"abcabcabcabc" * 3]
        documents = [Text(str(i), text) for i, text in enumerate(texts)]
        return DocumentBatches(documents, 2, 8, seed=0, epochs=epochs)

    return make
