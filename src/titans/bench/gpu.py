"""On a GPU: bfloat16 layers of the 340M shape, with as many tokens in every contest, in rows of different length.

Letters: B rows, T tokens, H heads, d head dimension, h hidden width of the memory network, C chunk length.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from titans.bench.contest import Contender, Contest
from titans.bench.memory import LINEAR, Peers, Size, flops, make_layer, no_peers

TOKENS = 32768
LENGTHS = (2048, 8192, 32768)
SHAPES = (
    Size(B=1, T=0, H=16, d=64, expansion=4, dtype=torch.bfloat16),
    Size(B=1, T=0, H=16, d=48, expansion=4, dtype=torch.bfloat16),
)
QUICK = replace(SHAPES[0], T=256)


def contests(*, quick: bool = False, peers: Peers = no_peers) -> list[Contest]:
    """Forward and backward pass of the layer, for every shape and length."""
    sizes = [replace(shape, B=TOKENS // length, T=length) for shape in SHAPES for length in LENGTHS]
    return [_contest(size, peers) for size in ([QUICK] if quick else sizes)]


def layer_flops(size: Size) -> int:
    """Of `flops` and the layer's projections to queries, keys, values, output gate and output, with their gradients.

    Not counted: the projections to the gates, and what `flops` leaves out.
    """
    return flops(size, True) + 3 * size.tokens * 2 * 5 * size.dim**2


def names() -> Sequence[str]:
    """Our contenders: chunks of 16 and 64, of the deep and the linear memory."""
    return [f"triton, chunk {chunk}{linear}" for linear in ("", LINEAR) for chunk in (16, 64)]


def _contest(size: Size, peers: Peers) -> Contest:
    sized = [replace(size, C=chunk, depth=depth) for depth in (2, 1) for chunk in (16, 64)]
    own = [
        Contender(
            name=name, make=partial(make_layer, "triton", each, True), tokens=size.tokens, flops=layer_flops(each)
        )
        for name, each in zip(names(), sized, strict=True)
    ]
    title = f"GPU layer, forward + backward, {size}, B = {size.B}, T = {size.T}"
    return Contest(title=title, base=names()[0], contenders=(*own, *peers(size, True)), products=torch.bfloat16)
