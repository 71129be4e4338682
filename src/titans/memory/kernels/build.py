"""Compiles the C kernels with the machine's compiler, once per machine and version, loads and runs them.

The results lie in `$XDG_CACHE_HOME/titans` (`~/.cache/titans`), named by everything they depend on.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-w")
DTYPES = {torch.float32: ("-DREAL=float", "-DSINGLE"), torch.float64: ("-DREAL=double",)}
_log = logging.getLogger("titans")


class BuildError(Exception):
    """The kernel cannot be compiled on this machine; the message says why."""


@functools.cache
def compiled(name: str, dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled kernel of NAME.c for float32 or float64.

    Raises:
        BuildError: there is no C compiler, or it fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BuildError("there is no C compiler: install gcc or clang, or name one in CC")
    command = (compiler, *_FLAGS, *DTYPES[dtype], str(_FOLDER / f"{name}.c"))
    path = _cache() / f"{name}-{hashlib.sha256(_identity(command)).hexdigest()[:16]}.so"
    if not path.exists():
        _compile(command, path)
    try:
        kernel = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot load {path}: {error}") from error
    kernel.run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    return kernel


@functools.cache
def unavailable() -> str | None:
    """Why no kernel can be used on this machine, or None; the first call says so in the log as well."""
    try:
        compiled("chunk", torch.float32)
    except BuildError as error:
        _log.warning("the compiled kernels are not used, a slower form takes their place: %s", error)
        return str(error)
    return None


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Fields of a ctypes.Structure that are of one kind."""
    return [(name, kind) for name in names.split()]


def run_in_threads(
    kernel: ctypes.CDLL, arguments: ctypes.Structure, jobs: int, *, backward: bool, share: bool = True
) -> None:
    """Shares independent jobs out over torch's threads; the interpreter's lock is released inside.

    Args:
        share: False for so little work that one thread is done before a second has begun.

    Raises:
        MemoryError: there is no memory for the kernel's buffers.
    """
    threads = max(1, min(torch.get_num_threads(), jobs)) if share else 1
    bounds = [jobs * i // threads for i in range(threads + 1)]

    def part(i: int) -> int:
        return kernel.run(ctypes.byref(arguments), bounds[i], bounds[i + 1], int(backward))

    if any([part(0)] if threads == 1 else list(_pool(threads).map(part, range(threads)))):
        raise MemoryError("out of memory in a kernel: use shorter sequences, fewer rows or a smaller memory")


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="titans")


def _identity(command: tuple[str, ...]) -> bytes:
    """What the result depends on: source, compiler, flags and processor (code for one may not run on another)."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False).stdout
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return b"\0".join(
        [
            *(path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]"))),
            version,
            " ".join(command).encode(),
            processor.encode(),
        ]
    )


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
        done = subprocess.run([*command, "-o", result, "-lm"], capture_output=True, text=True, check=False)
        if done.returncode:
            words = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
            raise BuildError(f"{' '.join(command)} failed: {words}")
        os.replace(result, path)
