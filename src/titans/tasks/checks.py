"""What synthetic tasks refuse: settings that cannot be, and samples that are too short."""

from titans.errors import TitansError
from titans.tasks.sample import Task


def require(task: Task, field: str, holds: bool, expected: str) -> None:
    """Raises a ValueError with the field of the task, its value and what it must be, unless `holds`."""
    if not holds:
        raise ValueError(f"{type(task).__name__}.{field} is {getattr(task, field)!r}; it must be {expected}")


def require_length(task: Task, length: int) -> None:
    """Raises a TitansError unless the task can make a sample of `length` tokens."""
    if length < task.shortest:
        raise TitansError(
            f"{length} tokens are too few for a sample of {type(task).__name__}: it takes {task.shortest}"
        )
