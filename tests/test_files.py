"""Files are whole or absent, and what fails leaves nothing."""

import errno
import fcntl
import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from titans.errors import TitansError
from titans.files import load_tensors, locked, read_json, removed_on_failure, save_tensors, write_text, writing


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full while writing a: free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write a: Read-only file system; choose another folder"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "cannot write a: something on the way to it is a file"),
    ],
)
def test_a_failure_to_write_is_one_clear_line(error: OSError, message: str) -> None:
    with pytest.raises(TitansError, match=message), writing(Path("a")):
        raise error


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_get_the_rights_that_the_user_gives_to_new_files(tmp_path: Path, umask: int, rights: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "x")
        save_tensors(tmp_path / "tensors", "model", {"a": torch.zeros(1)}, {})
    finally:
        os.umask(before)
    assert [os.stat(tmp_path / name).st_mode & 0o777 for name in ("text", "tensors")] == [rights, rights]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for text in ("first", "second"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "target").read_text() == text
    assert (tmp_path / "link").is_symlink()


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", ".", "circle"):
        with pytest.raises(TitansError, match="not a regular file; name another"):
            write_text(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo()


OWN = ("run", "f*", "link")


@pytest.mark.parametrize("error", [TitansError, KeyboardInterrupt])
def test_failed_work_leaves_a_folder_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "mine").write_text("mine")
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(error), removed_on_failure(folder, OWN, unless=folder / "done", busy="in use"):  # noqa: PT012
            (folder / "run" / "deep").mkdir(parents=True)
            (folder / "file").write_text("x")
            (folder / "link").symlink_to(folder / "run")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_failed_work_leaves_what_others_have_written_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(KeyError), removed_on_failure(folder, OWN, unless=folder / "done", busy="in use"):  # noqa: PT012
        (folder / "thesis").mkdir(parents=True)
        (folder / "run").mkdir()
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["thesis"]


@pytest.mark.parametrize("still_there", [True, False])
def test_who_comes_second_takes_nothing_away_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_there: bool
) -> None:
    folder, lock = tmp_path / "new", fcntl.flock

    def just_before_the_lock(descriptor: int, how: int) -> None:  # the first one writes
        (folder / "run").mkdir()
        lock(descriptor, how)

    with locked(folder) if still_there else nullcontext():
        monkeypatch.setattr(fcntl, "flock", just_before_the_lock)
        with (
            pytest.raises(TitansError, match="in use" if still_there else "bad input"),
            removed_on_failure(folder, OWN, unless=folder / "done", busy="in use"),
        ):
            raise TitansError("bad input")
    assert (folder / "run").exists()


def test_a_folder_is_gone_if_its_making_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fcntl, "flock", interrupted)
    folder = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), removed_on_failure(folder, OWN, unless=folder / "done", busy="in use"):
        pass
    assert not folder.exists()


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    save_tensors(tmp_path / "file", "model", {"a": torch.zeros(1)}, {})
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TitansError, match=r"cannot read .*file: Permission denied; check its permissions"):
        load_tensors(tmp_path / "file", "model")


def test_work_that_succeeds_or_is_done_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with removed_on_failure(folder, OWN, unless=folder / "done", busy="in use"):
        (folder / "run").mkdir(parents=True)
    with pytest.raises(KeyError), removed_on_failure(folder, OWN, unless=folder / "done", busy="in use"):  # noqa: PT012
        (folder / "file").touch()
        (folder / "done").touch()
        raise KeyError
    assert sorted(path.name for path in folder.iterdir()) == ["done", "file", "run"]


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(TitansError, match="in use"), locked(tmp_path, busy="in use"):
        pass
    with locked(tmp_path, busy="in use"):
        pass


def test_a_file_system_without_locks_is_used_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with locked(tmp_path), locked(tmp_path, busy="in use"):
        pass


@pytest.mark.parametrize("metadata", [{"titans": "model"}, {"titans": "model", "header": json.dumps([1])}])
def test_a_file_without_its_header_is_damaged(tmp_path: Path, metadata: dict) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "file", metadata=metadata)
    with pytest.raises(TitansError, match="file is damaged"):
        load_tensors(tmp_path / "file", "model")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\0"])
def test_what_is_no_json_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(TitansError, match="file is damaged"):
        read_json(tmp_path / "file")


def test_a_file_is_on_the_disk_before_it_takes_another_ones_place(tmp_path: Path, monkeypatch) -> None:
    done, flush, move = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(("flushed", os.fstat(file).st_ino)) or flush(file))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append(("moved", os.stat(old).st_ino)) or move(old, new))
    write_text(tmp_path / "file", "text")
    written = (tmp_path / "file").stat().st_ino
    assert done == [("flushed", written), ("moved", written)]
