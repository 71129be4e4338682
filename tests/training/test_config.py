import json
import subprocess
import sys
from pathlib import Path

import pytest

from titans.errors import TitansError
from titans.training.config import TrainConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("length", -1),
        ("batch_size", 2**23),
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("final_lr_fraction", 1.5),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("clip_norm", 0.0),
        ("gate_penalty", -0.1),
        ("penalty_warmup_steps", -1),
        ("seed", -1),
        ("log_every", 0),
        ("eval_every", 0),
        ("eval_tokens", 0),
        ("save_every", 0),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"TrainConfig\.{field} is .*; it must be "):
        TrainConfig(**{field: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("learning_rate", float("inf"), "a finite number, not inf"),
        ("clip_norm", "1", "a number, not text"),
        ("steps", 5.5, "a whole number, not a number"),
        ("steps", 4.0, "a whole number, not a number"),
        ("steps", "5", "a whole number, not text"),
        ("precision", "float16", "one of float32, bfloat16, not 'float16'"),
    ],
)
def test_a_value_of_another_kind_is_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"TrainConfig\.{field} should be {expected}"):
        TrainConfig(**{field: value})  # pyright: ignore[reportArgumentType]


def test_a_run_reaches_the_end_of_its_warm_ups() -> None:
    for field in ("warmup_steps", "penalty_warmup_steps"):
        TrainConfig(steps=9, **{field: 9}).require_rise()
        with pytest.raises(ValueError, match=rf"TrainConfig\.{field} is 10; it must be at most steps \(9\)"):
            TrainConfig(steps=9, **{field: 10}).require_rise()
        TrainConfig(steps=9, **{field: 10}).for_steps(4).require_rise()


def test_a_config_survives_json() -> None:
    config = TrainConfig(steps=7, betas=(0.8, 0.9), warmup_steps=3)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "unknown key stepz"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": "many"}, "steps should be a whole number, not text"),
        ({"betas": [0.9]}, "betas should hold 2 values, not 1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_a_damaged_config_is_one_clear_line(change: dict, message: str) -> None:
    with pytest.raises(TitansError, match=f"impossible configuration in a.json: .*{message}"):
        TrainConfig.from_dict(TrainConfig().to_dict() | change, Path("a.json"))


def test_importing_the_config_does_not_import_torch() -> None:
    code = "import sys, titans.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
