import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LEAST = """
import sys
import torch
from plain_gates import unstretch
if sys.argv[1] == "plain":
    unstretch()
from titans import MemoryConfig, NeuralMemory
from titans.memory.layer import GateProjections

torch.manual_seed(0)
memory = NeuralMemory(32, MemoryConfig(num_heads=1, chunk_size=4))
gates = next(module for module in memory.modules() if isinstance(module, GateProjections))
g, _, theta = gates(30 * torch.randn(1, 64, 32))
print(theta.min().item(), -g.max().item())
x, y = torch.randn(1, 8, 32), []
whole, state = memory(x)[0], None
for token in x.split(1, 1):
    out, state = memory(token, state)
    y.append(out)
assert torch.allclose(torch.cat(y, 1), whole, atol=1e-5)
"""


@pytest.mark.parametrize("kind", ["plain", "ours"])
def test_plain_gates_are_never_shut_and_ours_are(kind):
    command = [sys.executable, "-c", LEAST, kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS, check=True)
    least = [float(value) for value in done.stdout.split()]
    assert all(value > 0 for value in least) if kind == "plain" else least == [0, 0]
