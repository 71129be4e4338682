"""The form for single tokens equals the definition and the dual form."""

from dataclasses import replace

import torch

from titans.memory import chunk_titans, recurrent_titans, reference_titans


def test_equals_the_reference(case, new_problem, answer, equal):
    problem = new_problem(case)
    equal(answer(recurrent_titans, problem), answer(reference_titans, problem), 1e-10)


def test_token_by_token_equals_the_dual_form(new_case, new_problem, run, equal):
    problem = new_problem(new_case(100, 16, rows=2))
    y, end = run(chunk_titans, problem)
    state, pieces = None, []
    for t in range(100):
        piece, state = run(recurrent_titans, problem.tokens(t, t + 1, state))
        pieces.append(piece)
    found = {"y": torch.cat(pieces, 1), **state.tensors()}
    equal(found, {"y": y, **end.tensors()}, 1e-10)


def test_rows_may_stand_at_different_places_of_their_chunks(new_case, new_problem, run, equal):
    problems = [new_problem(new_case(9, 4, before=before)) for before in (2, 7)]
    names = ("q", "k", "v", "g", "log_eta", "theta")
    states = iter(zip(*(problem.state.tensors().values() for problem in problems), strict=True))
    joined = replace(
        problems[0],
        **{name: torch.cat([getattr(problem, name) for problem in problems]) for name in names},
        state=problems[0].state.map(lambda _: torch.cat(next(states))),
    )
    for operation in (recurrent_titans, chunk_titans):
        y, _ = run(operation, joined)
        for row, problem in enumerate(problems):
            expected, _ = run(operation, replace(problem, weights=joined.weights, norm=joined.norm))
            equal({"y": y[row : row + 1]}, {"y": expected}, 1e-12)
