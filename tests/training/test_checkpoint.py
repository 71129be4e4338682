import errno
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from titans.errors import TitansError
from titans.files import load_tensors, read_json, save_tensors, write_json
from titans.training.checkpoint import (
    Progressed,
    find_checkpoint,
    load_checkpoint,
    read_settings,
    refuse_to_overwrite,
    run_of,
    save_checkpoint,
)
from titans.training.config import TrainConfig
from titans.training.optimizer import make_optimizer


def progressed(step: int, metrics_bytes: int = 0) -> Progressed:
    return Progressed(step=step, config={}, cursor={"at": step}, meter={}, metrics_bytes=metrics_bytes)


def save(run: Path, small_model, step: int, metrics_bytes: int = 0) -> None:
    model = small_model()
    with torch.no_grad():
        model.head.bias.fill_(step)
    save_checkpoint(run, model, make_optimizer(model, TrainConfig()), None, progressed(step, metrics_bytes))


def load(run: Path, small_model) -> tuple[float, Progressed]:
    model = small_model()
    _, found = load_checkpoint(run, model, make_optimizer(model, TrainConfig()))
    return model.head.bias[0].item(), found


def as_it_is(run: Path) -> None:
    pass


def without_its_link(run: Path) -> None:
    (run / "checkpoint").unlink()


def with_a_folder_in_its_place(run: Path) -> None:
    (run / "checkpoint").unlink()
    shutil.copytree(run / "checkpoint-00000001", run / "checkpoint")


def test_the_tokenizer_is_the_one_that_training_began_with(tmp_path: Path, small_model) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("the first")
    save(tmp_path, small_model, 1)
    hashed = load(tmp_path, small_model)[1].tokenizer
    for step, change in ((2, lambda: tokenizer.write_text("another")), (3, tokenizer.unlink)):
        change()
        save(tmp_path, small_model, step)
        assert (tmp_path / "checkpoint" / "tokenizer.json").read_text() == "the first"
        assert load(tmp_path, small_model)[1].tokenizer == hashed


def test_everything_comes_back(tmp_path: Path, small_model) -> None:
    model = small_model()
    optimizer = make_optimizer(model, TrainConfig())
    loss, state = model.loss(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))
    loss.backward()
    optimizer.step()
    torch.manual_seed(5)
    assert save_checkpoint(tmp_path, model, optimizer, state, progressed(3)) == tmp_path / "checkpoint"
    drawn = torch.rand(3)

    other = small_model()
    restored_optimizer = make_optimizer(other, TrainConfig())
    restored, found = load_checkpoint(tmp_path, other, restored_optimizer)
    assert found == replace(progressed(3), carried=True)
    assert restored is not None
    assert torch.equal(restored.hidden, state.hidden)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(torch.rand(3), drawn)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for kind, moment in optimizer.state[one].items():
            assert torch.equal(moment, restored_optimizer.state[two][kind])


def test_a_state_that_was_carried_has_to_come_back(tmp_path: Path, small_model) -> None:
    model = small_model()
    _, state = model.loss(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))
    save_checkpoint(tmp_path, model, make_optimizer(model, TrainConfig()), state, progressed(1))
    (tmp_path / "checkpoint" / "state.safetensors").unlink()
    with pytest.raises(TitansError, match=r"state\.safetensors is missing: copy the checkpoint again"):
        load(tmp_path, small_model)


def test_moments_that_are_not_finite_are_named(tmp_path: Path, small_model) -> None:
    save(tmp_path, small_model, 1)
    path = tmp_path / "checkpoint" / "optimizer.safetensors"
    tensors, _ = load_tensors(path, "optimizer")
    save_tensors(path, "optimizer", tensors | {"head.bias/exp_avg": torch.full((256,), torch.nan)}, {})
    with pytest.raises(TitansError, match=r"optimizer\.safetensors holds NaN or infinite values: copy it again"):
        load(tmp_path, small_model)


def test_only_the_newest_stays_under_a_path_that_never_changes(tmp_path: Path, small_model) -> None:
    for step in (1, 2):
        save(tmp_path, small_model, step)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "checkpoint-00000002"]
    assert load(tmp_path, small_model) == (2.0, progressed(2))
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint"
    assert find_checkpoint(tmp_path / "checkpoint") == tmp_path / "checkpoint"


def test_a_copy_without_its_link_is_no_empty_folder(tmp_path: Path, small_model) -> None:
    save(tmp_path, small_model, 1)
    without_its_link(tmp_path)
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint-00000001"
    with pytest.raises(TitansError, match="already holds a run: resume it"):
        refuse_to_overwrite(tmp_path)
    assert load(tmp_path, small_model) == (1.0, progressed(1))


@pytest.mark.parametrize("copied", [as_it_is, with_a_folder_in_its_place])
def test_a_checkpoint_belongs_to_the_run_that_it_lies_in(tmp_path: Path, small_model, copied) -> None:
    save(tmp_path, small_model, 1)
    copied(tmp_path)
    for name in (".", "checkpoint", "checkpoint-00000001"):
        assert run_of(tmp_path / name).resolve() == tmp_path.resolve()


class Killed(BaseException):
    pass


class Killer:
    """Dies at the `left`-th change to the disk, and refuses every later one as a dead process would."""

    left: int | None = None
    changes = ("os.rename", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "tempfile.mkstemp", "open")

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.left is not None and event in self.changes:
            self.left -= 1
            if self.left <= 0:
                raise Killed(event)


@pytest.fixture(scope="module")
def killer() -> Killer:
    killer = Killer()
    sys.addaudithook(killer)  # for good, but idle while `left` is None
    return killer


@pytest.mark.parametrize("copied", [as_it_is, without_its_link, with_a_folder_in_its_place])
def test_killed_at_any_moment_a_run_has_a_whole_checkpoint(tmp_path: Path, small_model, killer: Killer, copied) -> None:
    found_steps = []
    for moment in range(1, 200):
        run = tmp_path / str(moment)
        save(run, small_model, 1)
        copied(run)
        killer.left = moment
        try:
            save(run, small_model, 2)
        except Killed:
            survived = False
        else:
            survived = True
        finally:
            killer.left = None
        weight, found = load(run, small_model)
        assert weight == found.step
        found_steps.append(found.step)
        if found.step == 1:  # what the resumed run saves has other metrics than what lies there
            save(run, small_model, 2, metrics_bytes=7)
        else:
            save(run, small_model, 2)
        assert load(run, small_model) == (2.0, progressed(2, 7 if found.step == 1 else 0))
        assert sorted(os.listdir(run)) == ["checkpoint", "checkpoint-00000002"]
        if survived:
            break
    assert survived
    assert len(found_steps) > 20
    assert found_steps == sorted(found_steps)
    assert set(found_steps) == {1, 2}


def test_what_a_killed_process_left_is_removed(tmp_path: Path, small_model) -> None:
    (tmp_path / ".checkpoint-abc.tmp").mkdir()
    (tmp_path / ".checkpoint-abc.tmp" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".checkpoint.tmp").symlink_to("nowhere")
    save(tmp_path, small_model, 1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "checkpoint-00000001"]


def test_nothing_is_pickled(tmp_path: Path, small_model) -> None:
    save(tmp_path, small_model, 1)
    files = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert files == ["config.json", "model.safetensors", "optimizer.safetensors", "training.json"]
    assert read_json(tmp_path / "checkpoint" / "training.json")["cursor"] == {"at": 1}


def test_no_checkpoint_is_one_clear_line(tmp_path: Path, small_model) -> None:
    with pytest.raises(TitansError, match="holds no checkpoint to go on from"):
        load(tmp_path, small_model)
    with pytest.raises(TitansError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(TitansError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "x"}, "step should be a whole number, not text"),
        ({"colour": 1}, "unknown key colour"),
        ({"config": []}, "config should be an object, not a list"),
        ({"step": -3}, "step is -3; it must be 0 or more"),
        ({"metrics_bytes": -1}, "metrics_bytes is -1; it must be 0 or more"),
    ],
)
def test_a_damaged_training_json_is_one_clear_line(tmp_path: Path, small_model, change: dict, message: str) -> None:
    save(tmp_path, small_model, 1)
    path = tmp_path / "checkpoint" / "training.json"
    write_json(path, read_json(path) | change)
    for read in (lambda: load(tmp_path, small_model), lambda: read_settings(tmp_path / "checkpoint")):
        with pytest.raises(TitansError, match=f"training.json is damaged .*{message}"):
            read()


def test_a_checkpoint_without_random_generators_is_incomplete(tmp_path: Path, small_model) -> None:
    save(tmp_path, small_model, 1)
    save_tensors(tmp_path / "checkpoint" / "optimizer.safetensors", "optimizer", {}, {})
    with pytest.raises(TitansError, match=r"optimizer\.safetensors is incomplete"):
        load(tmp_path, small_model)


@pytest.mark.parametrize(
    "state", [torch.zeros(10, dtype=torch.uint8), torch.zeros(5056, dtype=torch.uint8), torch.zeros(5056)]
)
def test_a_random_generator_that_cannot_be_is_damage(tmp_path: Path, small_model, state: torch.Tensor) -> None:
    save(tmp_path, small_model, 1)
    path = tmp_path / "checkpoint" / "optimizer.safetensors"
    save_tensors(path, "optimizer", load_tensors(path, "optimizer")[0] | {"random/cpu": state}, {})
    with pytest.raises(TitansError, match=r"optimizer\.safetensors is damaged: a random generator"):
        load(tmp_path, small_model)


def test_a_checkpoint_without_its_config_is_incomplete(tmp_path: Path, small_model) -> None:
    save(tmp_path, small_model, 1)
    (tmp_path / "checkpoint" / "config.json").unlink()
    with pytest.raises(TitansError, match=r"checkpoint/config\.json is missing: copy the checkpoint again"):
        find_checkpoint(tmp_path)


def test_a_full_disk_is_told_by_the_name_that_the_user_knows(
    tmp_path: Path, small_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path, small_model, 1)
    monkeypatch.setattr("titans.files.save_file", full)
    with pytest.raises(TitansError, match=f"disk full while writing {tmp_path}/checkpoint: free some space"):
        save(tmp_path, small_model, 2)
    assert load(tmp_path, small_model) == (1.0, progressed(1))


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "pathlib.Path.symlink_to"])
def test_a_disk_without_room_for_a_folder_or_link_is_one_clear_line(
    tmp_path: Path, small_model, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path, small_model, 1)
    monkeypatch.setattr(call, full)
    with pytest.raises(TitansError, match="disk full"):
        save(tmp_path, small_model, 2)
    assert load(tmp_path, small_model) == (1.0, progressed(1))


def test_another_model_or_a_damaged_file_is_one_clear_line(tmp_path: Path, small_model) -> None:
    save(tmp_path, small_model, 1)
    other = small_model(dim=4)
    with pytest.raises(TitansError, match="holds another model"):
        load_checkpoint(tmp_path, other, make_optimizer(other, TrainConfig()))
    damaged = tmp_path / "checkpoint" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(TitansError, match="damaged"):
        load(tmp_path, small_model)


def test_a_checkpoint_is_on_the_disk_before_the_one_before_is_removed(tmp_path: Path, small_model, monkeypatch) -> None:
    save(tmp_path, small_model, 1)
    flushed, flush, remove = [], os.fsync, shutil.rmtree

    def removed(folder: Path, **options: bool) -> None:
        if Path(folder).name == "checkpoint-00000001":
            found = [os.stat(tmp_path / "checkpoint").st_ino, tmp_path.stat().st_ino]
            assert [folder for folder in flushed if folder in found] == found  # first what is named, then its name
        remove(folder, **options)

    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino) or flush(file))
    monkeypatch.setattr(shutil, "rmtree", removed)
    save(tmp_path, small_model, 2)
    assert not (tmp_path / "checkpoint-00000001").exists()
