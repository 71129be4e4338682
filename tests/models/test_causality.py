"""The future changes nothing, the distant past does, other rows and other calls do not."""

import pytest
import torch

# Chunks of 4, segments of 8, a window of 6: on, before and after their boundaries.
TIMES = [1, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17, 23, 25]


def test_later_tokens_change_nothing_earlier(model, some_tokens):
    tokens = some_tokens(2, 26)
    logits, _ = model(tokens)
    for t in TIMES:
        changed = tokens.clone()
        changed[:, t:] = (tokens[:, t:] + 1 + some_tokens(2, 26 - t) % 48) % 50
        again, _ = model(changed)
        assert (logits[:, :t] - again[:, :t]).abs().max() <= 1e-12, t
        assert (logits[:, t] - again[:, t]).abs().max() > 1e-6, t


def test_later_tokens_change_nothing_earlier_after_a_state(model, some_tokens):
    _, state = model(some_tokens(2, 13))
    tokens = some_tokens(2, 20)
    logits, _ = model(tokens, state)
    for t in (1, 3, 4, 11, 12):
        changed = tokens.clone()
        changed[:, t:] = (tokens[:, t:] + 1) % 50
        assert (logits[:, :t] - model(changed, state)[0][:, :t]).abs().max() <= 1e-12, t


def test_the_first_token_is_felt_five_segments_later_through_the_memory(config, model, some_tokens):
    tokens = some_tokens(2, 60)
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % 50
    difference = (model(tokens)[0] - model(changed)[0])[:, 5 * 8 :].abs().amax(-1)
    if config.variant == "attention":  # three windows of six and three convolutions see no further than 24 tokens back
        assert difference.max() == 0
    else:
        assert difference.min() > 1e-9


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
def test_it_is_the_memory_that_carries_it(variant, new_config, new_model, some_tokens):
    """With every write and forget gate shut a memory variant forgets like the control."""
    model = new_model(new_config(variant=variant))
    for name, parameter in model.named_parameters():
        if "gates.step" in name or "gates.forget" in name:
            parameter.fill_(-100.0 if name.endswith("bias") else 0.0)
    tokens = some_tokens(1, 60)
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % 50
    assert (model(tokens)[0] - model(changed)[0])[:, 5 * 8 :].abs().max() == 0


def test_rows_do_not_influence_each_other(model, some_tokens):
    tokens = some_tokens(3, 21)
    logits, state = model(tokens)
    changed = tokens.clone()
    changed[1] = some_tokens(1, 21)[0]
    again, after = model(changed)
    assert (logits != again).any(-1).any(-1).tolist() == [False, True, False]
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor[[0, 2]], after.tensors()[name][[0, 2]]), name
    alone, _ = model(tokens[1:2])
    torch.testing.assert_close(alone[0], logits[1], rtol=0, atol=1e-12)


def test_calls_are_pure(model, some_tokens):
    tokens = some_tokens(2, 21)
    logits, state = model(tokens)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    continued, _ = model(tokens, state)
    model(some_tokens(2, 9))
    assert torch.equal(model(tokens)[0], logits)
    assert torch.equal(model(tokens, state)[0], continued)
    assert not torch.equal(continued, logits)
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_there_is_nothing_random_in_a_model(model, some_tokens):
    tokens = some_tokens(1, 21)
    model.train()
    first = model(tokens)[0]
    torch.manual_seed(99)
    assert torch.equal(model(tokens)[0], first)
