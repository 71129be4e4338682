import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from titans.bench import memory
from titans.bench.memory import Size, flops
from titans.memory import chunk_titans

SIZES = [
    Size(B=2, T=16, H=2, d=8, expansion=2, C=4),
    Size(B=1, T=16, H=1, d=8, expansion=3, C=8),
    Size(B=1, T=16, H=2, d=8, expansion=1, C=4, depth=1),
    Size(B=1, T=8, H=1, d=8, expansion=2, C=4, depth=3),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_counted_operations_are_the_products_that_the_dual_form_computes(size: Size):
    inputs, weights, norm = memory._inputs(size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        chunk_titans(*inputs, weights, norm, chunk_size=size.C, guard_limit=None)
    # Not counted: every layer's weights of past gradients (2 C^2), and momentum carried to every token (2 C).
    gates = (2 * size.C**2 + 2 * size.C) * size.depth
    assert counter.get_total_flops() == flops(size, False) + size.tokens * size.H * gates


def test_the_formulas_in_words():
    deep, linear = Size(B=2, T=16, H=4, d=48, expansion=4, C=16), Size(B=2, T=16, H=4, d=48, expansion=4, depth=1)
    d, h, C, times = deep.d, deep.h, deep.C, 2 * 16 * 4
    assert flops(deep, False) == times * (22 * d * h + 4 * C * (d + h))
    assert flops(linear, False) == times * (10 * d**2 + 4 * C * d)
    assert flops(deep, True) == 3 * flops(deep, False)


def test_every_form_runs_both_ways():
    for contest in memory.contests(quick=True):
        for contender in contest.contenders:
            if "native" not in contender.name:  # needs a compiler
                contender.make().run()


def test_peers_come_last_and_ratios_still_refer_to_ours():
    peer = memory.Contender(name="peer", make=lambda: None, tokens=1, ours=False)
    layers = [
        each for each in memory.contests(quick=True, peers=lambda size, training: [peer]) if "layer" in each.title
    ]
    assert [each.contenders[-1].name for each in layers] == ["peer", "peer"]
    assert {each.base for each in layers} == {"native, chunk 16"}
