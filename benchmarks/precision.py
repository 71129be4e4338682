"""What the memory's bfloat16 products cost in accuracy on this processor, beside float32: both against float64.

    python benchmarks/precision.py
    python benchmarks/precision.py --tokens 1048576

The operation reads random queries, keys and gates, and values that are a linear map of the keys and noise, in pieces of
4,096 tokens, the same (rounded) ones in all three precisions. Errors are norms of differences over norms: of the last
piece's outputs, of the weights at the end, and of the gradients of the first piece's queries, keys and values.
"""

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory import MemoryState, Norm, native_titans
from titans.memory.kernels.build import multiplies_bfloat16

PIECE, HEADS = 4096, 4
SIZES = ((64, 128), (48, 192))


def pieces(tokens: int, d: int) -> Iterator[list[Tensor]]:
    """q, k, v, g, log_eta and theta, rounded to bfloat16."""
    random = torch.Generator().manual_seed(0)
    pattern = torch.randn(d, d, generator=random)
    for _ in range(tokens // PIECE):
        q, k, noise, g, eta, theta = (
            torch.randn(1, PIECE, HEADS, *width, generator=random) for width in ((d,), (d,), (d,), (), (), ())
        )
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        gates = F.logsigmoid(g + 8), F.logsigmoid(eta), 0.5 * torch.sigmoid(theta)
        yield [x.bfloat16() for x in (q, k, k @ pattern + 0.1 * noise, *gates)]


def read(dtype: torch.dtype, tokens: int, d: int, hidden: int, chunk: int) -> dict[str, Tensor]:
    """Outputs and weights after all tokens, and the gradients of the first piece."""
    working = torch.float64 if dtype == torch.float64 else torch.float32
    torch.manual_seed(0)
    weights = tuple((torch.randn(HEADS, a, b) / a**0.5).to(working) for a, b in ((d, hidden), (hidden, d)))
    norm = Norm(torch.full((HEADS, d), 0.5, dtype=working), torch.zeros(HEADS, d, dtype=working))
    state: MemoryState | None = None
    found, y = {}, torch.empty(0)
    for number, piece in enumerate(pieces(tokens, d)):
        q, k, v = (x.to(dtype).requires_grad_(number == 0) for x in piece[:3])
        g, log_eta, theta = (x.to(working) for x in piece[3:])
        y, state = native_titans(
            q, k, v, g, log_eta, theta, weights, norm, chunk_size=chunk, initial_state=state, output_final_state=True
        )
        if number == 0:
            gradients = torch.autograd.grad(y.to(working).square().sum(), (q, k, v))
            found["gradients"] = torch.cat([x.double().flatten() for x in gradients])
            state = state and state.detach()
    assert state is not None
    return found | {
        "outputs": y.detach().double().flatten(),
        "weights": torch.cat([x.double().flatten() for x in state.weights]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=131072)
    tokens = parser.parse_args().tokens
    if tokens < PIECE:
        parser.error(f"--tokens is {tokens}; it must be at least {PIECE}")
    if not multiplies_bfloat16():
        print("This processor has no instructions for bfloat16: products are float32 whatever is given.")
    print("| size | chunk | products | outputs | weights | gradients |\n|---|---|---|---|---|---|")
    for d, hidden in SIZES:
        for chunk in (16, 64):
            exact = read(torch.float64, tokens, d, hidden, chunk)
            for dtype in (torch.float32, torch.bfloat16):
                found = read(dtype, tokens, d, hidden, chunk)
                errors = [
                    f"{(found[name] - exact[name]).norm() / exact[name].norm():.1e}"
                    for name in ("outputs", "weights", "gradients")
                ]
                print(f"| d = {d}, h = {hidden} | {chunk} | {str(dtype).split('.')[-1]} | {' | '.join(errors)} |")


if __name__ == "__main__":
    main()
