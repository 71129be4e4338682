"""Generation: one token at a time is the full forward, rows are alone, draws are as asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans.models import TitansLM
from titans.models.generation import Decoder, _draw, generate, prefill


@pytest.fixture
def any_model(config, new_model) -> TitansLM:
    return new_model(config)


@pytest.fixture
def mac(new_config, new_model) -> TitansLM:
    return new_model(new_config(variant="mac"))


@pytest.fixture
def prompts(some_tokens) -> list[Tensor]:
    """Shorter than a segment of 8, one segment, longer and no multiple."""
    return [some_tokens(1, length)[0] for length in (3, 8, 21)]


def greedy(model: TitansLM, prompt: Tensor, count: int) -> Tensor:
    """By the full forward pass over everything, every time."""
    tokens = prompt
    for _ in range(count):
        logits, _ = model(tokens.unsqueeze(0))
        tokens = torch.cat([tokens, logits[0, -1].argmax().unsqueeze(0)])
    return tokens[len(prompt) :]


def test_greedy_is_the_likeliest_token_each_time(any_model, prompts):
    for prompt in prompts:
        (new,), state = generate(any_model, [prompt], max_new_tokens=12)
        assert torch.equal(new, greedy(any_model, prompt, 12))
        assert state.position.tolist() == [len(prompt) + 12]


def test_a_batch_of_prompts_is_each_alone(any_model, prompts):
    together, state = generate(any_model, prompts, max_new_tokens=12)
    for row, prompt in enumerate(prompts):
        (alone,), _ = generate(any_model, [prompt], max_new_tokens=12)
        assert torch.equal(together[row], alone)
        expected = any_model(torch.cat([prompt, alone]).unsqueeze(0))[1]
        for name, tensor in state.select(torch.tensor([row])).tensors().items():
            torch.testing.assert_close(tensor, expected.tensors()[name], rtol=0, atol=1e-10)


def test_prefill_gives_the_logits_after_each_last_token(any_model, prompts):
    logits, _ = prefill(any_model, prompts, None)
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], any_model(prompt.unsqueeze(0))[0][0, -1], rtol=0, atol=1e-10)


def test_a_fork_goes_its_own_way(any_model, some_tokens):
    said, first, second = some_tokens(2, 19), some_tokens(2, 9), some_tokens(2, 9)
    _, state = any_model(said[:, :-3])
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    decode = Decoder(any_model, state)
    for token in said[:, -3:].unbind(1):
        decode(token)
    fork = Decoder(any_model, decode.state)
    for mine, its in zip(first.unbind(1), second.unbind(1), strict=True):
        logits, forked = decode(mine), fork(its)
    for found, heard in ((logits, first), (forked, second)):
        expected, _ = any_model(torch.cat([said, heard], 1))
        torch.testing.assert_close(found, expected[:, -1], rtol=0, atol=1e-10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_going_on_from_a_state_is_one_longer_run(mac, prompts, some_tokens, temperature):
    first, state = generate(mac, prompts, max_new_tokens=5, temperature=temperature)
    more = [some_tokens(1, 4)[0] for _ in prompts]
    second, _ = generate(mac, more, max_new_tokens=6, temperature=temperature, state=state, seed=3)
    whole = [torch.cat(parts) for parts in zip(prompts, first, more, strict=True)]
    expected, _ = generate(mac, whole, max_new_tokens=6, temperature=temperature, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(second, expected, strict=True))


def test_a_seed_decides_every_draw(mac, prompts):
    def draw(seed: int) -> list[list[int]]:
        new, _ = generate(mac, prompts, max_new_tokens=12, temperature=1.5, seed=seed)
        return [row.tolist() for row in new]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_equal_prompts_get_different_draws(mac, prompts):
    new, _ = generate(mac, [prompts[0]] * 3, max_new_tokens=12, temperature=1.5)
    assert len({tuple(row.tolist()) for row in new}) == 3


def test_draws_do_not_touch_the_global_generator(mac, prompts):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate(mac, prompts, max_new_tokens=3, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_stop_sequences_end_their_row_only(mac, prompts):
    free, _ = generate(mac, prompts, max_new_tokens=12, temperature=1.0, seed=4)
    stop = free[1][4:6]
    stopped, state = generate(
        mac, prompts, max_new_tokens=12, temperature=1.0, seed=4, stop=[torch.tensor([49, 49, 49]), stop]
    )
    # Where each row first ends with it.
    ends = [next((i + 2 for i in range(11) if torch.equal(row[i : i + 2], stop)), 12) for row in free]
    assert ends[1] <= 6
    for row, end, unstopped in zip(stopped, ends, free, strict=True):
        assert torch.equal(row, unstopped[:end])
    assert state.position.tolist() == [len(prompt) + end for prompt, end in zip(prompts, ends, strict=True)]
    expected = mac(torch.cat([prompts[1], stopped[1]]).unsqueeze(0))[1]
    for name, tensor in state.select(torch.tensor([1])).tensors().items():  # the state stays where the row ended
        torch.testing.assert_close(tensor, expected.tensors()[name], rtol=0, atol=1e-10)


def test_generation_ends_when_every_row_has(mac, prompts):
    free, _ = generate(mac, prompts[:1], max_new_tokens=12)
    seen: list[list[int]] = []
    (new,), _ = generate(
        mac, prompts[:1], max_new_tokens=12, stop=[free[0][2:3]], on_token=lambda tokens: seen.append(tokens.tolist())
    )
    assert len(new) <= 3
    assert [token for (token,) in seen] == new.tolist()


def test_every_token_is_announced_and_ended_rows_are_marked(mac, prompts):
    free, _ = generate(mac, prompts, max_new_tokens=8, temperature=1.0)
    seen: list[Tensor] = []
    new, _ = generate(
        mac, prompts, max_new_tokens=8, temperature=1.0, stop=[free[0][1:3]], on_token=lambda t: seen.append(t.clone())
    )
    announced = torch.stack(seen, 1)
    for row in range(3):
        assert announced[row][announced[row] >= 0].tolist() == new[row].tolist()
        assert (announced[row, len(new[row]) :] == -1).all()


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -20.0])


def frequencies(**settings) -> Tensor:
    options = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
    generator = torch.Generator().manual_seed(0)
    draws = [
        int(_draw(LOGITS, options["temperature"], options["top_k"], options["top_p"], generator)) for _ in range(4000)
    ]
    return torch.bincount(torch.tensor(draws), minlength=5) / 4000


def test_temperature_scales_the_logits():
    for temperature in (0.5, 1.0, 2.0):
        expected = F.softmax(LOGITS / temperature, -1)
        assert (frequencies(temperature=temperature) - expected).abs().max() < 0.03
    assert frequencies(temperature=0.0).tolist() == [1, 0, 0, 0, 0]
    assert frequencies(temperature=1e-4).tolist() == [1, 0, 0, 0, 0]


def test_top_k_keeps_the_k_likeliest():
    expected = F.softmax(LOGITS[:2], -1)
    found = frequencies(top_k=2)
    assert (found[:2] - expected).abs().max() < 0.03
    assert (found[2:] == 0).all()
    assert frequencies(top_k=1).tolist() == [1, 0, 0, 0, 0]
    assert torch.equal(frequencies(top_k=100), frequencies())


def test_top_k_keeps_k_where_several_are_as_likely():
    drawn = {int(_draw(torch.zeros(10), 1.0, 3, None, torch.Generator().manual_seed(seed))) for seed in range(100)}
    assert len(drawn) == 3


def test_top_p_keeps_the_smallest_set_with_that_probability():
    probabilities = F.softmax(LOGITS, -1)  # 0.64, 0.24, 0.09, 0.03, 0
    found = frequencies(top_p=0.7)
    assert (found[:2] - probabilities[:2] / probabilities[:2].sum()).abs().max() < 0.03
    assert (found[2:] == 0).all()
    assert frequencies(top_p=0.01).tolist() == [1, 0, 0, 0, 0]
    assert torch.equal(frequencies(top_p=1.0), frequencies())


def test_top_p_is_of_what_top_k_has_left():
    # The three likeliest have 0.67, 0.24 and 0.09 of what they have together, 0.64, 0.24 and 0.09 of all.
    for top_k, top_p, left in ((3, 0.8, 2), (3, 0.9, 2), (3, 0.95, 3), (1, 0.99, 1)):
        found = frequencies(top_k=top_k, top_p=top_p)
        assert (found[:left] - F.softmax(LOGITS[:left], -1)).abs().max() < 0.03
        assert (found[left:] == 0).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be a whole number, at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; it must be a whole number"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1e-300}, "temperature is 1e-300; it must be 0 .greedy. or at least 1e-06"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"stop": torch.tensor([5, 6])}, r"stop must be a list of int64 tensors \[length\], one per place to stop at"),
        ({"stop": [[1, 2]]}, "stop must be a list"),
        ({"stop": "ab"}, "stop must be a list"),
        ({"top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_impossible_settings_are_named(settings, match, mac, prompts):
    with pytest.raises(ValueError, match=match):
        generate(mac, prompts, **{"max_new_tokens": 2, **settings})


def test_bad_prompts_are_named(mac, prompts):
    with pytest.raises(ValueError, match="every prompt needs at least one token"):
        generate(mac, [prompts[0], prompts[0][:0]], max_new_tokens=2)
    with pytest.raises(ValueError, match="every prompt needs at least one token"):
        generate(mac, [], max_new_tokens=2)
    with pytest.raises(ValueError, match="token id 77 is outside the vocabulary"):
        generate(mac, [torch.tensor([1, 77])], max_new_tokens=2)
    _, state = generate(mac, prompts, max_new_tokens=1)
    with pytest.raises(ValueError, match="the state has 3 rows, tokens has 1"):
        generate(mac, prompts[:1], max_new_tokens=1, state=state)


def test_a_prompt_may_be_read_from_another_stream_of_the_same_model(mac, prompts):
    # What serving does: one system prompt, its state given to many rows.
    _, system = prefill(mac, [prompts[2]], None)
    shared = system.select(torch.zeros(3, dtype=torch.int64))
    new, _ = generate(mac, prompts, max_new_tokens=5, state=shared)
    for row, prompt in enumerate(prompts):
        (alone,), _ = generate(mac, [torch.cat([prompts[2], prompt])], max_new_tokens=5)
        assert torch.equal(new[row], alone)
