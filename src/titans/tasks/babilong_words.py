"""BABILong's score of a model's own words: it reads the prompt, says what is likeliest, and the rule judges that.

This is how models that were not trained on the task are scored, with the benchmark's examples before them.
"""

import numpy as np
import torch

from titans.tasks.babilong import Babilong
from titans.tasks.babilong_prompts import scored
from titans.tasks.sample import Sample
from titans.tasks.score import Score, random_of, scoring
from titans.training.model import StatefulModel, device_of
from titans.training.progress import Progress

LONGEST_ANSWER = 64  # tokens: a sentence of bytes; what follows its full stop is not judged


def score_words(
    model: StatefulModel,
    task: Babilong,
    length: int,
    samples: int,
    *,
    seed: int = 0,
    batch_size: int = 32,
    piece: int = 2048,
    progress: Progress | None = None,
) -> Score:
    """Asks `model` `samples` times at one length; arguments as those of `titans.tasks.score.score`."""
    random, right = random_of(seed, length), 0
    with scoring(model):
        for start in range(0, samples, batch_size):
            prompts, questions = zip(
                *(task.prompt(length, random) for _ in range(min(batch_size, samples - start))), strict=True
            )
            for words, question in zip(_words(model, prompts, piece, progress), questions, strict=True):
                right += scored(task.tokenizer.decode(words), question.answer, question.text, task.labels)
    return Score(length=length, samples=samples, right=right / samples, tokens_right=None)


def _words(model: StatefulModel, prompts: tuple[Sample, ...], piece: int, progress: Progress | None) -> list[list[int]]:
    """What the model says after each of the prompts, which are equally long."""
    device, state, logits = device_of(model), None, torch.empty(0)
    for pieces in zip(*(prompt.pieces(piece) for prompt in prompts), strict=True):
        tokens = torch.from_numpy(np.stack([p.tokens for p in pieces])).to(device)
        logits, state = model(tokens, state=state)
        if progress is not None:
            progress.advance(tokens.numel())
    said = [logits[:, -1].argmax(-1)]
    while len(said) < LONGEST_ANSWER:
        logits, state = model(said[-1].unsqueeze(1), state=state)
        said.append(logits[:, -1].argmax(-1))
    return torch.stack(said, 1).tolist()
