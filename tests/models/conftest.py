"""Small models of every variant, in double precision, whose every part matters."""

import pytest
import torch
from torch import Tensor

from titans.memory import MemoryConfig
from titans.models import TitansConfig, TitansLM

VOCAB, CHUNK, SEGMENT, WINDOW = 50, 4, 8, 6
MEMORY = MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2)


def make_config(**changes) -> TitansConfig:
    memory = MEMORY.replace(**changes.pop("memory", {}))
    settings = {
        "vocab_size": VOCAB,
        "dim": 16,
        "num_layers": 3,
        "num_heads": 2,
        "segment_size": SEGMENT,
        "window_size": WINDOW,
        "num_persistent_tokens": 2,
        **changes,
    }
    return TitansConfig(**settings, memory=memory)


MODELS = {
    "mac": make_config(variant="mac"),
    "mac-wider-memory": make_config(variant="mac", memory={"num_heads": 3, "head_dim": 7}),
    "mac-few-memory-tokens": make_config(variant="mac", num_memory_tokens=2, memory={"momentum": False}),
    "mac-subset": make_config(variant="mac", memory_layers=(1,), memory={"gate_granularity": "channel"}),
    "mag": make_config(variant="mag"),
    "mag-narrower-memory": make_config(variant="mag", memory={"num_heads": 3, "head_dim": 3, "depth": 1}),
    "mag-linear": make_config(variant="mag", num_persistent_tokens=0, memory={"depth": 1, "convolution": False}),
    "mal": make_config(variant="mal"),
    "mal-deep": make_config(variant="mal", memory={"depth": 3, "forgetting": False, "activation": "silu"}),
    "lmm": make_config(variant="lmm"),
    "lmm-subset": make_config(variant="lmm", memory_layers=(0, 2), memory={"guard": False}),
    "attention": make_config(variant="attention"),
}


@pytest.fixture
def new_config():
    return make_config


@pytest.fixture
def new_model():
    """Equal models of equal configurations, with weights far enough from zero for every part to matter."""

    def make(config: TitansConfig) -> TitansLM:
        torch.manual_seed(1)
        model = TitansLM(config).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.requires_grad_(False)

    return make


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def config(request) -> TitansConfig:
    return request.param


@pytest.fixture
def model(config, new_model) -> TitansLM:
    return new_model(config)


@pytest.fixture
def some_tokens():
    """Random token ids [rows, length]."""

    def make(rows: int, length: int) -> Tensor:
        return torch.randint(0, VOCAB, (rows, length))

    return make


@pytest.fixture
def documents():
    """Token indices of each document of one row, absent tokens left out."""

    def split(mask: Tensor, reset: Tensor) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for t in mask.nonzero().flatten().tolist():
            if reset[t]:
                found.append([])
            found[-1].append(t)
        return [document for document in found if document]

    return split
