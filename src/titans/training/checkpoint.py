"""Checkpoints that are whole at every moment.

    RUN/checkpoint                -> checkpoint-00000200, a symbolic link, so that its path never changes
    RUN/checkpoint-00000200/      config.json, model.safetensors     the model, as `model.save` writes it
                                  optimizer.safetensors              moments, and the state of the random generators
                                  state.safetensors                  what the model carries between windows
                                  training.json                      step, data cursor, settings, metrics so far
                                  tokenizer.json                     of the checkpoint before; at first the run's own

A checkpoint is written to a temporary folder and renamed; then the link is replaced. Killed at any point, the run has
the old checkpoint or the new one. Copied without its link, or with a folder in the link's place, it goes on as well.
"""

import hashlib
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW

from titans.data.pieces import TOKENIZER_NAME, tokenizer_of
from titans.data.tokenizer import Tokenizer
from titans.errors import TitansError
from titans.files import load_tensors, read_json, reading, remove, save_tensors, spoilt, write_json, writing
from titans.parsing import parse, require
from titans.training.config import TrainConfig
from titans.training.model import CarriedState, StatefulModel, device_of
from titans.training.optimizer import load_moments, moments

LINK = "checkpoint"
_NUMBERED = f"{LINK}-{'[0-9]' * 8}"


@dataclass(frozen=True)
class Progressed:
    """Everything of a run that is not a tensor."""

    step: int
    """optimiser steps taken"""
    config: dict
    """`TrainConfig.to_dict()`"""
    cursor: dict
    """`BatchSource.state_dict()`"""
    meter: dict
    """what the next line of metrics.jsonl has gathered so far, and the totals"""
    metrics_bytes: int
    """length of metrics.jsonl"""
    tokenizer: str | None = None
    """SHA-256 of tokenizer.json (`save_checkpoint` fills it in); None: there was none"""
    carried: bool = False
    """whether there is a state.safetensors (`save_checkpoint` fills it in)"""

    def __post_init__(self) -> None:
        for name in ("step", "metrics_bytes"):
            require(self, name, getattr(self, name) >= 0, "0 or more")


def find_checkpoint(folder: str | Path) -> Path:
    """The folder of the model in `folder`, which is a run or already the folder of a model.

    Raises:
        TitansError: there is none.
    """
    folder = Path(folder)
    if not folder.exists():
        raise TitansError(f"{folder} does not exist: name the folder of a run or of a saved model")
    there = current(folder)
    for candidate in (there, folder):
        if candidate is not None and (candidate / "config.json").exists():
            return candidate
    if there is not None:
        raise TitansError(f"{there / 'config.json'} is missing: copy the checkpoint again, as a whole")
    raise TitansError(f"{folder} holds no checkpoint: name the folder of a saved model or of a run that saved one")


def run_of(folder: str | Path) -> Path:
    """The run that `folder`, a run or one of its checkpoints, belongs to; of any other folder itself."""
    real = Path(os.path.realpath(folder))
    return real.parent if re.fullmatch(rf"{LINK}(-\d{{8}})?", real.name) else Path(folder)


def current(run: Path) -> Path | None:
    """The run's checkpoint: what the link names or, where a copy has lost that, the newest; None: there is none."""
    if (run / LINK).exists():
        return run / LINK
    return max(run.glob(_NUMBERED), default=None)


def refuse_to_overwrite(run: str | Path) -> None:
    """Raises TitansError if `run` already holds a checkpoint."""
    if current(Path(run)) is not None:
        raise TitansError(f"{run} already holds a run: resume it or choose another folder")


def save_checkpoint(
    run: Path, model: StatefulModel, optimizer: AdamW, state: CarriedState | None, progressed: Progressed
) -> Path:
    """Writes a checkpoint, makes it the run's current one and removes the one before.

    Raises:
        TitansError: the disk is full or the folder cannot be written; the checkpoint before is intact.
    """
    target = run / f"{LINK}-{progressed.step:08}"
    with writing(run / LINK):
        _make_room(run)
        there = current(run)
        if there is None or os.path.realpath(there) != os.path.realpath(target):
            if target.exists():  # of a run that was killed before the link named it, and has gone another way since
                shutil.rmtree(target)
            temporary = run / f".{LINK}-{secrets.token_hex(4)}.tmp"
            try:
                temporary.mkdir()  # with the rights that the user gives to new folders
                tokenizer = (there or run) / TOKENIZER_NAME
                if tokenizer.exists():
                    shutil.copyfile(tokenizer, temporary / TOKENIZER_NAME)
                progressed = replace(progressed, tokenizer=_tokenizer_hash(temporary), carried=state is not None)
                _write(temporary, model, optimizer, state, progressed)
                _flush_folder(temporary)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        _point_link(run, target.name)
        for old in run.glob(_NUMBERED):
            if old != target:
                shutil.rmtree(old)
    return run / LINK


def load_checkpoint(run: Path, model: StatefulModel, optimizer: AdamW) -> tuple[CarriedState | None, Progressed]:
    """Puts weights, moments and random generators back, and returns the carried state and the rest.

    Raises:
        TitansError: no checkpoint, a damaged one, or one of another model.
    """
    folder = current(run)
    if folder is None or not (folder / "training.json").exists():
        raise TitansError(f"{run} holds no checkpoint to go on from: start the run again")
    progressed = read_progress(folder)
    try:
        model.load_state_dict(type(model).load(folder).state_dict())
    except RuntimeError as error:
        raise TitansError(f"{folder} holds another model: build the model from its config.json") from error
    path = folder / "optimizer.safetensors"
    tensors, _ = load_tensors(path, "optimizer")
    if "random/cpu" not in tensors:
        raise TitansError(f"{path} is incomplete: it has no tensor random/cpu; copy it again")
    _set_random_state(path, {name: tensors.pop(name) for name in list(tensors) if name.startswith("random/")})
    if spoilt(tensors) is not None:
        raise TitansError(f"{path} holds NaN or infinite values: copy it again, or start a new run")
    load_moments(path, model, optimizer, tensors)
    state = folder / "state.safetensors"
    if not state.exists():
        if progressed.carried:
            raise TitansError(f"{state} is missing: copy the checkpoint again, as a whole")
        return None, progressed
    return model.state_type.load(state).to(device_of(model)), progressed


def read_settings(checkpoint: Path) -> TrainConfig:
    """The settings that a checkpoint was trained with.

    Raises:
        TitansError: the checkpoint is that of a model without its training, or damaged.
    """
    return TrainConfig.from_dict(read_progress(checkpoint).config, checkpoint / "training.json")


def read_progress(checkpoint: Path) -> Progressed:
    """How far the run of a checkpoint had come.

    Raises:
        TitansError: the checkpoint is that of a model without its training, or damaged.
    """
    path = checkpoint / "training.json"
    values = read_json(path)
    try:
        return parse(values, Progressed, all_known=True)
    except ValueError as error:
        raise TitansError(f"{path} is damaged or of another version of titans: {error}") from error


def read_tokenizer(checkpoint: Path) -> Tokenizer:
    """What the model of a checkpoint reads, which is what it was trained on.

    Raises:
        TitansError: its tokenizer.json is missing, damaged or another one, or tokenizers is not installed.
    """
    if (checkpoint / "training.json").exists() and (trained_on := read_progress(checkpoint).tokenizer) is not None:
        found = _tokenizer_hash(checkpoint)
        if found != trained_on:
            what = "is not the one that its model was trained with" if found else "is missing"
            raise TitansError(f"{checkpoint / TOKENIZER_NAME} {what}: copy the checkpoint again, as a whole")
    return tokenizer_of(checkpoint)


def _tokenizer_hash(folder: Path) -> str | None:
    path = folder / TOKENIZER_NAME
    if not path.exists():
        return None
    with reading(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(
    folder: Path, model: StatefulModel, optimizer: AdamW, state: CarriedState | None, progressed: Progressed
) -> None:
    model.save(folder)
    save_tensors(folder / "optimizer.safetensors", "optimizer", moments(model, optimizer) | _random_state(), {})
    if state is not None:
        state.save(folder / "state.safetensors")
    write_json(folder / "training.json", asdict(progressed))


def _random_state() -> dict[str, Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random/cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(path: Path, states: dict[str, Tensor]) -> None:
    try:
        torch.set_rng_state(states["random/cpu"])
        if "random/cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["random/cuda"])
    except (RuntimeError, TypeError) as error:
        raise TitansError(f"{path} is damaged: a random generator has no such state; copy it again") from error


def _make_room(run: Path) -> None:
    """Makes the run's folder, and removes what a killed process left in it."""
    run.mkdir(parents=True, exist_ok=True)
    for leftover in run.glob(f".{LINK}*.tmp"):
        remove(leftover)


def _point_link(run: Path, name: str) -> None:
    fresh = run / f".{LINK}.tmp"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    link, aside = run / LINK, run / f".{LINK}-{secrets.token_hex(4)}.tmp"
    if link.is_dir() and not link.is_symlink():  # copied with what the link named in its place
        link.rename(aside)
    fresh.replace(link)
    shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(run)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
