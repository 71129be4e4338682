"""Every task by its name, with what can be chosen about it (`titans eval TASK`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from titans.data.batches import TokenDocument
from titans.tasks.needles import Kind, needles
from titans.tasks.sample import Task


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a task may need to know; each takes what concerns it."""

    haystack: Sequence[TokenDocument] = ()
    """needles, babilong: text to hide things in"""
    kind: Kind = "pk"
    """needles: which of them"""
    depth: float | None = None
    """needles: where they lie, 0 the text's beginning, 1 its end; None: anywhere"""


TASKS: dict[str, Callable[[Choices], Task]] = {
    "needles": lambda choices: needles(choices.kind, choices.haystack, depth=choices.depth),
}
NEED_TEXT = ("needles", "babilong")
