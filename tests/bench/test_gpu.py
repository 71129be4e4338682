"""The contests for a GPU, as far as they go without one."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peers
import torch

from titans.bench import gpu
from titans.bench.memory import flops
from titans.bench.subjects import GPU, contests

ROOT = Path(__file__).parents[2]


def test_every_contest_has_as_many_tokens_and_our_four_layers(tmp_path: Path):
    found = contests(GPU, tmp_path, gpu_layers=peers.gpu_layers)
    assert len({contest.title for contest in found}) == 6
    for contest in found:
        names = [contender.name for contender in contest.contenders]
        assert names == [*gpu.names(), peers.PER_TOKEN, peers.DELTANET]
        assert contest.base in names
        assert {contender.tokens for contender in contest.contenders} == {gpu.TOKENS}
        assert contest.products == torch.bfloat16
        pickle.dumps([contender.make for contender in contest.contenders])


def test_the_projections_are_counted():
    size = replace(gpu.QUICK, B=1, T=1)
    assert gpu.layer_flops(size) - flops(size, True) == 3 * 10 * 1024 * 1024


def test_without_a_gpu_it_says_so():
    command = [sys.executable, "benchmarks/performance.py", "gpu"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "gpu: this machine has no CUDA GPU\n")
