"""Compiles chunk.c with the machine's C compiler, once per machine and version, and loads it.

The result lies in `$XDG_CACHE_HOME/titans` (`~/.cache/titans`), named by everything it depends on.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("chunk.c")
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-w")
_TYPES = {"float32": ("-DREAL=float", "-DSINGLE"), "float64": ("-DREAL=double",)}


class BuildError(Exception):
    """The kernel cannot be compiled on this machine; the message says why."""


@functools.cache
def library(precision: str) -> ctypes.CDLL:
    """The compiled kernel for "float32" or "float64".

    Raises:
        BuildError: there is no C compiler, or it fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BuildError("there is no C compiler: install gcc or clang, or name one in CC")
    command = (compiler, *_FLAGS, *_TYPES[precision])
    name = f"chunk-{hashlib.sha256(_identity(command)).hexdigest()[:16]}.so"
    path = _cache() / name
    if not path.exists():
        _compile(command, path)
    try:
        kernel = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot load {path}: {error}") from error
    kernel.run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    kernel.state_size.argtypes, kernel.state_size.restype = [ctypes.c_void_p], ctypes.c_int64
    return kernel


def _identity(command: tuple[str, ...]) -> bytes:
    """What the result depends on: source, compiler, flags and processor (code for one may not run on another)."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False).stdout
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return b"\0".join([SOURCE.read_bytes(), version, " ".join(command).encode(), processor.encode()])


def _cache() -> Path:
    """A folder to keep the result in: the user's cache, or one for this process where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "titans"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="titans-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="titans-"))


def _compile(command: tuple[str, ...], path: Path) -> None:
    """Compiles to a temporary file and moves it into place, so that processes may do it at the same time."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = Path(folder) / path.name
        done = subprocess.run([*command, "-o", result, SOURCE, "-lm"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
        os.replace(result, path)
