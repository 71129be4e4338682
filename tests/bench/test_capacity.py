"""A memory's rate is chosen by the seeds that all its rates have; a vector says what its cells hold."""

import torch
from capacity import MEMORIES, best, memories_of, state_size

from titans.tasks.recipes import MQAR_PAIRS


def run(memory: str, rate: float, seed: int, right: float) -> dict:
    about = {"memory": memory, "rate": rate, "seed": seed, "state": 1, "parameters": 2}
    return about | {"right": {str(pairs): right for pairs in MQAR_PAIRS}}


def test_a_rate_is_not_worse_for_a_seed_that_the_other_has_not():
    first, second, *_ = MEMORIES
    runs = [run(first, 3e-3, 1, 0.5), run(first, 3e-3, 0, 0.86), run(first, 1e-3, 0, 0.85), run(second, 1e-3, 0, 0.2)]
    rows = {row["memory"]: row for row in best(runs)}
    assert rows.keys() == {first, second}
    assert rows[first]["rate"] == 3e-3
    assert rows[first]["right"] == {pairs: [0.86, 0.5] for pairs in MQAR_PAIRS}
    assert rows[second]["rate"] == 1e-3


def test_without_a_seed_in_common_all_of_them_decide():
    name = next(iter(MEMORIES))
    (row,) = best([run(name, 3e-3, 1, 0.5), run(name, 1e-3, 0, 0.85)])
    assert row["rate"] == 1e-3


def test_what_is_read_from_a_vector_is_more_than_signs():
    model = MEMORIES["vector of 32, width 32"].build()
    (memory,) = memories_of(model)
    assert state_size(model) == 32
    reads = torch.randn(2, 3, 32, 1, generator=torch.Generator().manual_seed(0))
    said = memory.output_norm(reads)
    torch.testing.assert_close(said, reads / reads.square().mean(2, keepdim=True).sqrt(), rtol=1e-4, atol=1e-4)
