"""The compiled form equals the dual form, and says so where it cannot be used."""

import ctypes
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from titans.memory import MemoryConfig, NeuralMemory, chunk_titans
from titans.memory.kernels import build
from titans.memory.kernels.native import native_titans, unsupported


def single(problem):
    """The same in single precision, with gradients of its own."""
    found = problem.float()
    for x in (found.q, found.k, found.v, found.g, found.log_eta, found.theta, *found.weights):
        x.requires_grad_()
    return found


def close(got, want, name) -> None:
    assert not want.numel() or (got - want).abs().max() <= 1e-4 * want.abs().max().clamp_min(1e-3), name


def test_equals_the_dual_form(case, new_problem, answer, equal):
    problem = new_problem(case)
    if case.gates == "channel":
        with pytest.raises(ValueError, match="no channel-wise forgetting; chunk_titans can"):
            answer(native_titans, problem)
    else:
        equal(answer(native_titans, problem), answer(chunk_titans, problem), 1e-10)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("head_dim", [3, 8, 20])
def test_any_width_and_unequal_documents(depth, heads, head_dim, new_case, new_problem, answer, equal):
    case = new_case(45, 8, depth=depth, heads=heads, head_dim=head_dim, rows=3, before=11, flags=True)
    problem = new_problem(case)
    equal(answer(native_titans, problem), answer(chunk_titans, problem), 1e-10)


@pytest.mark.parametrize("chunk_size", [20, 37, 64])  # more tokens than one strip of vectors
@pytest.mark.parametrize("depth", [1, 2])
def test_long_chunks(depth, chunk_size, new_case, new_problem, answer, equal):
    problem = new_problem(new_case(chunk_size + 45, chunk_size, depth=depth, head_dim=12, before=11))
    equal(answer(native_titans, problem), answer(chunk_titans, problem), 1e-10)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])  # no more than half of a vector
@pytest.mark.parametrize("head_dim", [3, 9, 20])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_short_chunks(depth, head_dim, chunk_size, new_case, new_problem, answer, equal):
    case = new_case(17, chunk_size, depth=depth, heads=2, head_dim=head_dim, rows=2, before=5, flags=True)
    problem = new_problem(case)
    equal(answer(native_titans, problem), answer(chunk_titans, problem), 1e-10)


@pytest.mark.parametrize("chunk_size", range(1, 10))
@pytest.mark.parametrize("depth", [1, 2])
def test_short_chunks_in_single_precision(depth, chunk_size, new_case, new_problem, answer):
    problem = new_problem(new_case(23, chunk_size, depth=depth, head_dim=20, heads=2, before=5))
    expected = answer(native_titans, problem)
    for name, got in answer(native_titans, single(problem)).items():
        close(got, expected[name], name)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_single_precision_is_close_to_double(depth, activation, new_case, new_problem, answer):
    problem = new_problem(new_case(100, 16, depth=depth, activation=activation, head_dim=16, heads=3, before=5))
    expected = answer(native_titans, problem)
    for name, got in answer(native_titans, single(problem)).items():
        close(got, expected[name], name)


@pytest.mark.parametrize(("length", "chunk"), [(9, 1), (45, 8), (45, 37)])
@pytest.mark.parametrize("head_dim", [3, 16, 40])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_bfloat16_is_as_close_as_its_products(depth, head_dim, length, chunk, new_case, new_problem, answer):
    case = new_case(length, chunk, depth=depth, heads=2, head_dim=head_dim, before=5)
    rounded, exact = new_problem(case).rounded()
    expected = answer(native_titans, exact)
    differs = False
    for name, got in answer(native_titans, rounded).items():
        want = expected[name]
        # A product's operands are off by up to 2^-9 of their size each, and results of one are operands of the next.
        assert not want.numel() or (got - want).double().norm() <= 2**-5 * want.double().norm().clamp_min(1e-2), name
        differs |= name.startswith("state.weights") and not torch.equal(got, want)
    assert differs == build.multiplies_bfloat16()


@pytest.mark.parametrize("openmp", [True, False], ids=["torch's threads", "own threads"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(threads, openmp, new_case, new_problem, answer, monkeypatch):
    if not openmp:
        monkeypatch.setattr(build, "openmp", lambda: None)
    problem = new_problem(new_case(40, 16, rows=2, heads=3))
    before = torch.get_num_threads()
    expected = answer(native_titans, problem)
    try:
        torch.set_num_threads(threads)
        found = answer(native_titans, problem)
    finally:
        torch.set_num_threads(before)
    for name, x in expected.items():
        assert torch.equal(found[name], x), name


@pytest.mark.parametrize("openmp", [True, False], ids=["torch's threads", "own threads"])
def test_a_kernel_without_memory_is_an_error_in_any_thread(openmp, monkeypatch):
    if not openmp:
        monkeypatch.setattr(build, "openmp", lambda: None)

    @ctypes.CFUNCTYPE(None, ctypes.POINTER(build._Team))
    def run_share(team):
        team.contents.failed = 1

    kernel = SimpleNamespace(run=lambda call, begin, end, backward: int(begin > 0), run_share=run_share)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(MemoryError, match="out of memory in a kernel"):
            build.run_in_threads(kernel, build._Team(), 4, backward=False)
    finally:
        torch.set_num_threads(before)


def test_the_layer_takes_it_by_itself_and_gives_the_same():
    memory, x = NeuralMemory(32, MemoryConfig(num_heads=2)), torch.randn(2, 50, 32)
    assert unsupported(x.device, 16, "head") is None
    y, state = memory(x)
    native, _ = memory(x, backend="native")
    chunked, after = memory(x, backend="chunked")
    assert torch.equal(y, native)
    torch.testing.assert_close(y, chunked, rtol=1e-4, atol=1e-5)
    for a, b in zip(state.tensors().values(), after.tensors().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_more_layers_than_it_has_are_named():
    q = torch.randn(1, 3, 2, 4)
    g, theta = -torch.rand(1, 3, 2), torch.rand(1, 3, 2)
    with pytest.raises(ValueError, match="it has at most 4 memory layers, not 5; chunk_titans can"):
        native_titans(q, q, q, g, None, theta, [torch.randn(2, 4, 4)] * 5)


def test_nothing_is_kept_without_gradients(new_case, new_problem, run):
    problem = new_problem(new_case(40, 16))
    with torch.no_grad():
        y, _ = run(native_titans, problem)
    assert y.grad_fn is None


def test_nothing_is_kept_after_the_backward_pass(new_case, new_problem, run):
    seen = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.add(x.untyped_storage().data_ptr()) or x, lambda x: x):
        y, _ = run(native_titans, new_problem(new_case(40, 16)))
    node = y.grad_fn
    while not hasattr(node, "shape"):  # as the kernel's has
        node = node.next_functions[0][0]
    assert all(x.untyped_storage().data_ptr() in seen for x in node.saved_tensors)
    assert len(node.saved_tensors) > len(node.kept) == 3
    y.sum().backward()
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = node.saved_tensors


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("no-such-compiler", "there is no C compiler 'no-such-compiler'"),
        ("false", "failed"),
        ("true", "cannot be made"),
        ("cc '-O2", "CC is not a command"),
        ("""sh -c 'case "$*" in *convolution.c*) exit 1;; esac; exec cc "$@"' sh""", "convolution.c failed"),
    ],
    ids=["absent", "broken", "makes nothing", "unreadable", "for one kernel only"],
)
def test_without_a_compiler_the_dual_form_takes_over(compiler, words, tmp_path):
    program = """
import logging, torch
from titans.memory import MemoryConfig, NeuralMemory
logging.basicConfig()
memory = NeuralMemory(16, MemoryConfig(num_heads=2))
for _ in range(2):
    memory(torch.randn(1, 9, 16))
print(memory._fastest(torch.randn(1, 9, 16)))
"""
    environment = {"CC": compiler, "XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "chunked"
    assert done.stderr.count(words) == 1, done.stderr
    assert done.stderr.count("a slower form takes their place") == 1


@pytest.fixture
def recompile():
    build.compiled.cache_clear()
    yield partial(build.compiled, "elementwise", torch.float64)
    build.compiled.cache_clear()


def test_the_result_of_compiling_is_kept(recompile, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recompile()
    build.compiled.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert isinstance(recompile(), ctypes.CDLL)


@pytest.mark.parametrize("compiler", ["", "cc -DUNUSED", "/usr/bin/env cc"])
def test_the_compiler_is_a_command(compiler, recompile, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    assert isinstance(recompile(), ctypes.CDLL)


def test_the_compiler_does_not_hear_a_ctrl_c_in_the_terminal(recompile, tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\ncut -d " " -f 6 /proc/$$/stat >> {tmp_path}/sessions\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(compiler))
    recompile()
    sessions = (tmp_path / "sessions").read_text().split()
    assert len(sessions) >= 2
    assert str(os.getsid(0)) not in sessions


def test_further_options_are_taken_and_named_where_they_cannot_be(recompile, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CFLAGS", "-DREAL=no_such_type")  # comes last, so it counts
    with pytest.raises(build.BuildError, match=r"elementwise\.c failed"):
        recompile()
    monkeypatch.setenv("CFLAGS", "-O1 '")
    with pytest.raises(build.BuildError, match="CFLAGS is not a command or options"):
        recompile()


def test_a_damaged_result_is_made_again(recompile, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "whole"))
    recompile()
    (whole,) = (tmp_path / "whole" / "titans").glob("*.so")
    (digest,) = (tmp_path / "whole" / "titans").glob("*.sha256")
    damaged = tmp_path / "damaged" / "titans" / whole.name  # elsewhere, as what is loaded is not read again
    damaged.parent.mkdir(parents=True)
    damaged.with_name(digest.name).write_bytes(digest.read_bytes())
    damaged.write_bytes(whole.read_bytes()[:9000])  # loading it would end the process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "damaged"))
    build.compiled.cache_clear()
    assert isinstance(recompile(), ctypes.CDLL)
    assert damaged.read_bytes() == whole.read_bytes()


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    build.compiled.cache_clear()
    assert isinstance(build.compiled("chunk", torch.float32), ctypes.CDLL)
    build.compiled.cache_clear()


def test_what_lies_in_a_cache_that_cannot_be_written_is_taken(recompile, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recompile()
    build.compiled.cache_clear()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and access(path, mode, **more))
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert isinstance(recompile(), ctypes.CDLL)


def test_without_a_home_there_is_a_cache_all_the_same(monkeypatch, caplog):
    reason = "Could not determine home directory."

    def homeless():
        raise RuntimeError(reason)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", homeless)
    build._temporary.cache_clear()
    assert build._place("name") == build._temporary(reason) / "name"
    assert "every process compiles them anew" in caplog.text


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, where a graph breaks
def test_torch_compile_leaves_it_as_it_is():
    memory = NeuralMemory(12, MemoryConfig(num_heads=2, chunk_size=4))
    x = torch.randn(2, 10, 12, requires_grad=True)
    found = []
    for forward in (memory, torch.compile(memory, backend="eager")):
        y, state = forward(x)
        found.append((y, *state.weights, *torch.autograd.grad(y.square().sum(), (x, *memory.parameters()))))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)
