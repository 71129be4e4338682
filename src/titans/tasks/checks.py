"""What synthetic tasks refuse: samples that are too short."""

from titans.errors import TitansError
from titans.tasks.sample import Task


def require_length(task: Task, length: int) -> None:
    """Raises a TitansError unless the task can make a sample of `length` tokens."""
    if length < task.shortest:
        raise TitansError(
            f"{length} tokens are too few for a sample of {type(task).__name__}: it takes {task.shortest}"
        )
