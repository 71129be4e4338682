"""Why depth holds no more than width: pairs written one after the other into memories that nobody trained.

Random keys of length 1 and random values; each pair is written once, by a step along the gradient of eq. 12 that is a
share of a full correction. Asked: the nearest of 512 values. A deep memory's layers are random, what it says before
anything is written is taken away, and each layer's step is as long as its part of the correction takes; "first layer
fixed": it only makes features of the key. In the table is the best of a few shares, parts and scales.

    python benchmarks/association.py
"""

import argparse
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gain_summary import markdown_table
from torch import Tensor

VALUES, MEMORIES = 512, 30
SHARES, SCALES, PARTS = (0.1, 0.2, 0.4, 0.8), (0.5, 2.0, 6.0), (0.5, 0.8)
ACTIVATIONS = {"gelu": F.gelu, "tanh": torch.tanh}
LEAST = 1e-4


@dataclass(frozen=True)
class Pairs:
    """Of many memories at once."""

    keys: Tensor
    """[memories, pairs, width]"""
    values: Tensor
    """[memories, values, width]"""
    which: Tensor
    """value of each key [memories, pairs]"""

    @classmethod
    def of(cls, width: int, count: int) -> "Pairs":
        random = torch.Generator().manual_seed(0)
        keys, values = (
            F.normalize(torch.randn(MEMORIES, size, width, generator=random), dim=-1) for size in (count, VALUES)
        )
        return cls(keys, values, torch.rand(MEMORIES, VALUES, generator=random).argsort(-1)[:, :count])

    def in_order(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [memories, 1, width]."""
        values = torch.take_along_dim(self.values, self.which.unsqueeze(-1), 1)
        return list(zip(self.keys.split(1, 1), values.split(1, 1), strict=True))

    def right(self, answers: Tensor) -> float:
        """Share of the pairs whose answer is nearest to their value."""
        return float(((answers @ self.values.mT).argmax(-1) == self.which).double().mean())


def matrix(pairs: Pairs, share: float) -> float:
    """The linear memory."""
    width = pairs.keys.shape[-1]
    weight = torch.zeros(MEMORIES, width, width)
    for key, value in pairs.in_order():
        weight -= share * key.mT @ (key @ weight - value)
    return pairs.right(pairs.keys @ weight)


def deep(pairs: Pairs, hidden: int, activation: str, share: float, scale: float, part: float) -> float:
    """Two layers; part: of each correction, what the first one makes."""
    width, act = pairs.keys.shape[-1], ACTIVATIONS[activation]
    random = torch.Generator().manual_seed(1)
    first = scale * torch.randn(MEMORIES, width, hidden, generator=random)
    second = 0.5 * torch.randn(MEMORIES, hidden, width, generator=random) / hidden**0.5
    before = act(pairs.keys @ first) @ second
    for (key, value), empty in zip(pairs.in_order(), before.split(1, 1), strict=True):
        z = (key @ first).requires_grad_()
        with torch.enable_grad():
            a = act(z)
            error = (a @ second - empty - value).detach()
            (back,) = torch.autograd.grad((a * (error @ second.mT)).sum(), z)
        a = a.detach()
        # What a step of 1 in each layer moves the answer by, along the error.
        by_first = back.square().sum(-1, keepdim=True) / error.square().sum(-1, keepdim=True).clamp_min(LEAST)
        by_second = a.square().sum(-1, keepdim=True)
        first -= share * part / by_first.clamp_min(LEAST) * (key.mT @ back)
        second -= share * (1 - part) / by_second * (a.mT @ error)
    return pairs.right(act(pairs.keys @ first) @ second - before)


def best(pairs: Pairs, hidden: int, activation: str, parts: tuple[float, ...]) -> float:
    """What two layers get with the best settings."""
    tried = itertools.product(SHARES, SCALES, parts)
    return max(deep(pairs, hidden, activation, *settings) for settings in tried)


@torch.no_grad()
def main() -> None:
    counts, rows = (128, 512), []
    for width in (32, 45, 90):
        given = [Pairs.of(width, count) for count in counts]
        found = [max(matrix(pairs, share) for share in SHARES) for pairs in given]
        rows.append([f"matrix, width {width}", f"{width**2:,}", *(f"{x:.0%}" for x in found), ""])
    given = [Pairs.of(32, count) for count in counts]
    for hidden, activation in itertools.product((32, 128), ACTIVATIONS):
        found = [
            *(best(pairs, hidden, activation, PARTS) for pairs in given),
            best(given[0], hidden, activation, (0.0,)),
        ]
        name = f"depth 2, width 32, {hidden} hidden, {activation}"
        rows.append([name, f"{2 * 32 * hidden:,}", *(f"{x:.0%}" for x in found)])
    print(markdown_table(["memory", "numbers", *(f"{n} pairs" for n in counts), "128, first layer fixed"], rows))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
