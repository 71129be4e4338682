"""What the memories of a model did at each token of a text, as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from titans.memory.trace import MemoryTrace

QUANTITIES = ("surprise", "written", "alpha", "eta", "theta", "step")


@dataclass(frozen=True, kw_only=True)
class HeadTrace:
    """What one head of one block's memory did at each token [T]; its memory layers are taken together."""

    block: int
    head: int
    surprise: list[float]
    """norm of the gradient of the memory's loss at the weights that the token's chunk begins with"""
    written: list[float]
    """norm of what the token added to the weights"""
    alpha: list[float]
    """forget gate, 0 (keep everything) to 1 (wipe)"""
    eta: list[float]
    """momentum"""
    theta: list[float]
    """step size, as the gate asks for it"""
    step: list[float]
    """step size after the guard"""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The text, token by token, and what every head did."""

    text: list[str]
    """the characters that each token completes; "" where it completes none"""
    heads: list[HeadTrace]

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return asdict(self)

    def first(self, count: int) -> "Inspection":
        """The same of the first `count` tokens."""
        heads = [
            HeadTrace(block=head.block, head=head.head, **{name: getattr(head, name)[:count] for name in QUANTITIES})
            for head in self.heads
        ]
        return Inspection(text=self.text[:count], heads=heads)


def inspection(traces: Mapping[int, MemoryTrace], text: Sequence[str]) -> Inspection:
    """The numbers of traces [T, H, L] by block."""
    heads = []
    for block, trace in traces.items():
        values = {name: x.T.tolist() for name, x in trace.by_head().tensors().items()}  # of each head, of each token
        for head, _ in enumerate(values["surprise"]):
            heads.append(HeadTrace(block=block, head=head, **{name: values[name][head] for name in QUANTITIES}))
    return Inspection(text=list(text), heads=heads)
