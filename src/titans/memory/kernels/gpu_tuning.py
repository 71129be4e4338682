"""The Triton kernels with the settings that are tried on a GPU, once for each shape and machine; the fastest is kept,
in Triton's cache on the disk.

Kernels read some tensors and write into them, which a trial must not: those are restored after each.
"""

from typing import Any

import triton

from titans.memory.kernels import triton_backward, triton_forward, triton_linear
from titans.memory.kernels.gpu import interpreted

TUNED = ("BH",)
"""arguments that the settings give"""


def _tuned(kernel: Any, settings: list[triton.Config], updated: list[str]) -> Any:
    key = ["D", "HIDDEN", "C", "P", "MOMENTUM", "REPLAY"]
    tried = settings[:1] if interpreted() else settings
    return triton.autotune(tried, key=key, restore_value=updated, cache_results=True)(kernel)


def _tiles(*choices: tuple[int, int]) -> list[triton.Config]:
    """Width of a tile of the hidden layer, and warps."""
    return [triton.Config({"BH": width}, num_warps=warps, num_stages=1) for width, warps in choices]


def _warps(*choices: int) -> list[triton.Config]:
    return [triton.Config({}, num_warps=warps, num_stages=1) for warps in choices]


deep_forward = _tuned(
    triton_forward.deep_forward, _tiles((32, 4), (16, 4), (32, 8)), ["w1", "w2", "s1", "s2", "pending"]
)
deep_backward = _tuned(
    triton_backward.deep_backward,
    _tiles((32, 4), (16, 4), (32, 8)),
    ["dw1", "dw2", "ds1", "ds2", "dw1_fresh", "dw2_fresh", "dgamma", "dbeta", "record"],
)
linear_forward = _tuned(triton_linear.linear_forward, _warps(4, 8, 2), ["w", "s", "pending"])
linear_backward = _tuned(triton_linear.linear_backward, _warps(4, 8, 2), ["dw", "ds", "dw_fresh"])
