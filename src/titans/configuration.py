"""What configurations have in common: plain values that JSON can hold, and back."""

import dataclasses
from pathlib import Path
from typing import Any, Self

from titans.errors import TitansError
from titans.parsing import parse


class Configuration:
    """Base of frozen dataclasses that say what a model is, or how it is trained."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue, reportReturnType]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return dataclasses.asdict(self)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path | None = None) -> Self:
        """The inverse of `to_dict`, also after a way through JSON; what is missing gets its default.

        Args:
            path: the file that holds it, for the messages.

        Raises:
            TitansError: a key is unknown or a value impossible.
        """
        try:
            return parse(values, cls, all_known=True)
        except ValueError as error:
            place = "" if path is None else f" in {path}"
            raise TitansError(f"impossible configuration{place}: {error}") from error
