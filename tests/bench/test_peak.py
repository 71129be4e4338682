import os
from functools import partial

import pytest
import torch

from titans.bench.contest import Work
from titans.bench.peak import highest_mb, peak_mb

MEGABYTES = 64
make_large = partial(Work, run=partial(torch.ones, MEGABYTES * 250_000))


def test_peak_is_what_the_work_needs():
    assert 0.9 * MEGABYTES < peak_mb(make_large, threads=1) < 1.6 * MEGABYTES


@pytest.mark.parametrize(
    ("make", "message"), [(partial(os._exit, 1), "killed"), (partial(Work), "TypeError: .* 'run'")]
)
def test_a_process_that_fails_is_an_error_in_words(make, message: str):
    with pytest.raises(RuntimeError, match=message):
        peak_mb(make, threads=1)


def test_highest_memory_is_in_megabytes():
    assert 10 < highest_mb() < 100_000
