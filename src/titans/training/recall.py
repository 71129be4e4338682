"""Pass-key recall: read a long text, then ask for the key that was hidden in it."""

from collections.abc import Sequence

import numpy as np
import torch

from titans.data.batches import TokenDocument
from titans.data.needles import KEY_DIGITS, Filler, haystack
from titans.models.language_model import TitansLM


@torch.no_grad()
def recall(
    model: TitansLM,
    documents: Sequence[TokenDocument],
    distance: int,
    depth: float,
    samples: int,
    seed: int = 0,
    piece: int = 2048,
) -> float:
    """Share of pass keys answered exactly, digit by digit and greedily.

    Args:
        documents: text to hide the keys in.
        distance: tokens between key and question.
        depth: place of the key in the text, from 0 (its beginning) to below 1.
        samples: keys; all are read side by side, the state carried from piece to piece.
        piece: tokens per call; memory does not grow with `distance`.
    """
    filler = Filler(documents)
    random = np.random.default_rng([seed, distance, round(1000 * depth)])
    stacks = [haystack(filler, distance, depth, random) for _ in range(samples)]
    state = None
    for tokens in zip(*(stack.pieces(piece) for stack in stacks), strict=True):
        _, state = model(torch.from_numpy(np.stack(tokens)), state, logits_to_keep=1)
    # Teacher forcing with an exact match is greedy decoding: one wrong digit is a wrong answer either way.
    asked = torch.from_numpy(np.stack([stack.answer for stack in stacks]))
    logits, _ = model(asked[:, :-1], state)
    right = (logits[:, -KEY_DIGITS:].argmax(-1) == asked[:, -KEY_DIGITS:]).all(1)
    return right.float().mean().item()
