import numpy as np
import torch

from titans.data.needles import KEY_DIGITS, QUESTION
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.training.recall import recall


class Text:
    name = "text"

    def __len__(self) -> int:
        return 3000

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop) % 26 + 97


class Oracle(torch.nn.Module):
    """Remembers the first key it reads as its state and answers with it."""

    def __init__(self, wrong_digit: bool = False) -> None:
        super().__init__()
        self.wrong_digit = wrong_digit

    def forward(self, tokens, state=None, logits_to_keep=0):
        logits = torch.zeros(*tokens.shape, 256)
        if state is None:
            state = []
            for row in tokens:
                text = bytes(row.tolist()).decode()
                state.append(text.split(QUESTION)[1][:KEY_DIGITS])
            return logits, state
        if tokens.shape[1] == len(QUESTION) + KEY_DIGITS - 1:
            for row, key in enumerate(state):
                for digit in range(KEY_DIGITS):
                    said = ord(key[digit]) if not (self.wrong_digit and digit == 4) else ord("x")
                    logits[row, len(QUESTION) - 1 + digit, said] = 1
        return logits, state


def test_a_model_that_remembers_recalls_everything_and_one_wrong_digit_is_wrong():
    assert recall(Oracle(), [Text()], 500, 0.0, 4, piece=100) == 1.0  # pyright: ignore[reportArgumentType]
    assert recall(Oracle(True), [Text()], 500, 0.0, 4, piece=100) == 0.0  # pyright: ignore[reportArgumentType]


def test_an_untrained_model_is_at_chance():
    memory = MemoryConfig(num_heads=1, depth=1)
    model = TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=1, window_size=16, memory=memory))
    assert recall(model, [Text()], 300, 0.5, 2) == 0.0
