"""Something to hide needles in."""

import numpy as np
import pytest

from titans.data.pieces import Encoded


@pytest.fixture
def documents():
    """Two texts of lower-case letters, of 3,000 and 1,000 tokens."""
    random = np.random.default_rng(0)
    return [Encoded(f"book {n}", random.integers(97, 123, size)) for n, size in enumerate((3000, 1000))]


@pytest.fixture
def random():
    return np.random.default_rng(1)
