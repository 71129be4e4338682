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


def test_every_kernel_compiles_for_hopper():
    """One shape of each, with every switch on; `python tests/memory/kernels/hopper.py` does all shapes."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kernel, found in json.loads(done.stdout).items():
        assert 0 < found["shared"] <= 227 * 1024, kernel
        assert found["registers"] <= 255, kernel
