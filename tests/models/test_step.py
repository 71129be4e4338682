"""One token in place is one token of `forward`: every variant, rows that pause, calls of both kinds in turns."""

import pytest
import torch
from torch import Tensor

from titans.models import LMState, TitansLM

LENGTH = 27  # more than three segments, six chunks and four windows


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def assert_same_state(found: LMState, expected: LMState) -> None:
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def assert_equal_bits(found: LMState, expected: dict[str, Tensor]) -> None:
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.tensors().items())


@pytest.mark.parametrize("kept", [True, False], ids=["with-workspaces", "without"])
@pytest.mark.parametrize("prompt", [0, 11])
def test_steps_in_place_are_the_full_forward(model, some_tokens, prompt, kept):
    tokens = some_tokens(2, prompt + LENGTH)
    expected, end = model(tokens)
    state = (model(tokens[:, :prompt])[1] if prompt else model.begin(2)).own()
    places = [tensor.data_ptr() for tensor in state.tensors().values()]
    workspaces = model.workspaces(state) if kept else None
    for t in range(prompt, prompt + LENGTH):
        assert_same(model.step_(tokens[:, t], state, workspaces=workspaces), expected[:, t])
    assert_same_state(state, end)
    assert [tensor.data_ptr() for tensor in state.tensors().values()] == places


def test_steps_and_calls_in_turns(model, some_tokens):
    tokens = some_tokens(2, 40)
    expected, end = model(tokens)
    state, t = model.begin(2), 0
    for steps, length in ((3, 6), (10, 1), (1, 7), (5, 7)):
        state = state.own()
        workspaces = model.workspaces(state)
        for _ in range(steps):
            assert_same(model.step_(tokens[:, t], state, workspaces=workspaces), expected[:, t])
            t += 1
        before = {name: tensor.clone() for name, tensor in state.tensors().items()}
        logits, after = model(tokens[:, t : t + length], state)
        assert_same(logits, expected[:, t : t + length])
        assert_equal_bits(state, before)  # `forward` never changes what it is given
        state, t = after, t + length
    assert t == 40
    assert_same_state(state, end)


def test_a_workspace_notices_that_its_state_has_moved_on(model, some_tokens):
    tokens = some_tokens(1, 30)
    expected, _ = model(tokens)
    state = model.begin(1).own()
    workspaces = model.workspaces(state)
    for t in range(6):
        model.step_(tokens[:, t], state, workspaces=workspaces)
    state.copy_(model(tokens[:, 6:15], state)[1])
    for t in range(15, 30):
        assert_same(model.step_(tokens[:, t], state, workspaces=workspaces), expected[:, t])


def test_rows_that_are_not_running_stay_exactly_as_they_are(model, some_tokens):
    tokens = some_tokens(3, LENGTH)
    running = torch.rand(LENGTH, 3) < 0.6
    state = model.begin(3).own()
    workspaces = model.workspaces(state)
    found: list[list[Tensor]] = [[], [], []]
    for t in range(LENGTH):
        before = {name: tensor.clone() for name, tensor in state.tensors().items()}
        logits = model.step_(tokens[:, t], state, running[t], workspaces)
        for name, tensor in state.tensors().items():
            assert torch.equal(tensor[~running[t]], before[name][~running[t]]), name
        for row in running[t].nonzero().flatten().tolist():
            found[row].append(logits[row])
    for row in range(3):
        alone, _ = model(tokens[row, running[:, row]].unsqueeze(0))
        assert_same(torch.stack(found[row]), alone[0])


def test_a_row_in_a_batch_is_the_row_alone(model, some_tokens):
    tokens = some_tokens(4, LENGTH)
    together = model.begin(4).own()
    alone = model.begin(1).own()
    for t in range(LENGTH):
        logits = model.step_(tokens[:, t], together)
        assert_same(logits[2], model.step_(tokens[2:3, t], alone)[0])
    assert_same_state(together.select(torch.tensor([2])), alone)


def test_single_precision_is_close(config, new_model, some_tokens):
    model = new_model(config).float()
    tokens = some_tokens(2, LENGTH)
    expected, _ = new_model(config)(tokens)
    state = model.begin(2).own()
    workspaces = model.workspaces(state)
    for t in range(LENGTH):
        logits = model.step_(tokens[:, t], state, workspaces=workspaces)
        torch.testing.assert_close(logits.double(), expected[:, t], rtol=1e-3, atol=1e-3)


def test_compiled_without_a_break_it_is_the_same(config, new_model, some_tokens):
    model = new_model(config.replace(num_layers=1 + max(config.memory_layers or (0,))))
    tokens = some_tokens(2, 9)  # a whole segment and two chunks
    plain, state = model.begin(2).own(), model.begin(2).own()
    torch._dynamo.reset()
    compiled = torch.compile(TitansLM.step_, backend="eager", fullgraph=True)
    for t in range(9):
        running = torch.tensor([True, t % 3 != 1])
        expected = model.step_(tokens[:, t], plain, running)
        assert_same(compiled(model, tokens[:, t], state, running)[running], expected[running])
    assert_same_state(state, plain)


def test_what_cannot_be_stepped_is_named(model, some_tokens):
    state = model.begin(2).own()
    with pytest.raises(ValueError, match=r"tokens must be \[B\] int64, got \(2, 1\)"):
        model.step_(some_tokens(2, 1), state)
    with pytest.raises(ValueError, match="the state has 2 rows, tokens has 3"):
        model.step_(some_tokens(1, 3)[0], state)
    with pytest.raises(ValueError, match=r"running must be \[B\] bool, got \(3,\)"):
        model.step_(some_tokens(1, 2)[0], state, torch.ones(3, dtype=torch.bool))


def as_it_came(_model: TitansLM, state: LMState) -> LMState:
    return state


def moved(_model: TitansLM, state: LMState) -> LMState:
    return state.own().to("cpu")


def after_a_call_with_resets(model: TitansLM, state: LMState) -> LMState:
    tokens = torch.zeros(state.rows, 1, dtype=torch.int64)
    return model(tokens, state, reset=torch.zeros_like(tokens, dtype=torch.bool))[1]


def after_an_absent_token(model: TitansLM, state: LMState) -> LMState:
    tokens = torch.zeros(state.rows, 1, dtype=torch.int64)
    return model(tokens, state, mask=torch.zeros_like(tokens, dtype=torch.bool))[1]


@pytest.mark.parametrize("copied", [as_it_came, moved, after_a_call_with_resets, after_an_absent_token])
@pytest.mark.parametrize("read", [0, 3, 8])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_state_that_may_share_its_tensors_is_refused_and_kept(model, some_tokens, read, rows, copied):
    tokens = some_tokens(rows, read + 1)
    state = copied(model, model(tokens[:, :read])[1] if read else model.begin(rows))
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    parameters = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"pass state\.own\(\)"):
        model.step_(tokens[:, -1], state)
    assert_equal_bits(state, before)
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in model.state_dict().items())
    assert model.step_(tokens[:, -1], state.own()).isfinite().all()


@pytest.mark.parametrize("length", [1, 2])
def test_what_a_call_returns_is_not_changed_by_steps_of_what_it_was_given(model, some_tokens, length):
    tokens = some_tokens(2, 11 + LENGTH)
    state = model(tokens[:, :9])[1].own()
    _, after = model(tokens[:, 9 : 9 + length], state)
    before = {name: tensor.clone() for name, tensor in after.tensors().items()}
    for t in range(9, 9 + LENGTH):
        model.step_(tokens[:, t], state)
    assert_equal_bits(after, before)


def test_one_workspace_for_each_block(model):
    state = model.begin(1).own()
    with pytest.raises(ValueError, match=r"workspaces has 0 entries; there are \d+ blocks"):
        model.step_(torch.zeros(1, dtype=torch.int64), state, workspaces=[])
