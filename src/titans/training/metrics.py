"""metrics.jsonl: one line per `log_every` steps and per evaluation, and the sums that the next line needs."""

import json
import logging
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from titans.files import writing
from titans.parsing import parse
from titans.training.evaluate import Evaluation

FILE = "metrics.jsonl"
_log = logging.getLogger(__name__)


class MetricsFile:
    """Lines of JSON appended to `RUN/metrics.jsonl`, each whole before the next.

    Args:
        run: the folder.
        length: bytes of an earlier run to keep; what comes after them is cut off, and a broken line where there are
            fewer.
    """

    def __init__(self, run: Path, length: int = 0) -> None:
        self._path = run / FILE
        with writing(self._path):
            run.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            if self.length < length:
                _log.warning("%s is shorter than it was: some of the curve before this step is missing", self._path)
                length = self._path.read_bytes().rfind(b"\n") + 1
            os.truncate(self._path, length)

    @property
    def length(self) -> int:
        """Bytes written."""
        return self._path.stat().st_size

    def append(self, line: dict) -> None:
        """Writes one line."""
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


@dataclass
class Meter:
    """Totals of the run, and sums since the last line."""

    tokens: int = 0
    """tokens read in all"""
    seconds: float = 0.0
    """time spent training in all, without evaluations and checkpoints"""
    recent_steps: int = 0
    recent_loss: float = 0.0
    recent_tokens: int = 0
    recent_seconds: float = 0.0

    def count(self, loss: float, tokens: int, seconds: float) -> None:
        """Adds one step."""
        self.tokens += tokens
        self.seconds += seconds
        self.recent_steps += 1
        self.recent_loss += loss
        self.recent_tokens += tokens
        self.recent_seconds += seconds

    def line(self, step: int, grad_norm: float, learning_rate: float) -> dict:
        """The line for the steps since the last one, which are then forgotten."""
        loss = self.recent_loss / self.recent_steps
        line = {
            "step": step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": loss,
            "bits_per_token": loss / math.log(2),
            "grad_norm": grad_norm,
            "lr": learning_rate,
            "tokens_per_second": self.recent_tokens / max(self.recent_seconds, 1e-9),
        }
        self.recent_steps, self.recent_loss, self.recent_tokens, self.recent_seconds = 0, 0.0, 0, 0.0
        return line

    def validation_line(self, step: int, evaluation: Evaluation) -> dict:
        """The line for an evaluation after `step`."""
        return {
            "step": step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "validation_loss": evaluation.loss,
            "validation_bits_per_token": evaluation.bits_per_token,
            "validation_tokens": evaluation.tokens,
            "by_distance": evaluation.to_dict()["by_distance"],
        }

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """What `to_dict` gave. Raises ValueError for anything else."""
        return parse(values, cls, all_known=True)
