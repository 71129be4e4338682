"""docs/performance.md: what performance.py measured, as tables, with how it was measured and how to read it."""

import os
from collections.abc import Mapping
from pathlib import Path

from performance_aims import aims

from titans.bench.results import Measurements
from titans.bench.subjects import GPU
from titans.bench.table import heading, to_markdown

HEADLINES = ("layer, forward + backward, D", "training step", "decoding", "reading")
"""Titles of the outcomes that the picture shows."""

_INTRODUCTION = """# Performance

Written by `make bench`. Every number comes from the command above its table; compare only within a table, where the
contenders took turns.

## How it was measured

- **In turns.** All contenders of a table are built in one process, run once without being timed, and then take turns,
  A B A B, round after round. *tokens/s* and *µs/token* are medians over the rounds, *spread* is the distance between
  the quartiles as a share of the median, and *speed* is the median of the ratios to the contender named below the
  table, each of two times of the same round: what else the machine does falls on both.
- **Memory.** For each contender a fresh process builds it and does the work twice; *memory MB* is the most that the
  process held during the work, less what it held before. Parameters and inputs are not in it; activations, gradients,
  an optimiser's moments and the libraries' buffers are.
- **Forward + backward** is the outputs' sum and its gradients, those of the input included. A **training step** is
  forward pass, loss, backward pass, clipping and AdamW, the same for all.
- float32 (bfloat16 on a GPU), random inputs, freshly initialised weights. Nothing here says how well a model learns.
- *bfloat16*, where the processor multiplies it: an operation given queries, keys and values in bfloat16 rounds the
  factors of its products to it and keeps sums, state and all else in float32; a layer has its weights in bfloat16, also
  that of the other package. What the rounding costs: [concepts](concepts.md#precision).

## The share of a matrix product

*of matmul* is the rate of the operation, in floating-point operations per second, as a share of what a product of two
1024 x 1024 matrices reached in the same round. Only the matrix products of the dual form are counted, a multiplication
and an addition being two operations. For each token and head, with d the head dimension, h the hidden width and C the
chunk length:

| | depth 2 | linear (depth 1) |
|---|---|---|
| surprise | 4 d h | 2 d² |
| the error's way back | 2 d h | - |
| reading with W and with S | 8 d h | 4 d² |
| scores, and their product with the errors | 4 C (d + h) | 4 C d |
| writing into W and into S | 8 d h | 4 d² |
| together | **22 d h + 4 C (d + h)** | **10 d² + 4 C d** |

and three times that with the backward pass. Not counted are the weights of past gradients, the step-size guard,
activations and norms, and what the backward pass computes anew; all of them take time.
The terms with C count whole squares of tokens by tokens, as a product would compute them. Of the half in which a token
would see the future the kernel leaves out half at C = 64 (with AVX-512), 5 or 6 % of the count for depth 2 and 7 or 9 %
for the linear memory, and nothing at C = 16. So at C = 16 the share is a lower bound, at C = 64 it is one to within
those.

The product is timed ten times a round. Its rate still moves with the machine, so it is below each table: where it is
lower than in other tables with as many threads the shares above it are too high.

## The other packages

- **titans-pytorch** is the one other implementation of this memory in use. Layers have the same width, heads and memory
  network. Chunk 1 with batches of 64 has gates for every token and takes gradients at weights at most 64 tokens old.
  Chunks of 16 and 64 have one gate for 16 and 64 tokens and take all gradients at the first weights, their fastest
  setting. Its accelerated scan is for GPUs and is off. *its script* is the model of its `train_mac.py`; *plain* is that
  without what the script adds to the paper. Its parameters are copied once so that AdamW can step them.
- **Gated delta rule** (Qwen3-Next) and **Mamba2** are linear recurrences without a network inside, in the PyTorch form
  that transformers falls back to on a processor; their own kernels are for GPUs. **Llama** is full attention over the
  row (SDPA). They are other layers for the same purpose, not other implementations of this one.
"""

_SUMMARY = """## In short

*wanted* is what this project aimed at before it measured. Beside it is what the tables below say, from the lowest to
the highest of their sizes, chunk lengths and variants; *in part*: reached by some of them. The linear memory's shares
of a product's rate are no aim and lower (below). Speeds are quotients of two medians of their column *speed*; with
few rounds (they are in the commands) and the spreads in the tables a tenth more or less is not to be told from noise.
Two earlier runs, one with other work beside it, had single values up to a quarter lower or higher, and one of them
another verdict on the shares at chunks of 16 ([lab log](lab-log.md), "performance, three times").

{table}

Another aim was the least memory in training of all that were compared. Of the layers it is met, at the one length that
was measured; a whole MAC step takes more than Llama's and the control's (below). That a token's cost stays the same
was measured up to a million tokens for reading and decoding, and up to 16,384 for training.

Where an aim is hard to reach:

- **Per token.** The operation already runs at half the rate of a large product at chunks of 16 (see there); up to
  37 % more speed with one thread would have to come from it.
- **32 sessions.** Sessions share the reading of projections and MLP from memory, not their memories: each has weights
  and momentum of its own, which are read and written for every token of every session.
- **titans-pytorch's chunks of 64.** That form takes all gradients of 64 tokens at one weight and has one gate for
  them; ours is exact for every token. A token of our layer costs 4.3 million operations, forward and backward, at D =
  256 and chunks of 16, projections included; three times the other's speed would be the full rate of a large matrix
  product in float32 ([lab log](lab-log.md), "the kernel at its bar").
- **Chunks of 16.** The step-size guard as it was then had a bound on the spectral norm that was itself a product: a
  quarter as many operations as are counted, and left out of the count. It is gone.
- **MAC.** Its segments are read one after the other, 64 tokens at a time in the whole batch: products too small to be
  fast, and too little work to share out over threads. Its matrix products and the memory's kernel alone, beside what
  the control does, come to 1.37 to 1.46 times the control's step ([lab log](lab-log.md), "what MAC's step is made
  of"); an eighth of the script's step is about as much on two threads. It has fewer parameters than the script's
  model, in equally many blocks of equal width."""

_ON_A_GPU = "## On a GPU"
_NOT_MEASURED = f"""{_ON_A_GPU}

GPU: not measured. On a machine with a CUDA GPU: `python benchmarks/performance.py gpu` (`make bench-gpu`). Whether
the kernels are right there: `make check-gpu`. The first call of a shape tries the kernels' settings; what was fastest
is kept on the disk."""

_SUBJECTS = {
    "memory": """## The memory alone

*operation* is the memory itself, from queries, keys, values and gates; *layer* is the whole `NeuralMemory` with
projections, convolution, gates and output. *native* is the form in C, *chunked* the one in torch operations,
*reference* the definition, token by token.""",
    "model": """## A training step

Ours have chunks of 32 in their memories, the other package's chunks of 4, as in its script.""",
    "decode": """## One token at a time

Two blocks of D = 256, four memory heads with d = 64 and h = 128, chunks of 16, segments and window of 64. Begun from
a state in a file, 64 tokens a turn, each turn going on where the last one ended. Each session is a row of one
batch.""",
    "stream": """## How cost grows

Reading: 2,048 tokens from states of different age. Training: the layer, native where there is a
compiler. Equal tokens/s at every age mean constant cost, at every number of rows and every length linear cost.""",
    GPU: f"""{_ON_A_GPU}

The layer in bfloat16, forward and backward pass, 32,768 tokens a turn. *of matmul* refers to a bfloat16 product of two
8192 x 8192 matrices; the products of the layer's five projections are counted too, 10 D² a token and direction.""",
}


def render(found: Mapping[str, Measurements], numbers: Path, picture: Path, folder: Path) -> str:
    """The page, for a file in `folder`."""
    parts = [_INTRODUCTION]
    parts.append(_SUMMARY.format(table="\n".join(aims(found))))
    links = (os.path.relpath(path, folder) for path in (picture, numbers))
    parts.append("![Tokens per second]({})\n\nAll numbers: [JSON]({}).".format(*links))
    for subject, measurements in found.items():
        parts += [_SUBJECTS[subject], _origin(measurements)]
        parts += [f"### {heading(outcome)}\n\n{to_markdown(outcome)}" for outcome in measurements.outcomes]
    if GPU not in found:
        parts.append(_NOT_MEASURED)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _origin(measurements: Measurements) -> str:
    machine, packages = measurements.machine, measurements.packages
    versions = {"Python": machine.python, "torch": machine.torch} | packages
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:g} GB; {listed}"
    return f"```\n{measurements.command}\n```\n\n{where}; {measurements.rounds} rounds; {measurements.created}."
