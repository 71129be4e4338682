"""Compiles the C kernels with the machine's compiler, once per machine and version, loads and runs them.

CC and CFLAGS choose another compiler and further options. The results lie in `$XDG_CACHE_HOME/titans`
(`~/.cache/titans`), named by everything they depend on.
"""

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titans.memory.kernels.uncompiled import uncompiled

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-w")
DTYPES = {torch.float32: ("-DREAL=float", "-DSINGLE"), torch.float64: ("-DREAL=double",)}
_log = logging.getLogger("titans")


class BuildError(Exception):
    """The kernel cannot be compiled on this machine; the message says why."""


@functools.cache
def compiled(name: str, dtype: torch.dtype, *, rounded: bool = False) -> ctypes.CDLL:
    """The compiled kernel of NAME.c for float32 or float64.

    Args:
        rounded: for float32, with the factors of products in bfloat16 (where `multiplies_bfloat16`).

    Raises:
        BuildError: there is no C compiler, or it fails, or there is no place for what it makes.
    """
    compiler = _compiler()
    flags = (*_FLAGS, *DTYPES[dtype], *["-DROUNDED"] * rounded, *_words("CFLAGS"))
    command = (*compiler, *flags, str(_FOLDER / f"{name}.c"))
    try:
        path = _place(f"{name}-{hashlib.sha256(_identity(compiler, command)).hexdigest()[:16]}.so")
        if not _is_whole(path):
            _compile(command, path)
        kernel = ctypes.CDLL(str(path))
    except OSError as error:
        where = "set XDG_CACHE_HOME to a folder where programs may be stored and run"
        raise BuildError(f"the compiled {name}.c cannot be made, stored or loaded ({error}): {where}") from error
    kernel.run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    return kernel


@uncompiled
@functools.cache
def unavailable() -> str | None:
    """Why kernels cannot be used on this machine, or None if all of them can; the first call says so in the log too."""
    try:
        for path in sorted(_FOLDER.glob("*.c")):
            compiled(path.stem, torch.float32)
    except BuildError as error:
        _log.warning("the compiled kernels are not used, a slower form takes their place: %s", error)
        return str(error)
    return None


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has the instructions for it that products.h uses."""
    return "avx512_bf16" in _processor().split()


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Fields of a ctypes.Structure that are of one kind."""
    return [(name, kind) for name in names.split()]


class _Team(ctypes.Structure):
    """`Team` of team.h."""

    _fields_ = (
        ("call", ctypes.c_void_p),
        *fields(ctypes.c_int64, "jobs"),
        *fields(ctypes.c_int, "backward failed"),
        *fields(ctypes.c_void_p, "number size"),
    )


def point(arguments: ctypes.Structure, **tensors: Tensor | Sequence[Tensor | None] | None) -> None:
    """Points fields at contiguous tensors, one or several, which must live until the kernel has run.

    Raises:
        ValueError: a tensor is not in the processor's memory; C would take its address all the same.
    """
    for name, value in tensors.items():
        field = getattr(arguments, name)
        if isinstance(field, ctypes.Array):
            for i, tensor in enumerate(value or [None] * len(field)):
                field[i] = _address(name, tensor)
        else:
            setattr(arguments, name, _address(name, value))


def _address(name: str, tensor: Any) -> int | None:
    if tensor is None:
        return None
    if not tensor.is_cpu:
        raise ValueError(f"compiled code for the processor was given a tensor on {tensor.device} (as {name}): move it")
    return tensor.data_ptr()


def run_in_threads(
    kernel: ctypes.CDLL, arguments: ctypes.Structure, jobs: int, *, backward: bool, share: bool = True
) -> None:
    """Shares independent jobs out over torch's threads; the interpreter's lock is released inside.

    The threads are those that torch's own operations run in, where torch was built with OpenMP: they wait for work
    without sleeping, and others would have to share the processor with them.

    Args:
        share: False for so little work that one thread is done before a second has begun.

    Raises:
        MemoryError: there is no memory for the kernel's buffers.
    """
    threads = max(1, min(torch.get_num_threads(), jobs)) if share else 1
    address = ctypes.addressof(arguments)
    if threads == 1:
        failed = kernel.run(address, 0, jobs, int(backward))
    elif (runtime := openmp()) is not None:
        parallel, number, size = runtime
        team = _Team(address, jobs, int(backward), 0, number, size)
        parallel(kernel.run_share, ctypes.byref(team), threads, 0)
        failed = team.failed
    else:
        bounds = [jobs * i // threads for i in range(threads + 1)]
        failed = any(list(_pool(threads).map(lambda pair: kernel.run(address, *pair, int(backward)), pairwise(bounds))))
    if failed:
        raise MemoryError("out of memory in a kernel: use shorter sequences, fewer rows or a smaller memory")


@functools.cache
def openmp() -> tuple[Any, int, int] | None:
    """Of the OpenMP that torch has loaded: its call for a team of threads (the interface of GCC, which that of LLVM
    has too), and where its functions for a thread's number and a team's size are. None where torch runs without.
    """
    loaded = ctypes.CDLL(None)
    try:
        number, size = (
            ctypes.cast(function, ctypes.c_void_p).value or 0
            for function in (loaded.omp_get_thread_num, loaded.omp_get_num_threads)
        )
        return loaded.GOMP_parallel, number, size
    except AttributeError:
        return None


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="titans")


def _compiler() -> list[str]:
    """The command in CC, which may have options ("ccache gcc", "gcc -m64"), or cc."""
    program, *options = _words("CC") or ["cc"]
    found = shutil.which(program)
    if found is None:
        raise BuildError(f"there is no C compiler {program!r}: install gcc or clang, or name one in CC")
    return [found, *options]


def _words(variable: str) -> list[str]:
    """What a variable of the environment says, as a shell would read it."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise BuildError(f"{variable} is not a command or options ({error})") from error


def _identity(compiler: list[str], command: tuple[str, ...]) -> bytes:
    """What the result depends on: source, compiler, flags and processor (code for one may not run on another)."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False, start_new_session=True).stdout
    return b"\0".join(
        [
            *(path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]"))),
            version,
            " ".join(command).encode(),
            _processor().encode(),
        ]
    )


def _processor() -> str:
    """What the processor can do, or at least its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _place(name: str) -> Path:
    """Where a result lies or is to be put: in the user's cache, or, if it is not there and that cannot be written, in a
    folder for this process."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "titans"
        if _is_whole(folder / name):
            return folder / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        return _temporary(str(error)) / name
    return (folder if os.access(folder, os.W_OK) else _temporary(f"{folder} cannot be written")) / name


@functools.cache
def _temporary(reason: str) -> Path:
    """A folder that goes with the process."""
    _log.warning(
        "the compiled kernels cannot be kept (%s), so every process compiles them anew: set XDG_CACHE_HOME to a folder "
        "that can be written",
        reason,
    )
    folder = tempfile.mkdtemp(prefix="titans-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _digest(path: Path) -> Path:
    """Where the digest of a kernel lies."""
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Whether a kernel is there as it was compiled: loading one that was cut short can end the process."""
    try:
        return _digest(path).read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


def _compile(command: tuple[str, ...], path: Path) -> None:
    """Compiles to a temporary file and moves it into place, so that processes may do it at the same time."""
    _log.info("compiling %s for this machine", command[-1])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = Path(folder) / path.name
        # In a session of its own it does not hear a Ctrl-C, which a training hears when its step is done.
        done = subprocess.run(
            [*command, "-o", result, "-lm"], capture_output=True, text=True, check=False, start_new_session=True
        )
        if done.returncode:
            words = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
            raise BuildError(f"{' '.join(command)} failed: {words or f'exit code {done.returncode}'}")
        _digest(result).write_text(hashlib.sha256(result.read_bytes()).hexdigest())
        os.replace(_digest(result), _digest(path))
        os.replace(result, path)
