"""Files that are either whole or absent: atomic writes, and safetensors with errors a person can act on."""

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from titans.errors import TitansError

LAYOUT_KEY = "version"  # where a state's header says how its tensors are laid out


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary file beside `path`, flushes it to disk and moves it into place.

    A full disk, an interrupt or a crash leaves `path` as it was and no temporary file behind. A symbolic link
    stays one: what it points to is replaced.

    Raises:
        TitansError: the folder cannot be written, the disk is full, or `path` is a device, a pipe or a folder.
    """
    path = Path(path)
    with writing(path):
        require_replaceable(path)
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.touch(exist_ok=False)
            rights = temporary.stat().st_mode  # that the user gives to new files; safetensors makes its own narrower
            write(temporary)
            temporary.chmod(rights)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


class _UnwrittenError(TitansError):
    """A file could not be written; what is written around it says so of itself."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of a failure to write what a person can do about it, as a TitansError.

    Of one within another the outer path is named, which is the one that a person knows.
    """
    try:
        yield
    except (OSError, SafetensorError, _UnwrittenError) as failed:
        error = failed.__cause__ if isinstance(failed, _UnwrittenError) else failed
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise _UnwrittenError(f"disk full while writing {path}: free some space and run again") from error
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "something on the way to it is a file"
        raise _UnwrittenError(f"cannot write {path}: {reason}; choose another folder") from error


def require_replaceable(path: Path) -> None:
    """Refuses what a file cannot take the place of: before long work, not after.

    Raises:
        TitansError: `path` is a device, a pipe, a folder or a link that leads in a circle.
    """
    if os.path.islink(os.path.realpath(path)) or (path.exists() and not path.is_file()):
        raise TitansError(f"cannot write {path}: it is not a regular file; name another")


def require_writable_files(*paths: Path) -> None:
    """`require_replaceable` of all of them, and `require_writable` of their folders."""
    for path in paths:
        require_replaceable(path)
        require_writable(path.parent)


def require_writable(folder: Path) -> None:
    """Makes `folder` if it is not there, and sees that files can be written in it: before long work, not after.

    Raises:
        TitansError: they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def removed_on_failure(folder: Path, names: Sequence[str], *, unless: Path, busy: str) -> Iterator[None]:
    """Takes away again what has come into `folder` by one of `names`, if the work inside fails, and then the folder.

    What else has come into it, from another program, stays, and so does everything once `unless` exists. The folder is
    `locked` from before to after, so that nothing of another process's has such a name.

    Args:
        names: with `*` for any letters.
        busy: what is said, as a TitansError, if another process works in it.
    """

    def found() -> set[Path]:
        return {path for name in names for path in folder.glob(name)}

    existed = folder.exists()
    try:
        with locked(folder, busy):
            before = found()
            try:
                yield
            except BaseException:
                if not unless.exists():
                    for path in found() - before:
                        remove(path)
                    if not existed:
                        _remove_empty(folder)
                raise
    except KeyboardInterrupt:  # perhaps as soon as the folder was made
        if not existed:
            _remove_empty(folder)
        raise


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link and not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not there, or not empty
        folder.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: object) -> None:
    """Saves named tensors and a JSON header as one safetensors file, atomically.

    Args:
        kind: what the file is ("model", "memory state", ...); `load_tensors` refuses any other.
        header: anything JSON can hold; readable without loading the tensors.
    """
    # safetensors refuses shared and non-contiguous memory, and a fresh state is an expanded parameter.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"titans": kind, "header": json.dumps(header, allow_nan=False)}
    write_atomically(path, lambda temporary: save_file(owned, temporary, metadata=metadata))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Loads what `save_tensors` wrote: the tensors (on the CPU) and the header.

    Raises:
        TitansError: the file is missing, unreadable, truncated, foreign, or of another kind.
    """
    path = Path(path)
    # Opened by Python first, which says why, where it cannot be read.
    with reading(path), path.open("rb"), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "titans" not in metadata:
            raise TitansError(f"{path} was not written by titans; it cannot be loaded as a {kind}: name another file")
        if metadata["titans"] != kind:
            raise TitansError(f"{path} holds a {metadata['titans']}, not a {kind}: name another file")
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata["header"])
        if not isinstance(header, dict):
            raise TitansError(f"{path} is damaged: its header is no JSON object; copy or make it again")
    return tensors, header


def spoilt(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinite values."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def check_layout(path: str | Path, header: dict, layout: int) -> None:
    """Takes the layout of a state's tensors out of its header; TitansError if it is not `layout`."""
    found = header.pop(LAYOUT_KEY, 1)
    if found != layout:
        raise TitansError(
            f"{path} was written by another version of titans, whose states are laid out differently (version "
            f"{found}, not {layout}): let the model read its text again"
        )


def read_json(path: str | Path) -> dict:
    """Reads a JSON object; errors as in `load_tensors`."""
    path = Path(path)
    with reading(path):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise TitansError(f"{path} should hold a JSON object, not a {type(value).__name__}: copy or make it again")
    return value


@contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[None]:
    """While it holds no other process is in it for the same folder, which is made; not every file system can do it.

    Args:
        busy: what is said, as a TitansError, if another process is in it; None: waits for that one.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TitansError(busy) from None
    except OSError:  # as some have none that are shared by several machines
        pass
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with the file while it is read, or lies in it, becomes one clear TitansError."""
    if not path.exists():
        raise TitansError(f"{path} does not exist: check the path, or whether its folder was copied whole")
    if path.is_dir():
        raise TitansError(f"{path} is a folder, not a file: name another, or take it away")
    try:
        yield
    except OSError as error:
        raise TitansError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise TitansError(
            f"{path} is damaged, truncated or of another format ({error}): copy or make it again"
        ) from error
