import json
import math
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from titans.data.batches import Batch
from titans.errors import NonFiniteError, TitansError
from titans.training.config import TrainConfig
from titans.training.loop import train

CONFIG = TrainConfig(
    steps=13, batch_size=2, length=8, learning_rate=0.05, log_every=3, eval_every=5, eval_tokens=40, save_every=4
)
TIMES = ("seconds", "tokens_per_second")


class StopsAt:
    """A source during whose `step`-th batch something happens."""

    def __init__(self, source, step: int, happens) -> None:
        self.source, self.left, self.happens = source, step, happens
        self.state_dict, self.load_state_dict = source.state_dict, source.load_state_dict

    def next(self):
        self.left -= 1
        if self.left == 0:
            self.happens()
        return self.source.next()


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def lose_power() -> None:
    raise OSError("power")


def metrics(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def everything_saved(out: Path) -> dict:
    saved: dict = {
        f"{file.name}/{name}": (tensor.dtype, tensor.tolist())
        for file in (out / "checkpoint").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    training = json.loads((out / "checkpoint" / "training.json").read_text())
    for name in ("seconds", "recent_seconds"):
        training["meter"].pop(name)
    training.pop("metrics_bytes")  # the length of the printed seconds varies
    return saved | {"training": training}


def test_a_model_learns_and_the_log_says_so(tmp_path: Path, small_model, batches) -> None:
    config = replace(CONFIG, steps=60)
    result = train(small_model(), batches(), config, tmp_path, validation=lambda: batches(epochs=1))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    validated = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in trained] == list(range(3, 61, 3))
    assert [line["step"] for line in validated] == list(range(5, 61, 5))
    assert trained[-1]["loss"] < 0.8 * trained[0]["loss"]
    assert trained[-1]["bits_per_token"] == pytest.approx(trained[-1]["loss"] / math.log(2))
    assert trained[-1]["tokens"] == result.tokens == 60 * 16
    assert trained[-1]["seconds"] == pytest.approx(result.seconds)
    assert trained[-1]["tokens_per_second"] > 0
    assert result.validation is not None
    assert validated[-1]["validation_bits_per_token"] == result.validation.bits_per_token
    assert json.loads(json.dumps(result.to_dict()))["steps"] == 60


@pytest.mark.parametrize("happens", [press_ctrl_c, lose_power])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [5, 9, 10])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path, small_model, batches, happens, precision: str, stop: int
) -> None:
    config = replace(CONFIG, precision=precision)

    def validation():
        return batches(epochs=1)

    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    one = small_model()
    train(one, batches(), config, straight, validation=validation)

    with pytest.raises((KeyboardInterrupt, OSError)):
        train(small_model(), StopsAt(batches(), stop, happens), config, resumed, validation=validation)
    saved_at = json.loads((resumed / "checkpoint" / "training.json").read_text())["step"]
    assert saved_at == (stop if happens is press_ctrl_c else (stop - 1) // 4 * 4)
    two = small_model()
    torch.manual_seed(99)
    result = train(two, batches(), config, resumed, validation=validation, resume=True)

    assert result.steps == 13
    assert result.tokens == 13 * 16
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, dict(two.named_parameters())[name]), name
    assert everything_saved(straight) == everything_saved(resumed)
    assert metrics(straight) == metrics(resumed)


def test_the_state_goes_on_from_batch_to_batch(tmp_path: Path, small_model, batches) -> None:
    model = small_model()
    seen = []
    original = model.loss

    def loss(tokens, labels, *, state, reset, weights):
        value, after = original(tokens, labels, state=state, reset=reset, weights=weights)
        seen.append((state, after))
        return value, after

    model.loss = loss
    train(model, batches(), replace(CONFIG, steps=3), tmp_path)
    assert seen[0][0] is None
    for (_, after), (before, _) in pairwise(seen):
        assert torch.equal(before.hidden, after.hidden)
        assert not before.hidden.requires_grad


def test_ctrl_c_says_where_the_checkpoint_is(tmp_path: Path, small_model, batches, capsys) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"checkpoint saved at .*checkpoint"):
        train(small_model(), StopsAt(batches(), 2, press_ctrl_c), CONFIG, tmp_path)
    assert "finishing the step and saving" in capsys.readouterr().err
    assert (tmp_path / "checkpoint").readlink() == Path("checkpoint-00000002")


def test_gradients_are_clipped_and_the_norm_before_is_logged(tmp_path: Path, small_model, batches) -> None:
    config = replace(CONFIG, steps=1, clip_norm=1e-3, weight_decay=0.0)
    model = small_model()
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *args):
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", spy)
        train(model, batches(), config, tmp_path)
    assert norms == pytest.approx([1e-3], rel=1e-2)
    assert metrics(tmp_path)[0]["grad_norm"] > 1e-2


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path, small_model, batches) -> None:
    model = small_model()

    def break_model() -> None:
        with torch.no_grad():
            model.head.bias.fill_(math.nan)

    match = r"diverged at step 6 .*last checkpoint .* is intact.*learning_rate"
    with pytest.raises(TitansError, match=match):
        train(model, StopsAt(batches(), 6, break_model), CONFIG, tmp_path)

    def refuse(*_arguments: object, **_named: object) -> None:
        raise NonFiniteError("x holds NaN")  # as a memory does

    model = small_model()
    with pytest.raises(TitansError, match=r"diverged at step \d+ \(loss nan.*last checkpoint .* is intact"):
        train(model, StopsAt(batches(), 2, lambda: setattr(model, "loss", refuse)), CONFIG, tmp_path, resume=True)

    def spoilt(*_arguments: object, **_named: object) -> None:
        raise NonFiniteError("the model predicts NaN")  # as of held-out text

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("titans.training.loop.evaluate", spoilt)
        with pytest.raises(TitansError, match=r"diverged at step \d+ \(predictions of held-out.*is intact"):
            train(small_model(), batches(), CONFIG, tmp_path, resume=True, validation=batches)
    result = train(small_model(), batches(), CONFIG, tmp_path, resume=True)
    assert result.steps == 13


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path: Path, small_model, batches) -> None:
    train(small_model(), batches(), replace(CONFIG, steps=4), tmp_path)
    path = tmp_path / "checkpoint" / "training.json"
    stored = json.loads(path.read_text())
    del stored["config"]["gate_penalty"]
    path.write_text(json.dumps(stored))
    with pytest.raises(TitansError, match=r"gate_penalty is 0\.1, but .* was begun with 0\.0"):
        train(small_model(), batches(), replace(CONFIG, steps=4, gate_penalty=0.1), tmp_path, resume=True)
    assert train(small_model(), batches(), replace(CONFIG, steps=4), tmp_path, resume=True).steps == 4


def test_a_run_is_not_overwritten_and_is_resumed_with_its_own_settings(tmp_path: Path, small_model, batches) -> None:
    train(small_model(), batches(), CONFIG, tmp_path)
    with pytest.raises(TitansError, match="already holds a run"):
        train(small_model(), batches(), CONFIG, tmp_path)
    with pytest.raises(TitansError, match=r"learning_rate is 0\.1, but .* was begun with 0\.05"):
        train(small_model(), batches(), replace(CONFIG, learning_rate=0.1), tmp_path, resume=True)
    finished = train(small_model(), batches(), CONFIG, tmp_path, resume=True)
    assert finished.steps == 13


def test_a_step_beyond_the_last_is_damage(tmp_path: Path, small_model, batches) -> None:
    train(small_model(), batches(), CONFIG, tmp_path)
    path = tmp_path / "checkpoint" / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 14}))
    with pytest.raises(TitansError, match=r"training\.json is damaged: step is 14 of 13"):
        train(small_model(), batches(), CONFIG, tmp_path, resume=True)


def test_a_warm_up_longer_than_the_run_is_refused(tmp_path: Path, small_model, batches) -> None:
    with pytest.raises(ValueError, match="warmup_steps is 5; it must be at most steps"):
        train(small_model(), batches(), replace(CONFIG, steps=4, warmup_steps=5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_nothing_is_one_clear_line(tmp_path: Path, small_model, batches) -> None:
    with pytest.raises(TitansError, match="holds no checkpoint"):
        train(small_model(), batches(), CONFIG, tmp_path, resume=True)


def test_progress_counts_tokens_over_resumes(tmp_path: Path, small_model, batches) -> None:
    class Counter:
        skipped = advanced = 0

        def skip(self, count: int) -> None:
            self.skipped += count

        def advance(self, count: int, **values: float) -> None:
            self.advanced += count
            assert values["loss"] > 0

    with pytest.raises(KeyboardInterrupt):
        train(small_model(), StopsAt(batches(), 5, press_ctrl_c), CONFIG, tmp_path)
    counter = Counter()
    train(small_model(), batches(), CONFIG, tmp_path, progress=counter, resume=True)  # pyright: ignore[reportArgumentType]
    assert (counter.skipped, counter.advanced) == (5 * 16, 8 * 16)


class Rows:
    """Batches whose rows all begin anew, a different number of them each time."""

    number = 0

    def next(self) -> Batch:
        self.number += 1
        tokens = torch.arange(self.number * 8).reshape(self.number, 8)
        reset = torch.zeros_like(tokens, dtype=torch.bool)
        reset[:, 0] = True
        return Batch(tokens, tokens.roll(-1, 1), reset)

    def state_dict(self) -> dict:
        return {"number": self.number}

    def load_state_dict(self, state: dict) -> None:
        self.number = state["number"]


def test_where_every_row_begins_anew_there_may_be_another_number_of_rows(tmp_path: Path, small_model) -> None:
    result = train(small_model(), Rows(), replace(CONFIG, steps=4), tmp_path / "run")
    assert result.tokens == 8 * (1 + 2 + 3 + 4)


class Weighted:
    """The same batch again and again, of which some labels weigh more than others."""

    def __init__(self) -> None:
        tokens = torch.arange(16).view(2, 8)
        self.batch = Batch(tokens, tokens + 1, torch.rand(2, 8) < 0.5, torch.rand(2, 8))

    def next(self) -> Batch:
        return self.batch

    def state_dict(self) -> dict:
        return {}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_is_given_all_of_a_batch_in_the_precision_asked_for(
    tmp_path: Path, small_model, batches, precision: str
) -> None:
    source, model, given, lowered = Weighted(), small_model(), [], []
    original = model.loss

    def loss(tokens, labels, **rest):
        given.append((tokens, labels, rest["reset"], rest["weights"]))
        return original(tokens, labels, **rest)

    model.loss = loss
    model.head.register_forward_hook(lambda *_: lowered.append((model.training, torch.is_autocast_enabled("cpu"))))
    config = replace(CONFIG, steps=1, precision=precision)
    train(model, source, config, tmp_path, validation=lambda: batches(epochs=1))
    assert [len(given), set(lowered)] == [1, {(training, precision == "bfloat16") for training in (True, False)}]
    for found, expected in zip(given[0], vars(source.batch).values(), strict=True):
        assert torch.equal(found, expected)


def test_every_parameter_has_the_rate_of_the_step(tmp_path: Path, small_model, batches, monkeypatch) -> None:
    from titans.training import loop
    from titans.training.schedule import learning_rate

    made, original = [], loop.make_optimizer
    monkeypatch.setattr(loop, "make_optimizer", lambda *given: made.append(original(*given)) or made[-1])
    train(small_model(), batches(), CONFIG, tmp_path)
    (optimizer,) = made
    assert len(optimizer.param_groups) > 1
    assert {group["lr"] for group in optimizer.param_groups} == {learning_rate(CONFIG.steps, CONFIG)}


def test_as_much_is_evaluated_as_was_asked_for(tmp_path: Path, small_model, batches) -> None:
    for tokens in (7, 40):
        config = replace(CONFIG, eval_tokens=tokens)
        result = train(small_model(), batches(), config, tmp_path / str(tokens), validation=lambda: batches(epochs=1))
        assert result.validation is not None
        assert result.validation.tokens == tokens
