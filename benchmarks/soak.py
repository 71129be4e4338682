"""A million tokens of the worst inputs through the memory: is everything finite, and how large does it get?

Every combination of input (constant, two alternating keys, a repeated chunk, random, positive as after SiLU, one-hot,
two keys that take turns for 300 tokens each) and gates (theta_raw = 1; eta 0.999, 0, swinging or random; alpha 1e-7
or 0.999) is a row of one batch; d = 16, values of standard deviation 1 or constant 1 or 3, default guard.

    python benchmarks/soak.py --tokens 1000000 --out docs/results/soak.json
"""

import argparse
import itertools
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from titans.cli.findings import machine
from titans.files import write_json
from titans.memory import MemoryNetwork, Norm, native_titans

INPUTS = ("constant", "alternating", "repeated", "random", "positive", "one-hot", "turns")
# eta, alpha. swings: eta 0.999 for 60 tokens, 0.5 for 4; random: sigmoid(4 randn + 2)
GATES = (("0.999", 1e-7), ("0.999", 0.999), ("0", 1e-7), ("swings", 1e-7), ("random", 1e-7))
D, PIECE = 16, 4096


def keys_and_values(
    kind: str, length: int, chunk: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """k, v [length, D] of one kind of input."""
    k = torch.randn(length, D, generator=generator)
    v = torch.randn(length, D, generator=generator)
    fixed = torch.Generator().manual_seed(1)  # the same keys in every piece
    if kind == "constant":
        k, v = torch.randn(1, D, generator=fixed).expand(length, D), 3 * torch.ones(length, D)
    elif kind == "alternating":
        k = torch.randn(2, D, generator=fixed)[torch.arange(length) % 2]
        v = torch.tensor([3.0, -3.0])[torch.arange(length) % 2, None].expand(length, D)
    elif kind == "repeated":
        k = torch.randn(chunk, D, generator=fixed).repeat(length // chunk + 1, 1)[:length]
    elif kind == "positive":
        k = F.silu(k)
    elif kind == "one-hot":
        k = torch.eye(D)[torch.arange(length) % D]
    elif kind == "turns":
        k, v = torch.eye(D)[torch.arange(length) // 300 % 2], torch.ones(length, D)
    return F.normalize(k, dim=-1), v


def etas(kind: str, length: int, generator: torch.Generator) -> torch.Tensor:
    """eta [length] of one kind."""
    if kind == "swings":
        return torch.where(torch.arange(length) % 64 < 60, 0.999, 0.5)
    if kind == "random":
        return torch.sigmoid(4 * torch.randn(length, generator=generator) + 2)
    return torch.full((length,), float(kind))


def soak(tokens: int, chunk: int, depth: int, dtype: torch.dtype) -> dict:
    """One setting; the largest output and weight ever seen, by input."""
    torch.manual_seed(0)
    rows = list(itertools.product(INPUTS, GATES))
    network = MemoryNetwork(D, depth, 4)
    weights = tuple(torch.randn(1, a, b) / math.sqrt(a) for a, b in network.layer_dims)
    norm = Norm(torch.full((1, D), 0.5), torch.zeros(1, D)) if depth > 1 else None
    alpha = torch.tensor([gates[1] for _, gates in rows])[:, None, None]
    g = torch.log1p(-alpha).expand(len(rows), PIECE, 1)
    generator = torch.Generator().manual_seed(0)
    largest = {kind: {"output": 0.0, "weight": 0.0} for kind in INPUTS}
    state, begun = None, time.perf_counter()
    with torch.no_grad():
        for _ in range(-(-tokens // PIECE)):
            pairs = [keys_and_values(kind, PIECE, chunk, generator) for kind, _ in rows]
            k, v = (torch.stack(x).unsqueeze(2).to(dtype) for x in zip(*pairs, strict=True))
            eta = torch.stack([etas(gates[0], PIECE, generator) for _, gates in rows]).unsqueeze(-1)
            y, state = native_titans(
                k, k, v, g, eta.log(), 1 - eta, weights, norm,
                chunk_size=chunk, initial_state=state, output_final_state=True,
            )  # fmt: skip
            assert state is not None
            for row, (kind, _) in enumerate(rows):
                peak = max(float(w[row].abs().max()) for w in state.weights)
                seen = largest[kind]
                for name, value in (("output", float(y[row].abs().max())), ("weight", peak)):
                    seen[name] = max(seen[name], value) if math.isfinite(value) else math.inf
    return {
        "chunk": chunk,
        "depth": depth,
        "dtype": str(dtype).removeprefix("torch."),
        "tokens": tokens,
        "rows": len(rows),
        "seconds": round(time.perf_counter() - begun, 1),
        "finite": all(math.isfinite(value) for seen in largest.values() for value in seen.values()),
        "largest": {
            k: {n: round(x, 3) if math.isfinite(x) else None for n, x in s.items()} for k, s in largest.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results/soak.json"))
    arguments = parser.parse_args()
    results = []
    for depth, chunk, dtype in itertools.product((1, 2, 3), (16, 64), (torch.float32, torch.bfloat16)):
        results.append(soak(arguments.tokens, chunk, depth, dtype))
        print(json.dumps(results[-1]), flush=True)
        command = f"python benchmarks/soak.py --tokens {arguments.tokens}"
        write_json(arguments.out, {"command": command, "machine": asdict(machine()), "results": results})
    if not all(result["finite"] for result in results):
        raise SystemExit("not finite")


if __name__ == "__main__":
    main()
