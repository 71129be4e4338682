"""Something to hide needles in, and samples that are made in blocks."""

import numpy as np
import pytest

from titans.data.pieces import Encoded
from titans.tasks import blocks


@pytest.fixture
def documents():
    """Two texts of lower-case letters, of 3,000 and 1,000 tokens."""
    random = np.random.default_rng(0)
    return [Encoded(f"book {n}", random.integers(97, 123, size)) for n, size in enumerate((3000, 1000))]


@pytest.fixture
def random():
    return np.random.default_rng(1)


@pytest.fixture(params=[blocks.BLOCK, 5])
def whole_and_in_blocks(request, monkeypatch):
    """All of a short sample is made at once, a long one block by block."""
    monkeypatch.setattr(blocks, "BLOCK", request.param)
