"""BABILong's score of a model's own words: it reads the prompt, says what is likeliest, and the rule judges that.

This is how models that were not trained on the task are scored, with the benchmark's examples before them.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from titans.models.loss import check_logits
from titans.tasks.babilong import Babilong
from titans.tasks.babilong_prompts import scored
from titans.tasks.sample import Sample
from titans.tasks.score import PIECE, Score, random_of, read, side_by_side
from titans.training.model import StatefulModel, evaluating
from titans.training.progress import Progress

LONGEST_ANSWER = 80  # characters: as many as the benchmark's 20 tokens have, and as any answer like the examples' takes


def score_words(
    model: StatefulModel,
    task: Babilong,
    length: int,
    samples: int,
    *,
    seed: int | tuple[int, ...] = 0,
    batch_size: int = 32,
    piece: int = PIECE,
    progress: Progress | None = None,
) -> Score:
    """Asks `model` `samples` times at one length; arguments as those of `titans.tasks.score.score`.

    Raises:
        ValueError: samples, batch_size or piece is below 1.
        TitansError: as `Babilong.prompt`.
        NonFiniteError: the model predicts NaN or infinite logits.
    """
    times = side_by_side(length, samples, batch_size, piece)
    random, right = random_of(seed, length), 0
    with evaluating(model):
        for rows in times:
            prompts, questions = zip(*(task.prompt(length, random) for _ in range(rows)), strict=True)
            for words, question in zip(_words(model, task, prompts, piece, progress), questions, strict=True):
                said = task.tokenizer.decode(words)[:LONGEST_ANSWER]
                right += scored(said, question.answer, question.text, task.labels)
    return Score(length=length, samples=samples, right=right / samples, tokens_right=None)


def _words(
    model: StatefulModel, task: Babilong, prompts: Sequence[Sample], piece: int, progress: Progress | None
) -> list[list[int]]:
    """What the model says after each of the prompts, which are equally long: a token for each character at most."""
    ((_, logits, state),) = deque(read(model, prompts, piece, progress), maxlen=1)  # one piece's state at a time
    said: list[Tensor] = []
    while True:
        said.append(logits[:, -1, : task.vocab_size].argmax(-1))
        if len(said) == LONGEST_ANSWER:
            return torch.stack(said, 1).tolist()
        logits, state = model(said[-1].unsqueeze(1), state=state)
        check_logits(logits)
