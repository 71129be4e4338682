"""Whether the Triton kernels are right on this machine's GPU: `make check-gpu`.

Every case is computed by the kernels in float32 (exact products, then TF32) and bfloat16, and by the dual form in
float64 on the processor: outputs, final state and all gradients, largest difference over largest value. Then the layer
is run with torch told to fail at any wait for the GPU. Exit code 1 if anything is off.

`TRITON_INTERPRET=1 python benchmarks/gpu_check.py --device cpu --length 26 --head-dim 16` runs it without a GPU.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from titans.memory import MemoryConfig, NeuralMemory, Norm, chunk_titans, triton_titans
from titans.memory.arguments import MemoryOperation
from titans.memory.networks import MemoryNetwork

# Largest difference over largest value. TF32 keeps 10 bits of a product's factors and bfloat16 7; the rest are sums.
PRECISIONS = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 6e-2}


@dataclass(frozen=True)
class Case:
    """Switches of one comparison."""

    depth: int
    chunk: int
    momentum: bool = True
    guard: bool = True
    before: int = 0
    """tokens of an earlier call, whose state this one begins with"""
    flags: bool = False
    """with mask and resets"""


CASES = [
    Case(2, 16),
    Case(2, 64),
    Case(2, 16, momentum=False),
    Case(2, 16, guard=False),
    Case(2, 16, before=21, flags=True),
    Case(2, 1),
    Case(1, 16),
    Case(1, 64),
    Case(1, 16, momentum=False),
    Case(1, 16, before=21, flags=True),
]


def make_arguments(case: Case, length: int, head_dim: int, rows: int = 2, heads: int = 2) -> dict[str, Tensor | None]:
    """Random arguments in float64; q, k and v hold numbers that bfloat16 has."""
    network = MemoryNetwork(head_dim, case.depth, 4)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    steps = (rows, length, heads, case.depth)
    given: dict[str, Tensor | None] = {
        name: x.bfloat16().double()
        for name, x in {
            "q": F.normalize(random(rows, length, heads, head_dim), dim=-1),
            "k": F.normalize(random(rows, length, heads, head_dim), dim=-1),
            "v": random(rows, length, heads, head_dim),
        }.items()
    }
    given |= {
        "g": F.logsigmoid(random(*steps) + 3),
        "log_eta": F.logsigmoid(random(*steps)) if case.momentum else None,
        "theta": (0.3 if case.guard else 0.03) * torch.rand(steps, dtype=torch.float64),
        "norm.weight": 1 + 0.1 * random(heads, head_dim),
        "norm.bias": 0.1 * random(heads, head_dim),
    }
    given |= {f"weights.{i}": random(heads, *dims) / dims[0] ** 0.5 for i, dims in enumerate(network.layer_dims)}
    given["mask"] = torch.rand(rows, length) > 0.2 if case.flags else None
    given["reset"] = torch.rand(rows, length) > 0.95 if case.flags else None
    return given


def answers(
    operation: MemoryOperation, case: Case, given: dict[str, Tensor | None], dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """Outputs, states and all gradients, with q, k and v in `dtype` and the rest in float32, or all in float64."""
    other = torch.float64 if dtype == torch.float64 else torch.float32
    x: dict[str, Tensor] = {}
    for name, tensor in given.items():
        if tensor is not None and tensor.is_floating_point():
            x[name] = tensor.to(device, dtype if name in "qkv" else other).requires_grad_()
        elif tensor is not None:
            x[name] = tensor.to(device)

    def call(tokens: slice, state, flags: bool):
        along = {name: x[name][:, tokens] for name in ("q", "k", "v", "g", "log_eta", "theta") if name in x}
        marks = {name: x[name][:, tokens] for name in ("mask", "reset") if flags and name in x}
        return operation(
            *(along["q"], along["k"], along["v"], along["g"], along.get("log_eta"), along["theta"]),
            [tensor for name, tensor in x.items() if name.startswith("weights")],
            Norm(x["norm.weight"], x["norm.bias"]) if case.depth > 1 else None,
            chunk_size=case.chunk,
            guard_limit=1.0 if case.guard else None,
            initial_state=state,
            output_final_state=True,
            mask=marks.get("mask"),
            reset=marks.get("reset"),
        )

    parts, state = [], None
    if case.before:
        y, state = call(slice(0, case.before), None, flags=False)
        parts.append(y)
    y, state = call(slice(case.before, None), state, flags=True)
    assert state is not None
    found = {"y": torch.cat([*parts, y], 1)} | {f"state.{name}": s for name, s in state.tensors().items()}
    floating = {name: s for name, s in found.items() if s.is_floating_point() and s.requires_grad}
    mixture = torch.zeros((), dtype=other, device=device)
    for s in floating.values():
        share = torch.arange(1, s.numel() + 1, dtype=torch.float64).sin().to(device, other)
        mixture = mixture + (s.to(other) * share.view(s.shape)).sum()
    leaves = {name: tensor for name, tensor in x.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(mixture, list(leaves.values()), allow_unused=True)
    found |= {f"d {name}": g for name, g in zip(leaves, gradients, strict=True) if g is not None}
    return {name: s.detach().double().cpu() for name, s in found.items()}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference over the largest value, and where; infinite where something is missing or not finite."""
    errors = {}
    for name in expected | found:
        if name not in found or name not in expected or not bool(torch.isfinite(found[name]).all()):
            errors[name] = float("inf")
        elif expected[name].numel():
            scale = expected[name].abs().max().item()
            errors[name] = (found[name] - expected[name]).abs().max().item() / max(scale, 1e-2)
    name = max(errors, key=errors.__getitem__)
    return errors[name], name


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Any wait for the GPU is an error."""
    if device.startswith("cuda"):
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.startswith("cuda"):
            torch.cuda.set_sync_debug_mode("default")


def waits(device: str, depth: int, head_dim: int, length: int, masked: bool) -> str:
    """What torch says of two calls of the layer and their gradients, one after the other; "" if nothing waits."""
    memory = NeuralMemory(2 * head_dim, MemoryConfig(num_heads=2, depth=depth)).to(device)
    x = torch.randn(2, length + 3, 2 * head_dim, device=device)
    mask = torch.rand(2, length + 3, device=device) > 0.2 if masked else None

    def run() -> None:
        y, state = memory(x, mask=mask, backend="triton")
        z, _ = memory(x, state.detach(), mask=mask, backend="triton")
        (y.square().mean() + z.square().mean()).backward()

    run()  # the settings of the kernels are chosen at the first call, by measuring
    try:
        with no_waiting(device):
            run()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def main(
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cuda",
    length: Annotated[int, tyro.conf.arg(metavar="N")] = 200,
    head_dim: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = (64, 48),
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
) -> None:
    """Compare the Triton kernels on a GPU with the dual form in float64.

    Example:
        make check-gpu
    """
    interpreted = device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not (device.startswith("cuda") and torch.cuda.is_available()):
        print(f"no {device} GPU is at hand; TRITON_INTERPRET=1 and --device cpu do without one", file=sys.stderr)
        sys.exit(2)
    if length <= max(case.before for case in CASES):
        print(f"--length {length} is too short; give more than 21 tokens", file=sys.stderr)
        sys.exit(2)
    off = 0
    for width in head_dim:
        for case in CASES:
            torch.manual_seed(seed)
            given = make_arguments(case, length, width)
            expected = answers(chunk_titans, case, given, torch.float64, "cpu")
            found = []
            for name, tolerance in PRECISIONS.items():
                torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
                dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
                error, where = worst(answers(triton_titans, case, given, dtype, device), expected)
                off += error > tolerance
                found.append(f"{name} {error:.1e} ({where}){' OFF' if error > tolerance else ''}")
            switches = " ".join(f"{name} {value}" for name, value in vars(case).items())
            print(f"width {width} {switches}: {', '.join(found)}", flush=True)
    for depth in (1, 2):
        for masked in (False, True):
            said = waits(device, depth, head_dim[0], length, masked)
            off += bool(said)
            print(f"depth {depth}{', mask' if masked else ''}: {said or 'nothing waits for the GPU'}", flush=True)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "processor"
    print(f"{name}, torch {torch.__version__}: {'all as they should be' if not off else f'{off} are off'}")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    tyro.cli(main)
