import errno
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from titans.cli import main as module
from titans.cli.main import VERBS, main
from titans.errors import TitansError

TITANS = [sys.executable, "-c", "import sys; from titans.cli.main import main; sys.exit(main())"]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes every verb raise an error, out of this file."""
    monkeypatch.delenv("TITANS_TRACEBACK", raising=False)

    def fail_with(error: BaseException) -> None:
        def run() -> None:
            raise error

        fake = types.SimpleNamespace(run=run, __doc__="A verb.")
        monkeypatch.setattr(module.importlib, "import_module", lambda name: fake)

    return fail_with


def test_help_names_every_verb_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in VERBS)
    assert "titans train --text" in out
    assert main([]) == 0
    assert capsys.readouterr().out == out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("titans 0.")


@pytest.mark.parametrize("verb", ["train", "eval", "generate", "inspect", "report"])
def test_every_verb_has_an_example_and_its_help_needs_no_torch(verb: str) -> None:
    code = (
        "import sys\nfrom titans.cli.main import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "finally: print('heavy:', {'torch', 'transformers', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"titans {verb} " in done.stdout.partition("Example:")[2]
    assert done.stderr.strip() == "heavy: set()"


@pytest.mark.parametrize(
    ("typed", "message"), [("trian", "did you mean train?"), ("xyzzy", "see titans --help"), ("--quiet", "see titans")]
)
def test_an_unknown_verb_gets_a_hint(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"titans: error: there is no '{typed}'")
    assert message in error


def test_a_mistyped_option_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--stepz", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("titans: error: Unrecognized options: --stepz, 3; Perhaps you meant: --steps INT")
    assert error.endswith("; see titans train --help\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TitansError("x.txt is empty"), 2, "titans: error: x.txt is empty"),
        (KeyboardInterrupt(), 130, "titans: interrupted"),
        (KeyboardInterrupt("checkpoint saved"), 130, "titans: interrupted; checkpoint saved"),
        (
            ValueError("from somewhere else"),
            1,
            "titans: error: ValueError: from somewhere else (TITANS_TRACEBACK=1 shows where)",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "priv/x"),
            2,
            "titans: error: cannot use priv/x: Permission denied; name another path",
        ),
        (RuntimeError("a\nb"), 1, "titans: error: RuntimeError: a (TITANS_TRACEBACK=1 shows where)"),
        (MemoryError(), 1, "titans: error: out of memory: try a smaller --batch-size, --length or model"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate"),
            1,
            "titans: error: out of memory: try a smaller --batch-size, --length or model",
        ),
    ],
)
def test_every_failure_is_one_line_and_a_code(
    verb, error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb(error)
    assert main(["train"]) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_bad_setting_is_the_users_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "0"]) == 2
    assert capsys.readouterr().err == "titans: error: --steps is 0; it must be at least 1\n"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["generate", "--checkpoint", "x", "--stop", "a", "--stop=b"], "--stop is given 2 times"),
        (["eval", "mqar", "--checkpoint", "x", "--length", "512", "--length", "1024"], "--length is given 2 times"),
        (["report", ""], "an argument is empty"),
        (["train", "--text="], "--text is empty"),
        (["eval", "--length", "2", ""], "an argument is empty"),
        (["train", "--text", "x" * 300, "--out", "y"], "File name too long; name another path"),
    ],
)
def test_what_would_be_taken_otherwise_than_meant_is_refused(
    typed: list[str], message: str, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(typed) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir() == []


def test_the_traceback_can_be_had(verb, monkeypatch: pytest.MonkeyPatch) -> None:
    verb(RuntimeError("deep inside"))
    monkeypatch.setenv("TITANS_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="deep inside"):
        main(["train"])


def run_titans(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*TITANS, *arguments], stderr=subprocess.PIPE, timeout=60, check=False, **options)


def test_closed_streams_are_empty_streams(tmp_path) -> None:
    done = run_titans("--version", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, b"")
    done = run_titans("train", "--text", "-", "--out", str(tmp_path / "run"), preexec_fn=lambda: os.close(0))
    assert (done.returncode, done.stderr) == (
        2,
        b"titans: error: standard input is empty: give a file with text in it\n",
    )


def test_a_terminal_without_the_character_shows_another() -> None:
    code = "import titans.cli.main as m, sys; m._dispatch = lambda _: print('d\u00f6g'); sys.exit(m.main())"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"d?g\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_clear_line() -> None:
    with open("/dev/full", "w") as full:
        done = run_titans("--help", stdout=full)
    assert (done.returncode, done.stderr) == (2, b"titans: error: disk full: free some space and run again\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("torch_is_imported", [False, True])
def test_being_stopped_is_one_line(number: int, torch_is_imported: bool, tmp_path) -> None:
    """Before and in the middle of the import of torch, which swallows a Ctrl-C and then lacks a piece."""
    stop = f"os.kill(os.getpid(), {int(number)})"
    at_numpy = (
        "class Stop:\n    def find_spec(self, name, *_):\n"
        f"        if name == 'numpy': {stop}\n"
        "sys.meta_path.insert(0, Stop())\n"
    )
    early = f"import titans.cli.main as m; m._dispatch = lambda _: {stop}\n"
    code = "import os, sys\n" + (at_numpy if torch_is_imported else early)
    code += "from titans.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, b"titans: interrupted\n")
    assert not (tmp_path / "run").exists()


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("where", [closed_pipe, lambda: os.open("/dev/full", os.O_WRONLY)])
def test_work_goes_on_when_nobody_reads_what_is_said_beside_it(where: Callable[[], int]) -> None:
    said = "print('x', file=sys.stderr, flush=True)"
    code = (
        f"import sys, titans.cli.main as m; m._dispatch = lambda _: ({said}, {said}, print('done')); sys.exit(m.main())"
    )
    stderr = where()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=False)
    os.close(stderr)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_reader_that_leaves_a_table_is_no_error_either() -> None:
    code = "import sys, titans.cli.main as m; from titans.console import Console; "
    code += "m._dispatch = lambda _: Console().print('x'); sys.exit(m.main())"
    stdout = closed_pipe()
    done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(stdout)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_leaves_is_no_error() -> None:
    write = closed_pipe()
    done = subprocess.run([*TITANS, "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
