import pytest, torch
from titans.memory import chunk_titans
from titans.memory.kernels.native import native_titans
def test_native(case, new_problem, answer, equal):
    if case.gates=="channel": pytest.skip()
    problem = new_problem(case)
    equal(answer(native_titans, problem), answer(chunk_titans, problem), 1e-10)
