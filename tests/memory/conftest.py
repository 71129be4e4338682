"""Problems for the memory operations, and what is compared of their answers."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory import MemoryNetwork, MemoryState, Norm, chunk_titans
from titans.memory.arguments import MemoryOperation


@dataclass(frozen=True)
class Case:
    """One combination of everything that an operation can be asked for."""

    length: int
    chunk_size: int
    depth: int = 2
    heads: int = 2
    gates: str = "layer"  # "shared" by all layers, one per "layer", or one per "channel"
    momentum: bool = True
    forgetting: bool = True
    guard_limit: float | None = 1.0
    activation: str = "gelu"
    before: int = 0  # tokens that another call has read, whose state this one begins with
    norm: bool = True
    rows: int = 1
    head_dim: int = 4
    flags: bool = False  # random mask and resets

    def __str__(self) -> str:
        return (
            f"T{self.length}-C{self.chunk_size}-L{self.depth}-H{self.heads}-{self.gates}-{self.activation}"
            f"{'' if self.momentum else '-still'}{'' if self.forgetting else '-keeping'}"
            f"{'' if self.guard_limit else '-unguarded'}{f'-after{self.before}' if self.before else ''}"
            f"{'' if self.norm else '-plain'}{'-flags' if self.flags else ''}"
        )


# Every value of every field meets most values of the others; long ones are few because the reference is slow.
CASES = [
    Case(1, 1, depth=1, gates="shared"),
    Case(7, 1, depth=3, heads=3, momentum=False),
    Case(64, 1, depth=2, gates="channel"),
    Case(100, 1, depth=1, heads=4, forgetting=False, gates="shared", activation="relu"),
    Case(1, 4, depth=4, heads=1, gates="channel", before=5),
    Case(7, 4, depth=4, heads=3, gates="layer", activation="silu", rows=2),
    Case(64, 4, depth=3, heads=1, gates="shared", forgetting=False, norm=False, before=7),
    Case(100, 4, depth=2, heads=4, gates="channel", momentum=False, activation="relu", before=6),
    Case(7, 16, depth=3, heads=4, gates="channel", activation="relu", before=9),
    Case(64, 16, depth=1, heads=3, gates="channel", rows=2, flags=True),
    Case(100, 16, depth=4, heads=1, gates="shared", activation="silu", before=21),
    Case(257, 16, depth=2, heads=2, gates="layer"),
    Case(257, 1, depth=4, heads=1, gates="shared", forgetting=False),
    Case(257, 4, depth=3, heads=1, gates="channel", activation="silu", norm=False),
    Case(7, 64, depth=2, heads=1, gates="shared", activation="silu", momentum=False, before=63),
    Case(64, 64, depth=4, heads=2, gates="layer", activation="relu", momentum=False, forgetting=False),
    Case(100, 64, depth=3, heads=3, gates="layer", guard_limit=None, before=50),
    Case(257, 64, depth=1, heads=4, gates="layer", forgetting=False, before=70),
    Case(64, 16, depth=2, heads=1, gates="layer", guard_limit=None, momentum=False, norm=False, activation="silu"),
    Case(100, 4, depth=1, heads=2, gates="channel", guard_limit=None, before=3),
    Case(64, 16, depth=2, heads=2, gates="layer", rows=3, before=5, flags=True),
    Case(64, 4, depth=3, heads=1, gates="channel", rows=2, flags=True, activation="silu"),
    Case(20, 4, depth=2, gates="channel", head_dim=1),
]


@dataclass(frozen=True)
class Problem:
    """Arguments of a memory operation."""

    case: Case
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    log_eta: Tensor | None
    theta: Tensor
    weights: tuple[Tensor, ...]
    norm: Norm | None
    state: MemoryState | None = None
    mask: Tensor | None = None
    reset: Tensor | None = None

    def tokens(self, start: int, stop: int, state: MemoryState | None) -> "Problem":
        """Some of the tokens, after the state of those before."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, start:stop]

        fields = {name: cut(getattr(self, name)) for name in ("q", "k", "v", "g", "log_eta", "theta", "mask", "reset")}
        return replace(self, **fields, state=state)

    def at(self, rows: list[int], tokens: Tensor | list[int]) -> "Problem":
        """Some tokens of some rows, as a problem of its own: no state, no mask, no resets."""

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows][:, tokens]

        fields = {name: pick(getattr(self, name)) for name in ("q", "k", "v", "g", "log_eta", "theta")}
        return replace(self, **fields, state=None, mask=None, reset=None)

    def float(self) -> "Problem":
        """In single precision."""

        def single(x: Tensor | None) -> Tensor | None:
            return x.detach().float() if x is not None and x.is_floating_point() else x

        fields = {name: single(getattr(self, name)) for name in ("q", "k", "v", "g", "log_eta", "theta")}
        norm = None if self.norm is None else Norm(self.norm.weight.detach().float(), self.norm.bias.detach().float())
        state = None if self.state is None else self.state.map(lambda x: x.float() if x.is_floating_point() else x)
        weights = tuple(weight.detach().float() for weight in self.weights)
        return replace(self, **fields, norm=norm, weights=weights, state=state)

    def rounded(self) -> tuple["Problem", "Problem"]:
        """In single precision with q, k and v in bfloat16, and the same numbers in float32, both with gradients."""
        single = self.float()
        halves = {name: getattr(single, name).bfloat16() for name in ("q", "k", "v")}
        pair = replace(single, **halves), replace(single, **{name: x.float() for name, x in halves.items()})
        for problem in pair:
            gates = (problem.g, problem.log_eta, problem.theta)
            for x in (problem.q, problem.k, problem.v, *gates, *problem.weights):
                if x is not None:
                    x.requires_grad_()
        return pair

    def leaves(self) -> dict[str, Tensor]:
        """Everything that a gradient can be asked of."""
        named = {name: getattr(self, name) for name in ("q", "k", "v", "g", "log_eta", "theta")}
        named |= {f"weights.{i}": weight for i, weight in enumerate(self.weights)}
        if self.norm is not None:
            named |= {"norm.weight": self.norm.weight, "norm.bias": self.norm.bias}
        if self.state is not None:
            named |= {f"state.{name}": x for name, x in self.state.tensors().items()}
        return {name: x for name, x in named.items() if x is not None and x.requires_grad}


def make_problem(case: Case, dtype: torch.dtype = torch.float64) -> Problem:
    """Random arguments; steps large enough for the guard to act on some tokens and not on others."""
    rows, length, heads, d = case.rows, case.length, case.heads, case.head_dim
    layer_dims = MemoryNetwork(d, case.depth, 2).layer_dims
    steps = 1 if case.gates == "shared" else case.depth
    forgets = sum(d_in for d_in, _ in layer_dims) if case.gates == "channel" else steps

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    def leaf(x: Tensor) -> Tensor:
        return x.to(dtype).requires_grad_()

    unguarded = 0.1 if case.guard_limit is None else 1.0
    log_eta = leaf(F.logsigmoid(random(rows, length, heads, steps) + 1)) if case.momentum else None
    norm = Norm(leaf(1 + 0.1 * random(heads, d)), leaf(0.1 * random(heads, d)))
    forget = F.logsigmoid(random(rows, length, heads, forgets) + 2)
    state = None
    if case.before:
        earlier = make_problem(replace(case, length=case.before, before=0, flags=False), dtype)
        _, state = call(chunk_titans, earlier)
        state = state.map(lambda x: x.detach().requires_grad_(x.is_floating_point()))
    return Problem(
        case,
        q=leaf(F.normalize(random(rows, length, heads, d), dim=-1)),
        k=leaf(F.normalize(random(rows, length, heads, d), dim=-1)),
        v=leaf(random(rows, length, heads, d)),
        g=leaf(forget) if case.forgetting else torch.zeros_like(forget, dtype=dtype),
        log_eta=log_eta,
        theta=leaf(0.3 * unguarded * torch.rand(rows, length, heads, steps, dtype=torch.float64)),
        weights=tuple(leaf(random(heads, d_in, d_out) / math.sqrt(d_in)) for d_in, d_out in layer_dims),
        norm=norm if case.norm and case.depth > 1 else None,
        state=state,
        mask=torch.rand(rows, length) > 0.3 if case.flags else None,
        reset=torch.rand(rows, length) > 0.9 if case.flags else None,
    )


def call(operation: MemoryOperation, problem: Problem) -> tuple[Tensor, MemoryState]:
    """Outputs and final state."""
    y, state = operation(
        problem.q,
        problem.k,
        problem.v,
        problem.g,
        problem.log_eta,
        problem.theta,
        problem.weights,
        problem.norm,
        activation=problem.case.activation,
        chunk_size=problem.case.chunk_size,
        guard_limit=problem.case.guard_limit,
        initial_state=problem.state,
        output_final_state=True,
        mask=problem.mask,
        reset=problem.reset,
    )
    assert state is not None
    return y, state


def answers(operation: MemoryOperation, problem: Problem) -> dict[str, Tensor]:
    """Outputs, every tensor of the final state, and the gradient of a mixture of all of them with respect to all."""
    y, state = call(operation, problem)
    found = {"y": y} | {f"state.{name}": x for name, x in state.tensors().items()}
    mixture = torch.zeros((), dtype=y.dtype)
    for x in found.values():
        if x.is_floating_point():
            share = torch.arange(1, x.numel() + 1, dtype=torch.float64).sin().to(x.dtype)
            mixture = mixture + (x * share.view(x.shape)).sum()
    leaves = problem.leaves()
    gradients = torch.autograd.grad(mixture, list(leaves.values()), allow_unused=True)
    for (name, x), gradient in zip(leaves.items(), gradients, strict=True):
        gradient = torch.zeros_like(x) if gradient is None else gradient
        if name.startswith(("state.inputs", "state.errors", "state.miss", "state.gates")):
            # Slots that no token has reached hold nothing to ask a gradient of.
            gradient[:, :, problem.case.before % problem.case.chunk_size :] = 0
        found[f"gradient of {name}"] = gradient
    return {name: x.detach() for name, x in found.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Largest difference over largest value, for each tensor."""
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        got = found[name].to(want.dtype)
        assert got.shape == want.shape, name
        if want.numel():
            assert bool(torch.isfinite(got).all()), f"{name} is not finite"
            error = (got - want).abs().max().item() / max(1.0, want.abs().max().item())
            assert error <= tolerance, f"{name} differs by {error:.2e}"


@pytest.fixture(params=CASES, ids=str)
def case(request) -> Case:
    return request.param


@pytest.fixture
def new_case() -> type[Case]:
    return Case


@pytest.fixture
def new_problem():
    return make_problem


@pytest.fixture
def run():
    return call


@pytest.fixture
def answer():
    return answers


@pytest.fixture
def equal():
    return assert_equal
