"""The training loop: a state carried from window to window, metrics, evaluations, checkpoints, exact resume."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from titans.data.batches import Batch, BatchSource
from titans.errors import NonFiniteError, TitansError
from titans.training.checkpoint import (
    LINK,
    Progressed,
    current,
    find_checkpoint,
    load_checkpoint,
    refuse_to_overwrite,
    save_checkpoint,
)
from titans.training.config import TrainConfig
from titans.training.evaluate import Evaluation, evaluate
from titans.training.interrupt import catch_interrupt
from titans.training.metrics import Meter, MetricsFile
from titans.training.model import CarriedState, StatefulModel, autocast, device_of
from titans.training.openness import watched
from titans.training.optimizer import make_optimizer
from titans.training.progress import Progress
from titans.training.schedule import gate_penalty, learning_rate


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    steps: int
    tokens: int
    seconds: float
    """time spent training, over all its resumes"""
    validation: Evaluation | None
    """the evaluation after the last step; None without held-out text, and where no step was left to take"""
    checkpoint: Path

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "validation": self.validation.to_dict() if self.validation else None,
            "checkpoint": str(self.checkpoint),
        }


def train(
    model: StatefulModel,
    source: BatchSource,
    config: TrainConfig,
    out: str | Path,
    *,
    validation: Callable[[], BatchSource] | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> TrainResult:
    """Trains `model` in place for `config.steps` steps and leaves metrics.jsonl and a checkpoint in `out`.

    The state goes from batch to batch; gradients do not. Resumed on the same machine, a run gives bit for bit what it
    would have given without the interruption.

    Args:
        source: endless batches.
        validation: makes a source of held-out batches; called for every evaluation.
        progress: counts tokens.
        resume: go on from the checkpoint in `out`, with the same settings.

    Raises:
        ValueError: a warm-up is longer than the run.
        TitansError: the loss is not finite, `out` already holds a run (or, with `resume`, none), the settings differ
            from the checkpoint's, or the disk is full. The last checkpoint is intact.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint has been saved; the message says where.
    """
    config.require_rise()
    run = _Run(model, source, config, Path(out), resume)
    if progress is not None and run.meter.tokens:
        progress.skip(run.meter.tokens)
    evaluation = None
    model.train()
    with catch_interrupt() as interrupt:
        while run.step < config.steps:
            run.advance(progress)
            last = run.step == config.steps
            if validation is not None and (last or run.step % config.eval_every == 0):
                evaluation = run.evaluate(validation())
            if last or interrupt.requested or run.step % config.save_every == 0:
                run.save()
            if interrupt.requested:
                raise KeyboardInterrupt(f"checkpoint saved at {run.out / LINK}")
    return TrainResult(run.step, run.meter.tokens, run.meter.seconds, evaluation, find_checkpoint(run.out))


class _Run:
    """What changes during a run."""

    def __init__(self, model: StatefulModel, source: BatchSource, config: TrainConfig, out: Path, resume: bool) -> None:
        self.model = model
        self.source = source
        self.config = config
        self.out = out
        self.device = device_of(model)
        self.optimizer = make_optimizer(model, config)
        self.state: CarriedState | None = None
        self.step = 0
        self.meter = Meter()
        if resume:
            self._resume()
        else:
            refuse_to_overwrite(out)
            self.metrics = MetricsFile(out)

    def _resume(self) -> None:
        self.state, progressed = load_checkpoint(self.out, self.model, self.optimizer)
        path = find_checkpoint(self.out) / "training.json"
        begun = TrainConfig.from_dict(progressed.config, path)  # a setting that there was not then had its default
        for name, value in self.config.to_dict().items():
            then = getattr(begun, name)
            if then != value:
                raise TitansError(f"{name} is {value}, but {self.out} was begun with {then}: resume it with its own")
        try:
            self.source.load_state_dict(progressed.cursor)
            self.meter = Meter.from_dict(progressed.meter)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TitansError(f"{path} is damaged or of another task ({error}): start a new run") from error
        if progressed.step > self.config.steps:
            raise TitansError(f"{path} is damaged: step is {progressed.step} of {self.config.steps}; copy it again")
        self.metrics = MetricsFile(self.out, progressed.metrics_bytes)
        self.step = progressed.step

    def advance(self, progress: Progress | None) -> None:
        """One optimiser step."""
        started = time.perf_counter()
        step = self.step + 1
        rate = learning_rate(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.source.next()
        if batch.reset[:, 0].all():  # nothing goes on; the next rows may be of another number
            self.state = None
        batch = batch.to(self.device)
        try:
            loss, penalised, state = self._losses(batch, gate_penalty(step, self.config))
        except NonFiniteError as error:
            raise TitansError(self._diverged(_at(step, math.nan, math.nan))) from error
        penalised.backward()
        grad_norm = clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        nats, norm = loss.item(), grad_norm.item()
        if not (math.isfinite(nats) and math.isfinite(norm)):
            raise TitansError(self._diverged(_at(step, nats, norm)))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state = state.detach()
        self.step = step
        tokens = batch.tokens.numel()
        self.meter.count(nats, tokens, time.perf_counter() - started)
        if progress is not None:
            progress.advance(tokens, loss=nats)
        if step % self.config.log_every == 0 or step == self.config.steps:
            self.metrics.append(self.meter.line(step, norm, rate))

    def _losses(self, batch: Batch, penalty: float) -> tuple[Tensor, Tensor, CarriedState]:
        """The loss that is reported, the one whose gradient is taken, and the next state."""
        with autocast(self.device, self.config.precision), watched(self.model) if penalty else nullcontext() as gates:
            loss, state = self.model.loss(
                batch.tokens, batch.labels, state=self.state, reset=batch.reset, weights=batch.weights
            )
            return loss, loss if gates is None else loss + penalty * gates(), state

    def evaluate(self, source: BatchSource) -> Evaluation:
        try:
            evaluation = evaluate(self.model, source, self.config.eval_tokens, precision=self.config.precision)
        except NonFiniteError as error:
            found = f"at step {self.step} (predictions of held-out text are NaN or infinite)"
            raise TitansError(self._diverged(found)) from error
        self.metrics.append(self.meter.validation_line(self.step, evaluation))
        return evaluation

    def save(self) -> None:
        progressed = Progressed(
            step=self.step,
            config=self.config.to_dict(),
            cursor=self.source.state_dict(),
            meter=self.meter.to_dict(),
            metrics_bytes=self.metrics.length,
        )
        save_checkpoint(self.out, self.model, self.optimizer, self.state, progressed)

    def _diverged(self, where: str) -> str:
        saved = f"the last checkpoint in {self.out} is intact" if current(self.out) else "no checkpoint yet"
        return f"training diverged {where}; {saved}: start again with a lower learning_rate"


def _at(step: int, loss: float, grad_norm: float) -> str:
    return f"at step {step} (loss {loss}, gradient norm {grad_norm})"
