"""Windowed attention in blocks against attention written down token by token."""

import math

import pytest
import torch
from torch import Tensor

from titans.memory.layout import document_positions
from titans.models.attention import SlidingWindowAttention, rotary_angles, rotate
from titans.models.state import AttentionState


@pytest.fixture(params=[1, 5, 64])
def window(request) -> int:
    return request.param


@pytest.fixture(params=[0, 3])
def attention(request, window, new_config) -> tuple[SlidingWindowAttention, AttentionState]:
    config = new_config(variant="attention", window_size=window, num_persistent_tokens=request.param)
    module = SlidingWindowAttention(config).double().requires_grad_(False)
    return module, module.begin(2, config, torch.zeros(2, 1, dtype=torch.float64))


def token_by_token(module: SlidingWindowAttention, x: Tensor, documents: list[list[int]]) -> Tensor:
    """x [T, dim]: each query against the keys that it may see, one at a time."""
    window, heads = module.window, module.num_heads
    y = torch.zeros_like(x)
    for document in documents:
        part = x[document].unsqueeze(0)
        position = torch.arange(len(document)).unsqueeze(0)
        tail = torch.zeros(1, 3, 3 * x.shape[1], dtype=x.dtype)
        q, k, v, _ = module.project(part, tail, position, None, None)
        persistent_k = persistent_v = torch.zeros(0, heads, q.shape[-1], dtype=x.dtype)
        if module.persistent is not None:
            _, pk, pv = module.project_qkv(module.persistent).chunk(3, -1)
            persistent_k, persistent_v = (p.unflatten(-1, (heads, -1)) for p in (pk, pv))
            persistent_k = persistent_k * torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])  # pairs (i, i + 4), two of them turned
        for i, t in enumerate(document):
            seen = slice(max(0, i - window + 1), i + 1)
            keys = torch.cat([persistent_k, k[0, seen]])  # [S, H, d]
            values = torch.cat([persistent_v, v[0, seen]])
            scores = torch.einsum("hd,shd->hs", q[0, i], keys) / math.sqrt(q.shape[-1])
            y[t] = module.project_out(torch.einsum("hs,shd->hd", scores.softmax(-1), values).flatten())
    return y


@pytest.mark.parametrize("length", [1, 4, 5, 6, 17])
def test_each_token_sees_its_window(attention, length):
    module, state = attention
    x = torch.randn(2, length, 16, dtype=torch.float64)
    y, _ = module(x, state, torch.arange(length).expand(2, length), None, None)
    for row in range(2):
        expected = token_by_token(module, x[row], [list(range(length))])
        torch.testing.assert_close(y[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [[1] * 17, [4, 5, 6, 2], [16, 1], [3, 14]])
def test_pieces_are_the_whole(attention, steps):
    module, state = attention
    x = torch.randn(2, 17, 16, dtype=torch.float64)
    positions = torch.arange(17).expand(2, 17)
    whole, _ = module(x, state, positions, None, None)
    pieces, t = [], 0
    for step in steps:
        y, state = module(x[:, t : t + step], state, positions[:, t : t + step], None, None)
        pieces.append(y)
        t += step
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-12)


def test_documents_do_not_see_each_other(attention, documents):
    module, state = attention
    x = torch.randn(2, 17, 16, dtype=torch.float64)
    reset = torch.rand(2, 17) < 0.2
    mask = torch.ones(2, 17, dtype=torch.bool)
    position = document_positions(torch.zeros(2, dtype=torch.int64), 17, None, reset)
    y, _ = module(x, state, position, None, reset)
    for row in range(2):
        expected = token_by_token(module, x[row], documents(mask[row], reset[row]))
        torch.testing.assert_close(y[row], expected, rtol=0, atol=1e-12)


def test_the_state_has_a_fixed_size(attention, window):
    module, state = attention
    for length in (1, 30):
        x = torch.randn(2, length, 16, dtype=torch.float64)
        _, after = module(x, state, torch.arange(length).expand(2, length), None, None)
        assert after.keys.shape == state.keys.shape == (2, window, 2, 8)


@pytest.mark.parametrize("steps", [[17], [1] * 17, [4, 5, 6, 2], [16, 1]])
def test_each_token_lies_in_the_slot_of_its_position(attention, window, steps):
    module, state = attention
    x = torch.randn(2, 17, 16, dtype=torch.float64)
    mask, reset = torch.arange(17) < torch.tensor([[17], [15]]), torch.zeros(2, 17, dtype=torch.bool)
    reset[0, 14] = True  # its document has 3 tokens when the call ends
    position = document_positions(torch.zeros(2, dtype=torch.int64), 17, mask, reset)
    _, k, v, _ = module.project(x, state.tail, position, mask, reset)
    t = 0
    for step in steps:
        part = slice(t, t + step)
        _, state = module(x[:, part], state, position[:, part], mask[:, part], reset[:, part])
        t += step
    keys, values = torch.zeros_like(state.keys), torch.zeros_like(state.values)
    for row, tokens in ((0, range(14, 17)), (1, range(15))):
        for t in tokens:
            keys[row, position[row, t] % window], values[row, position[row, t] % window] = k[row, t], v[row, t]
    torch.testing.assert_close(state.keys, keys, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.values, values, rtol=0, atol=1e-12)


def test_only_what_the_window_holds_counts_and_not_where_it_lies(new_config):
    config = new_config(variant="attention", window_size=5, num_persistent_tokens=3)
    module = SlidingWindowAttention(config).double().requires_grad_(False)
    assert module.persistent is not None
    module.persistent.mul_(10)
    x, state = torch.randn(1, 20, 16, dtype=torch.float64), module.begin(1, config, torch.zeros(1, dtype=torch.float64))
    found = [module(x, state, start + torch.arange(20).unsqueeze(0), None, None)[0] for start in (0, 1000, 2_000_000)]
    for y in found[1:]:
        torch.testing.assert_close(y[:, 8:], found[0][:, 8:], rtol=0, atol=1e-8)


def test_rotation_depends_on_the_distance_only():
    q, k = torch.randn(1, 1, 2, 8, dtype=torch.float64), torch.randn(1, 1, 2, 8, dtype=torch.float64)

    def score(i: int, j: int) -> Tensor:
        angles = [rotary_angles(torch.tensor([[position]]), 8, 10_000.0) for position in (i, j)]
        return (rotate(q, *angles[0]) * rotate(k, *angles[1])).sum(-1)

    torch.testing.assert_close(score(9, 4), score(5, 0))
    assert (score(9, 4) - score(9, 5)).abs().max() > 1e-3
    torch.testing.assert_close(rotate(q, *rotary_angles(torch.tensor([[0]]), 8, 10_000.0)), q)


@pytest.mark.parametrize("far", [10_000_000, 2**31 + 1])
def test_rotation_is_exact_far_out(far):
    q, k = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 2, 8)

    def score(start: int) -> Tensor:
        angles = [rotary_angles(torch.tensor([[start + offset]]), 8, 10_000.0) for offset in (5, 0)]
        return (rotate(q, *angles[0]) * rotate(k, *angles[1])).sum(-1)

    torch.testing.assert_close(score(far), score(0), rtol=0, atol=1e-5)


def test_persistent_tokens_are_seen_by_all(new_config):
    config = new_config(variant="attention", num_persistent_tokens=3)
    module = SlidingWindowAttention(config)
    x, position = torch.randn(1, 20, 16), torch.arange(20).unsqueeze(0)
    before, _ = module(x, module.begin(1, config, x), position, None, None)
    with torch.no_grad():
        module.persistent[1] += 1  # pyright: ignore
    after, _ = module(x, module.begin(1, config, x), position, None, None)
    assert ((before - after).abs().amax(-1) > 1e-5).all()
