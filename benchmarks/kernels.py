"""How fast is the compiled memory? Native against the chunked form of torch operations, in one run.

Forward, and forward with backward, of the operation alone; the forms take turns, medians are reported. The rate in
operations counts only the products of the dual form (per token and head, depth 2: 22 d h + 4 C (d + h) + 2 C^2 forward,
three times that with backward) and is compared with a large matrix product measured in the same run.

    python benchmarks/kernels.py --threads 1 --out docs/results/kernels.json
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from titans.cli.findings import machine
from titans.files import write_json
from titans.memory import MemoryNetwork, Norm, chunk_titans, native_titans
from titans.memory.arguments import MemoryOperation

FORMS: dict[str, MemoryOperation] = {"chunked": chunk_titans, "native": native_titans}
ROUNDS = 7


@dataclass(frozen=True)
class Size:
    """B rows, T tokens, H heads, d head dimension, h hidden width, C chunk length; depth 2."""

    B: int
    T: int
    H: int
    d: int
    h: int
    C: int

    @property
    def flops(self) -> int:
        """Of one forward pass."""
        d, h, C = self.d, self.h, self.C
        return self.B * self.T * self.H * (22 * d * h + 4 * C * (d + h) + 2 * C * C)


SIZES = [Size(2, 1024, 4, 64, 128, 16), Size(2, 1024, 4, 64, 128, 64), Size(2, 1024, 4, 48, 192, 16),
         Size(2, 1024, 4, 48, 192, 64)]  # fmt: skip


def arguments(size: Size) -> tuple[list[Tensor], tuple[Tensor, ...], Norm]:
    """Random inputs, memory weights and layer norm, all with gradients."""
    torch.manual_seed(0)
    shape = (size.B, size.T, size.H)
    q, k = (F.normalize(torch.randn(*shape, size.d), dim=-1) for _ in range(2))
    gates = F.logsigmoid(torch.randn(*shape, 2) + 4), F.logsigmoid(torch.randn(*shape, 2)), 0.1 * torch.rand(*shape, 2)
    dims = MemoryNetwork(size.d, 2, size.h // size.d).layer_dims
    weights = tuple((torch.randn(size.H, a, b) / math.sqrt(a)).requires_grad_() for a, b in dims)
    norm = Norm(torch.full((size.H, size.d), 0.5), torch.zeros(size.H, size.d))
    return [x.requires_grad_() for x in (q, k, torch.randn(*shape, size.d), *gates)], weights, norm


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure(size: Size) -> dict:
    """Tokens per second of every form and direction, and what part of the matrix product's rate that is."""
    inputs, weights, norm = arguments(size)
    matrix = torch.randn(768, 768)

    def forward(form: str) -> Tensor:
        return FORMS[form](*inputs, weights, norm, chunk_size=size.C)[0]  # pyright: ignore[reportCallIssue]

    def without_gradients(form: str) -> None:
        with torch.no_grad():
            forward(form)

    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        times.setdefault("matrix product", []).append(seconds(lambda: matrix @ matrix))
        for form in FORMS:
            times.setdefault(f"{form} forward", []).append(seconds(lambda form=form: without_gradients(form)))
            whole = seconds(lambda form=form: forward(form).sum().backward())
            times.setdefault(f"{form} forward + backward", []).append(whole)
    rate = 2 * 768**3 / median(times.pop("matrix product"))
    found = {}
    for name, taken in times.items():
        flops = size.flops * (3 if "backward" in name else 1)
        found[name] = {
            "tokens_per_second": round(size.B * size.T / median(taken)),
            "spread": round((max(taken) - min(taken)) / median(taken), 2),
            "of_matrix_product": round(flops / median(taken) / rate, 3),
        }
    return {"size": asdict(size), "matrix_product_gflops": round(rate / 1e9, 1), "forms": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/results/kernels.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for size in SIZES:
        results.append(measure(size))
        print(json.dumps(results[-1]), flush=True)
    command = f"python benchmarks/kernels.py --threads {arguments.threads}"
    write_json(arguments.out, {"command": command, "machine": asdict(machine()), "results": results})


if __name__ == "__main__":
    main()
