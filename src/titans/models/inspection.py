"""What the memories of a language model do while it reads a text."""

from collections.abc import Callable, Collection
from contextlib import ExitStack

import torch
from torch import Tensor

from titans.memory.trace import MemoryTrace, watch
from titans.models.language_model import TitansLM


@torch.no_grad()
def memory_traces(
    model: TitansLM,
    tokens: Tensor,
    *,
    blocks: Collection[int] | None = None,
    piece: int = 1024,
    on_read: Callable[[int], object] = lambda count: None,
) -> dict[int, MemoryTrace]:
    """The trace [T, H, L] of each block that has a memory, while the model reads tokens [T] from an empty state.

    The memories are watched at work, so that it does not matter what a variant lets them read: MAG, MAL and LMM the
    block's normalised input, MAC that with what attention made of the segment.

    Args:
        blocks: numbers of the blocks to watch, which must have a memory; None for all that have one.
        piece: tokens per call of the model; no number depends on it.
        on_read: called with the number of tokens after each piece.
    """
    if blocks is None:
        blocks = [number for number in range(len(model.blocks)) if model.config.has_memory(number)]
    with ExitStack() as watching:
        watched = {
            number: watching.enter_context(watch(model.blocks[number].mixer.memory))  # pyright: ignore
            for number in blocks
        }
        state = None
        for part in tokens.unsqueeze(0).split(piece, 1):
            _, state = model(part, state, logits_to_keep=1)
            on_read(part.shape[1])
    return {number: seen.row(0) for number, seen in watched.items()}
