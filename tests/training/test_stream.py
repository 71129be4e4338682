import io
import math
import mmap
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.frozen import without_writes
from titans.models.language_model import TitansLM
from titans.training.progress import Progress
from titans.training.stream import resident_mb, stream


class Text:
    name = "text"

    def __init__(self, length: int) -> None:
        self._tokens = np.random.default_rng(0).integers(0, 256, length)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self._tokens[start:stop]


@pytest.fixture
def model() -> TitansLM:
    torch.manual_seed(0)
    memory = MemoryConfig(num_heads=2, chunk_size=8, expansion=2)
    return TitansLM(TitansConfig(variant="mag", dim=16, num_layers=2, num_heads=2, window_size=16, memory=memory))


def test_stream_equals_one_call_and_starts_over_when_the_text_ends(model):
    text = Text(150)
    with Progress("test", stream=io.StringIO()) as progress:
        moments, state = stream(model, [text], 400, progress, piece=37, moments=4)
    endless = torch.from_numpy(np.tile(text.tokens(0, 150), 3))
    with Progress("test", stream=io.StringIO()) as progress:
        _, halfway = stream(model, [text], 150, progress, piece=37)
        _, later = stream(model, [text], 250, progress, piece=37, state=halfway)
    logits, whole = model(endless[:400].unsqueeze(0))
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(state.tensors()[name], tensor, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(later.tensors()[name], tensor, atol=1e-4, rtol=1e-4)
    bits = F.cross_entropy(logits[0], endless[1:401], reduction="none") / math.log(2)
    since = [0, 111, 222, 333, 400]  # the pieces' ends after each quarter
    assert [moment.tokens for moment in moments] == since[1:]
    expected = [bits[start:stop].mean().item() for start, stop in pairwise(since)]
    assert [moment.bits_per_token for moment in moments] == pytest.approx(expected, abs=1e-4)


def test_resident_memory_follows_what_is_allocated():
    before = resident_mb()
    block = mmap.mmap(-1, 200_000_000)  # fresh pages, where an allocator might hand out old ones
    np.frombuffer(block, np.uint8)[:] = 1
    assert 150 < resident_mb() - before < 300


def test_without_writes_the_memory_keeps_its_initial_weights(model):
    frozen = without_writes(model)
    tokens = torch.randint(0, 256, (1, 64))
    memory = frozen(tokens)[1].blocks[0].memory
    live = model(tokens)[1].blocks[0].memory
    for initial, kept, learned in zip(
        model.blocks[0].mixer.memory.initial_weights, memory.weights, live.weights, strict=True
    ):
        assert torch.equal(kept[0], initial)
        assert not torch.equal(learned[0], initial)
