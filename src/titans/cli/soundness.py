"""What is said of a model that computes NaN."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from titans.errors import NonFiniteError, TitansError


@contextmanager
def require_sound(checkpoint: Path) -> Iterator[None]:
    """TitansError that names the checkpoint if its model computes NaN or infinite values."""
    try:
        yield
    except NonFiniteError as error:
        raise TitansError(
            f"{checkpoint} is of no use ({error}): train it again, with a lower --learning-rate"
        ) from error
