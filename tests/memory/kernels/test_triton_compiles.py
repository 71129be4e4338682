"""The Triton kernels compile for a Hopper GPU and fit into its shared memory; no GPU is needed for that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
PROGRAM = """
import json, hopper
from titans.memory.kernels import gpu_tuning

def found(kernel):
    setting = getattr(gpu_tuning, kernel).configs[0]
    return hopper.compiled(kernel, "bf16", 64, 128, 16, setting, FRESH=True, BEFORE=True, AFTER=True)

print(json.dumps({kernel: found(kernel) for kernel in hopper.KERNELS}))
"""

TUNING = """
from types import SimpleNamespace
import hopper
from triton.runtime import autotuner
from titans.memory.kernels.gpu_tuning import deep_forward

target = lambda: hopper.GPUTarget("cuda", 90, 32)
autotuner.driver = SimpleNamespace(active=SimpleNamespace(get_current_target=target))
assert deep_forward.cache_results
deep_forward.configs_timings = {setting: [9.0 - i] for i, setting in enumerate(deep_forward.configs)}
known = deep_forward.check_disk_cache(("a shape",), deep_forward.configs, lambda: print("tried"))
print(deep_forward.cache["a shape",].num_warps if known else "not known")
"""


def run(program: str, **environment: str) -> str:
    """What a program prints that runs as on a machine with a GPU."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", program]
    here = Path(__file__).parent
    done = subprocess.run(command, env=inherited | environment, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_settings_are_tried_once_for_each_shape_and_machine(tmp_path):
    """The fastest, which is the last here, is found again by another process."""
    assert run(TUNING, TRITON_CACHE_DIR=str(tmp_path)) == "tried\nnot known\n"
    assert run(TUNING, TRITON_CACHE_DIR=str(tmp_path)) == "8\n"


def test_every_kernel_compiles_for_hopper():
    """One shape of each, with every switch on; `python tests/memory/kernels/hopper.py` does all shapes."""
    for kernel, found in json.loads(run(PROGRAM)).items():
        assert 0 < found["shared"] <= 227 * 1024, kernel
        assert found["registers"] <= 255, kernel
