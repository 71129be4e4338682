"""`titans` with plain sigmoids for gates: never quite shut, where ours are stretched so that they close exactly.

For an ablation (docs/lab-log.md): what closing exactly is worth. A model trained by this has to be asked by it too.

    python benchmarks/plain_gates.py train --recipe needles --variant lmm --text books --out runs/plain
    python benchmarks/plain_gates.py eval needles --checkpoint runs/plain --length 4096 16384
"""

import sys

from titans.cli.main import main
from titans.memory import gates, layer
from titans.memory.kernels import step
from titans.training import openness


def unstretch() -> None:
    """From now on gates of this process end where their sigmoids do."""
    for module in (gates, layer, step, openness):
        vars(module).update(STEP_MARGIN=0.0, FORGET_MARGIN=0.0)


if __name__ == "__main__":
    unstretch()
    sys.exit(main())
