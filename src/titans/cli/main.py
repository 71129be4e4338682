"""`titans VERB`: finds the verb, runs it, and turns every failure into one line.

Each verb is a file of this folder with a function `run`, whose parameters are the options, and a docstring, which is
the help. Only the verb that was asked for is imported, and none imports torch before it runs.
"""

# What is imported here, before `main` can catch a Ctrl-C, is kept short.
import errno
import importlib
import io
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from titans import __version__
from titans.errors import TitansError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from inspect import Parameter

    from _typeshed import ReadableBuffer

VERBS = {
    "quickstart": "train small models, compare them and write a report",
    "train": "train a language model on text",
    "eval": "measure a trained model on text",
    "generate": "let a trained model write, with a memory that can be saved",
    "inspect": "see what the memory did at each token of a text",
    "report": "make a web page from a run",
    "bench": "measure speed and memory, side by side",
}


_OF_THE_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EROFS})


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Runs the command line and returns the exit code.

    0 done; 1 an unexpected error; 2 something the user can mend; 130 interrupted, by Ctrl-C or SIGTERM; 141 the reader
    of our output left. Set TITANS_TRACEBACK=1 to see where an error came from.

    Args:
        arguments: None for those of the process, which then ends with the code and hears no further Ctrl-C.
    """
    if arguments is not None:
        return _run(list(arguments))
    if sys.platform == "win32":
        print("titans: error: its commands need Linux or macOS: on Windows use WSL", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    _open_streams()
    code = _run(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return code


def _run(arguments: list[str]) -> int:
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(f"titans: interrupted{'; ' if str(stop) else ''}{stop}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _leave_standard_output()
        return 141
    except Exception as error:
        if os.environ.get("TITANS_TRACEBACK"):
            raise
        if isinstance(error, TitansError) or _is_ours(error):
            print(f"titans: error: {_as_typed(str(error), arguments)}", file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _leave_standard_output()
            print("titans: error: disk full: free some space and run again", file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.errno in _OF_THE_PATH and error.filename is not None:
            print(f"titans: error: cannot use {error.filename}: {error.strerror}; name another path", file=sys.stderr)
            return 2
        print(f"titans: error: {_unexpected(error)}", file=sys.stderr)
        return 1
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM does what Ctrl-C does at this moment."""
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        interrupt(number, frame)
    else:
        raise KeyboardInterrupt


def _open_streams() -> None:
    """Opens those standard streams that the process was begun without, on nothing; lets output be any text.

    What is said on standard error goes nowhere once nobody can read it, so that it never ends the work beside it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    said = io.BufferedWriter(_Unheeded(sys.stderr.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(said, sys.stderr.encoding, errors="backslashreplace", line_buffering=True)


class _Unheeded(io.FileIO):
    """A file that never fails: a closed pipe and a full disk take everything."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _leave_standard_output() -> None:
    """Python flushes standard output once more at exit, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> None:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print(_help())
    elif verb == "--version":
        print(f"titans {__version__}")
    elif verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, n=1)
        meant = f"did you mean {near[0]}?" if near else "see titans --help"
        raise TitansError(f"there is no {verb!r}: {meant}")
    else:
        _parse(verb, arguments[1:])()


def _parse(verb: str, options: list[str]) -> "Callable[[], None]":
    """The verb's `run` with its options filled in, and the names of those that were typed if it asks for them."""
    from contextlib import redirect_stderr
    from functools import partial, wraps
    from inspect import signature

    import tyro

    module = importlib.import_module(f"titans.cli.{verb}")

    @wraps(module.run)
    def fill_in(**values: object) -> "Callable[[], None]":
        if "typed" in signature(module.run).parameters:
            values["typed"] = frozenset(_typed(options))
        return partial(module.run, **values)

    _require_values(options)
    _require_once(options, [name for name, one in signature(module.run).parameters.items() if _takes_several(one)])
    config = (tyro.conf.FlagCreatePairsOff,)
    with redirect_stderr(io.StringIO()) as complaint:
        try:
            return tyro.cli(fill_in, prog=f"titans {verb}", description=module.__doc__, args=options, config=config)
        except SystemExit as stop:
            if not stop.code:
                raise
    raise TitansError(f"{_unboxed(complaint.getvalue())}; see titans {verb} --help")


def _require_values(options: list[str]) -> None:
    """Refuses an option or argument that is nothing, which as a path would be the folder one is in."""
    for before, option in zip(["", *options], options, strict=False):
        name, equals, value = option.partition("=")
        if not option or (name.startswith("--") and equals and not value):
            empty = name or (before if before.startswith("--") else "an argument")
            raise TitansError(f"{empty} is empty: give it a value, or leave it out")


def _require_once(options: list[str], several: "Sequence[str]") -> None:
    """Refuses one of `several` that is there twice, as the last would be taken and the others lost."""
    typed = list(_typed(options))
    for name in several:
        if typed.count(name) > 1:
            raise TitansError(f"--{name} is given {typed.count(name)} times: give all its values after one")


def _takes_several(parameter: "Parameter") -> bool:
    from typing import get_args, get_origin

    return any(get_origin(kind) is tuple for kind in (parameter.annotation, *get_args(parameter.annotation)))


def _typed(options: list[str]) -> "Iterator[str]":
    """Names of the options, as parameters have them."""
    for option in options:
        if option.startswith("--"):
            yield option[2:].partition("=")[0].replace("-", "_")


def _unboxed(complaint: str) -> str:
    """What tyro says in a box, in one line: what is wrong, and what may have been meant."""
    import re

    inside = "\n".join(line.strip("│| ") for line in complaint.splitlines()[1:])
    parts = [" ".join(part.split()).rstrip(".") for part in re.split(r"^[─╰+-]{3,}.*$", inside, flags=re.MULTILINE)]
    wrong, *rest = [part for part in parts if part]
    return "; ".join([wrong, *(part for part in rest if part.startswith("Perhaps you meant"))])


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{purpose}" for verb, purpose in VERBS.items())
    return f"""usage: titans VERB [OPTIONS]

Titans: a memory that keeps learning while it is used.

verbs:
{verbs}

  titans VERB --help   options and an example
  titans --version     the version

example:
  titans train --text book.txt --out runs/book
  titans generate --checkpoint runs/book --prompt "Once upon" """.rstrip()


def _is_ours(error: Exception) -> bool:
    """Whether the error is a ValueError that this package raised itself, as its configurations do for a bad value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError) and raised_in.startswith("titans.")


def _as_typed(complaint: str, options: list[str]) -> str:
    """Names a setting as the option that it is: --batch-size for TrainConfig.batch_size, --top-k for top_k."""
    import re

    typed = "|".join(map(re.escape, _typed(options)))
    names = rf"^(?:(?:TrainConfig|MQAR)\.(\w+)|({typed})(?= is ))"
    return re.sub(names, lambda found: "--" + (found[1] or found[2]).replace("_", "-"), complaint)


def _unexpected(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or "out of memory" in first_line or "can't allocate memory" in first_line:
        return "out of memory: try a smaller --batch-size, --length or model"
    return f"{type(error).__name__}: {first_line} (TITANS_TRACEBACK=1 shows where)"
