"""The oracle itself, against an independent loop over equations 12-16 with torch.func's gradient."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory import chunk_titans, reference_titans
from titans.memory.networks import LAYER_NORM_EPS

ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}


def paper(problem, b: int, h: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Outputs, weights and momentum of one row and head, written down from the paper."""
    case, depth = problem.case, problem.case.depth
    act = ACTIVATIONS[case.activation]

    def network(weights: list[Tensor], x: Tensor) -> Tensor:
        hidden = x @ weights[0]
        for weight in weights[1:]:
            hidden = act(hidden) @ weight
        if depth == 1:
            return hidden
        scale, shift = (None, None) if problem.norm is None else (problem.norm.weight[h], problem.norm.bias[h])
        return x + F.layer_norm(hidden, hidden.shape, scale, shift, LAYER_NORM_EPS)

    def loss(weights: list[Tensor], k: Tensor, v: Tensor) -> Tensor:
        return 0.5 * ((network(weights, k) - v) ** 2).sum()

    def per_layer(gate: Tensor, t: int) -> list[Tensor]:
        values = gate[b, t, h]
        if len(values) == 1:
            return [values[0]] * depth
        if len(values) == depth:
            return list(values)
        return [part.unsqueeze(1) for part in values.split([w.shape[1] for w in problem.weights])]

    weights = [weight[h] for weight in problem.weights]
    past = [torch.zeros_like(weight) for weight in weights]
    start = weights
    outputs = []
    for t in range(case.length):
        if t % case.chunk_size == 0:
            start = weights
        surprise = torch.func.grad(loss)(start, problem.k[b, t, h], problem.v[b, t, h])
        alpha = [1 - g.exp() for g in per_layer(problem.g, t)]
        theta = per_layer(problem.theta, t)
        if problem.log_eta is None:
            past = [-th * s for th, s in zip(theta, surprise, strict=True)]
        else:
            eta = [e.exp() for e in per_layer(problem.log_eta, t)]
            past = [e * p - th * s for e, p, th, s in zip(eta, past, theta, surprise, strict=True)]  # eq. 14
        weights = [(1 - a) * w + p for a, w, p in zip(alpha, weights, past, strict=True)]  # eq. 13
        outputs.append(network(weights, problem.q[b, t, h]))  # eq. 15
    return torch.stack(outputs), weights, past


@pytest.mark.parametrize("chunk_size", [1, 4, 13])
@pytest.mark.parametrize(
    ("depth", "gates", "activation", "momentum", "norm"),
    [
        (1, "shared", "gelu", True, True),
        (2, "layer", "gelu", True, True),
        (2, "channel", "silu", False, False),
        (3, "channel", "relu", True, True),
        (4, "layer", "silu", True, True),
    ],
)
def test_is_the_paper(chunk_size, depth, gates, activation, momentum, norm, new_case, new_problem, run):
    # 12 tokens: with chunks of 4 the last one is complete, so that the state holds the final weights.
    settings = {"depth": depth, "gates": gates, "activation": activation, "momentum": momentum, "norm": norm}
    problem = new_problem(new_case(12, chunk_size, guard_limit=None, rows=2, **settings))
    y, state = run(reference_titans, problem)
    upstream = torch.randn_like(y)
    for b in range(2):
        for h in range(2):
            expected, weights, past = paper(problem, b, h)
            torch.testing.assert_close(y[b, :, h], expected, rtol=0, atol=1e-10)
            if 12 % chunk_size == 0:
                for found, want in zip(state.weights, weights, strict=True):
                    torch.testing.assert_close(found[b, h], want, rtol=0, atol=1e-10)
                for found, want in zip(state.momentum, past if momentum else [], strict=True):
                    torch.testing.assert_close(found[b, h], want, rtol=0, atol=1e-10)
    if gates != "layer":
        return
    ours = torch.autograd.grad((y * upstream).sum(), list(problem.leaves().values()))
    written = torch.stack([torch.stack([paper(problem, b, h)[0] for h in range(2)], 1) for b in range(2)])
    theirs = torch.autograd.grad((written * upstream).sum(), list(problem.leaves().values()))
    for name, found, want in zip(problem.leaves(), ours, theirs, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_keys_that_come_from_the_same_weights_are_no_part_of_the_surprise(new_case, new_problem, run):
    """As MAC's are, through what it recalls: with and without a gradient, and after a document's beginning too."""
    problem = new_problem(new_case(6, 2, depth=1, heads=1))
    (weights,) = problem.weights
    k = F.normalize(problem.k + problem.k @ weights[0], dim=-1)
    problem = replace(problem, k=k, reset=torch.eye(1, 6).expand(len(k), 6))
    y, _ = run(reference_titans, problem)
    for operation in (reference_titans, chunk_titans):
        with torch.no_grad():
            torch.testing.assert_close(run(operation, problem)[0], y, rtol=0, atol=1e-12)


def test_linear_memory_with_one_token_chunks_is_the_delta_rule(new_case, new_problem, run):
    problem = new_problem(new_case(10, 1, depth=1, heads=1, momentum=False, forgetting=False, guard_limit=None))
    W = problem.weights[0][0].detach()
    y, _ = run(reference_titans, problem)
    for t in range(10):
        q, k, v = (x[0, t, 0].detach() for x in (problem.q, problem.k, problem.v))
        W = W - problem.theta[0, t, 0, 0].detach() * torch.outer(k, k @ W - v)
        torch.testing.assert_close(y[0, t, 0], q @ W, rtol=0, atol=1e-12)


def test_one_guarded_token_is_a_full_correction_at_most(new_case, new_problem, run):
    # A linear memory, one token per chunk, a step of 5: the guard cuts it to 1, which replaces the value exactly.
    problem = new_problem(new_case(6, 1, depth=1, momentum=False, forgetting=False))
    big = type(problem)(**{**problem.__dict__, "theta": torch.full_like(problem.theta, 5.0), "q": problem.k})
    y, _ = run(reference_titans, big)
    torch.testing.assert_close(y, big.v, rtol=0, atol=1e-12)


def test_no_gradient_flows_through_the_guard(new_case, new_problem):
    # With the guard at work outputs do not depend on the size of theta, but the divisor counts as a constant.
    problem = new_problem(new_case(1, 4, depth=1, momentum=False, forgetting=False))
    theta = torch.full_like(problem.theta, 5.0).requires_grad_()
    arguments = (problem.q, problem.k, problem.v, problem.g, None, theta, problem.weights)
    y, _ = reference_titans(*arguments)
    (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), theta)
    assert gradient.abs().max() > 1e-3
