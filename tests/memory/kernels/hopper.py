"""Compiles the Triton kernels for a Hopper GPU, without one: registers, spills and shared memory of each.

python tests/memory/kernels/hopper.py                              every kernel, shape and setting (many minutes)
python tests/memory/kernels/hopper.py deep_forward bf16 64 128 16  one, with its first setting
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from titans.memory.kernels import gpu_tuning
from titans.memory.kernels.gpu_function import padded

KERNELS = ("deep_forward", "deep_backward", "linear_forward", "linear_backward")
SHAPES = [(d, h, C) for d, h in ((64, 128), (48, 192), (64, 256)) for C in (16, 64)]
SHARED_MEMORY = 227 * 1024  # bytes that a program may have
_TOKENS = ("q", "k", "v", "y", "dy", "dq", "dk", "dv")
_INTEGERS = ("stride", "begin", "end", "B", "R", "H")


def compiled(name: str, dtype: str, d: int, h: int, C: int, setting: triton.Config, **changes: Any) -> dict[str, int]:
    """Registers of a thread, bytes of its spill stores, and bytes of shared memory; with momentum, norm and guard."""
    kernel = getattr(gpu_tuning, name).fn
    constants = {
        "D": d,
        "HIDDEN": h,
        "C": C,
        "BD": padded(d),
        "BC": padded(C),
        "ACT": "gelu",
        "P": "bf16" if dtype == "bf16" else "ieee",
        "MOMENTUM": True,
        "NORM": True,
        "LIMIT": 1.0,
        "SHARE": 0.5,
        "FRESH": False,
        "BEFORE": False,
        "AFTER": False,
        "REPLAY": False,
        **changes,
        **setting.kwargs,
    }
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}

    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        if argument in _INTEGERS:
            return "i32"
        if argument in ("fresh", "full"):
            return "*u8"
        if argument.startswith("filled"):
            return "*i32"
        return "*bf16" if dtype == "bf16" and argument in _TOKENS else "*fp32"

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, x in enumerate(kernel.arg_names) if signature[x][0] == "*"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": setting.num_warps, "num_stages": setting.num_stages}
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(result.asm["ptx"])
        ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
        command = [ptxas, "-v", "-arch=sm_90a", ptx, "-o", Path(folder) / "kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled": int(re.findall(r"(\d+) bytes spill stores", said)[0]),
        "shared": result.metadata.shared,
    }


def report(name: str, dtype: str, d: int, h: int, C: int, settings: list[triton.Config]) -> None:
    """Prints what was found; the forward kernels run a second time in the backward pass, without outputs (replay)."""
    for setting in settings:
        variants = [False, True] if name.endswith("forward") else [False]
        for replay in variants:
            found = compiled(name, dtype, d, h, C, setting, REPLAY=replay)
            facts = {"d": d, "h": h, "C": C, **setting.kwargs, "warps": setting.num_warps, **found}
            print(name, dtype, *(f"{key} {value}" for key, value in facts.items()), "replay" * replay, flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        name, dtype, *sizes = sys.argv[1:6]
        d, h, C = map(int, sizes)
        settings = getattr(gpu_tuning, name).configs
        report(name, dtype, d, h, C, settings if sys.argv[6:] else settings[:1])
        return
    for name in KERNELS:
        for dtype in ("bf16", "fp32"):
            for d, h, C in SHAPES:
                report(name, dtype, d, h, C, getattr(gpu_tuning, name).configs)


if __name__ == "__main__":
    main()
