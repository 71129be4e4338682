"""The model as a whole: every parameter learns, files come back, bad input is named."""

import json

import pytest
import torch

from titans.errors import NonFiniteError, TitansError
from titans.files import load_tensors, save_tensors
from titans.models import LMState, TitansConfig, TitansLM
from titans.models.arguments import check_tokens
from titans.models.generation import generate
from titans.models.language_model import empty_state


def test_every_parameter_learns_in_one_step(config, some_tokens):
    model = TitansLM(config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tokens = some_tokens(4, 30)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert parameter.grad.abs().max() > 0, name
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("num_heads", [1, 4])
def test_every_memory_head_learns(num_heads, new_config, some_tokens):
    model = TitansLM(new_config(variant="mac", memory={"num_heads": num_heads}))
    tokens = some_tokens(4, 30)
    model.loss(tokens[:, :-1], tokens[:, 1:])[0].backward()
    for block in model.blocks:
        for weight in block.mixer.memory.initial_weights:  # pyright: ignore
            assert weight.shape[0] == num_heads
            assert (weight.grad.abs().amax((1, 2)) > 0).all()


def test_training_learns(config):
    model = TitansLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = (torch.arange(25) * 7 % 50).expand(2, -1)
    losses = []
    for _ in range(12):
        loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_loss_is_cross_entropy_over_labels_that_count(model, some_tokens):
    tokens, labels = some_tokens(2, 9), some_tokens(2, 9)
    labels[0, :5] = -100
    logits, _ = model(tokens)
    picked = logits.log_softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    for weights in (None, torch.rand(2, 9)):
        counted = (labels >= 0) * (1 if weights is None else weights)
        expected = -(counted * picked).sum() / counted.sum()
        found, _ = model.loss(tokens, labels, weights=weights)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_the_last_logits_alone_are_those_of_all(model, some_tokens):
    tokens = some_tokens(2, 21)
    reset = torch.zeros(2, 21, dtype=torch.bool)
    reset[0, 9] = True
    mask = torch.ones(2, 21, dtype=torch.bool)
    mask[0, :4] = mask[1, 8:11] = mask[1, 19:] = False  # padding before, a hole, and padding behind
    for options in ({}, {"reset": reset}, {"mask": mask}, {"mask": mask, "reset": reset}):
        logits, state = model(tokens, **options)
        present = options.get("mask", torch.ones_like(mask))
        for kept in (1, 5, 21, 30):
            last, after = model(tokens, logits_to_keep=kept, **options)
            assert last.shape == logits[:, -kept:].shape
            torch.testing.assert_close(last[present[:, -kept:]], logits[:, -kept:][present[:, -kept:]])
            for one, other in zip(after.tensors().values(), state.tensors().values(), strict=True):
                assert torch.equal(one, other)


def test_a_saved_model_comes_back(config, model, some_tokens, tmp_path):
    model.save(tmp_path / "model")
    loaded = TitansLM.load(tmp_path / "model").requires_grad_(False)  # as `model`: torch multiplies in another order
    assert loaded.config == config
    tokens = some_tokens(2, 21)
    logits, state = model(tokens)
    again, after = loaded(tokens)
    assert torch.equal(again, logits)
    assert torch.equal(loaded(tokens, state)[0], model(tokens, after)[0])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_a_single_precision_model_comes_back_as_one(new_config, some_tokens, tmp_path):
    model = TitansLM(new_config(variant="mac"))
    model.save(tmp_path)
    loaded = TitansLM.load(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded(some_tokens(1, 9).fill_(3))[0], model(some_tokens(1, 9).fill_(3))[0])


def test_the_head_is_tied_and_counted_once(new_config):
    model = TitansLM(new_config(variant="lmm"))
    assert model.num_parameters == sum(p.numel() for p in model.parameters())
    assert sum(p.shape == (50, 16) for p in model.parameters()) == 1


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "attention"])
def test_autocast_keeps_the_state_in_single_precision(variant, new_config, some_tokens):
    model = TitansLM(new_config(variant=variant))
    tokens = some_tokens(2, 40)
    expected, _ = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens)
        more, state = model(tokens[:, :1], state)
        loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    assert all(t.dtype == torch.float32 for t in state.tensors().values() if t.is_floating_point())
    assert bool(torch.isfinite(logits).all())
    assert bool(torch.isfinite(more).all())
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "attention"])
def test_a_half_precision_model_works(variant, new_config, some_tokens):
    model = TitansLM(new_config(variant=variant)).requires_grad_(False)
    tokens = some_tokens(2, 20)
    expected, _ = model(tokens)
    logits, state = model.bfloat16()(tokens)
    _, state = model(tokens[:, :1], state)
    assert (logits.float() - expected).abs().max() < 0.2 * expected.abs().max()
    memories = [block.memory for block in state.blocks if block.memory is not None]
    for memory in memories:
        assert all(t.dtype == torch.float32 for t in memory.tensors().values() if t.is_floating_point())


def test_a_long_run_stays_finite(config):
    tokens = torch.randint(0, 50, (1, 1000))
    tokens[:, 300:800] = 7
    model = TitansLM(config).requires_grad_(False)
    logits, state = model(tokens)
    assert bool(torch.isfinite(logits).all())
    assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values())


def test_the_empty_state_has_the_shape_of_the_first(config, model):
    shapes = {name: t.shape for name, t in model.begin(1).tensors().items()}
    assert {name: t.shape for name, t in empty_state(config).tensors().items()} == shapes


def refused(match: str, call, *arguments, **named) -> None:
    with pytest.raises((ValueError, TitansError), match=match) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)


def test_bad_inputs_are_named(model, new_config, new_model, some_tokens):
    tokens = some_tokens(2, 9)
    refused(r"tokens must be \[B, T\] int64, got \(9,\)", model, tokens[0])
    refused(r"tokens must be \[B, T\] int64, got \(2, 9\) torch.float32", model, tokens.float())
    refused(r"tokens must be \[B, T\] int64, got \(2, 9\) torch.int32", model, tokens.int())
    refused(r"tokens is empty: \(2, 0\)", model, tokens[:, :0])
    refused(r"tokens is empty: \(0, 9\)", model, tokens[:0])
    for bad in (50, -1):
        wrong = tokens.clone()
        wrong[1, 3] = bad
        refused(rf"token id {bad} is outside the vocabulary 0 \.\.\. 49", model, wrong)
    refused(r"mask must be \[B, T\] = \(2, 9\), got \(2, 8\)", model, tokens, mask=torch.ones(2, 8))
    refused(r"reset must be \[B, T\] = \(2, 9\), got \(1, 9\)", model, tokens, reset=torch.ones(1, 9))
    for bad in (-1, 1.5, True, None):
        refused(f"logits_to_keep is {bad!r}; it must be a whole number", model, tokens, logits_to_keep=bad)
    _, state = model(some_tokens(3, 4))
    refused("the state has 3 rows, tokens has 2", model, tokens, state)
    refused("the state is on meta, the rest of the call on cpu", model, tokens, model(tokens)[1].to("meta"))
    refused("the state must be of type LMState, got BlockState", model, tokens, state.blocks[0])
    refused(r"labels must be \[B, T\] = \(2, 9\) int64, got \(2, 8\)", model.loss, tokens, tokens[:, 1:])
    refused(r"labels must be .*, got \(2, 9\) torch.float32", model.loss, tokens, tokens.float())
    refused("labels must be a tensor, got list", model.loss, tokens, tokens.tolist())
    refused("tokens must be a tensor, got list", model.loss, tokens.tolist(), tokens)
    refused(r"label 50 is outside the vocabulary 0 \.\.\. 49", model.loss, tokens, torch.full_like(tokens, 50))
    refused(r"weights must be \[B, T\]", model.loss, tokens, tokens, weights=torch.ones(2, 8))
    other = new_model(new_config(variant="mag", window_size=7))
    refused("another configuration", model, tokens, other(tokens)[1])


def test_state_files_that_do_not_fit(model, new_config, new_model, some_tokens, tmp_path):
    path = tmp_path / "state"
    refused("state does not exist", LMState.load, path)
    _, state = model(some_tokens(2, 9))
    state.save(path)
    assert LMState.load(path).rows == 2
    other = new_model(new_config(variant="mag", window_size=7))
    refused("state belongs to a model with another configuration", LMState.load, path, other)
    whole = path.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused("state is damaged, truncated or of another format", LMState.load, path)
    path.write_text("just text, and not a state")
    refused("state is damaged, truncated or of another format", LMState.load, path)
    nowhere = state.map(lambda x: x if x.is_floating_point() else torch.full_like(x, -5))
    nowhere.save(path)
    refused(r"state is damaged: (.*\.)?position is \[-5, -5\]; copy or make it again", LMState.load, path)
    state.save(path)
    tensors, header = load_tensors(path, "model state")
    lost = next(name for name in tensors if name != "position")
    save_tensors(path, "model state", {name: x for name, x in tensors.items() if name != lost}, header)
    refused(f"state is damaged: the state belongs to another model: it differs in {lost}; copy or", LMState.load, path)
    model.save(tmp_path)
    refused("holds a model, not a model state", LMState.load, tmp_path / "model.safetensors")


def test_a_state_of_other_weights_is_refused(new_config, new_model, some_tokens, tmp_path):
    model = new_model(new_config(variant="mag"))
    state = model(some_tokens(1, 9))[1]
    state.save(tmp_path / "anyone's")
    state.save(tmp_path / "its", model)
    other = TitansLM(model.config).double()
    assert LMState.load(tmp_path / "anyone's", other).config == other.config
    refused("belongs to a model with other weights", LMState.load, tmp_path / "its", other)
    assert torch.equal(LMState.load(tmp_path / "its", model).position, state.position)
    with torch.no_grad():  # the same, but for most rows of its embedding
        other.load_state_dict(model.state_dict())
        other.embedding.weight[1:] += 0.1
    refused("belongs to a model with other weights", LMState.load, tmp_path / "its", other)
    assert LMState.load(tmp_path / "its", model.bfloat16()).rows == 1  # the same weights, rounded


def test_a_state_that_is_not_finite_is_refused(new_config, new_model, some_tokens, tmp_path):
    _, state = new_model(new_config(variant="mag"))(some_tokens(1, 9))
    state.map(lambda t: t * float("nan") if t.is_floating_point() else t).save(tmp_path / "state")
    refused("holds NaN or infinite values", LMState.load, tmp_path / "state")


def test_a_state_in_an_older_layout_is_refused(new_config, new_model, some_tokens, tmp_path, monkeypatch):
    _, state = new_model(new_config(variant="mag"))(some_tokens(1, 9))
    monkeypatch.setattr("titans.models.state.LAYOUT", 1)
    state.save(tmp_path / "state")
    monkeypatch.undo()
    refused("was written by another version of titans", LMState.load, tmp_path / "state")


def test_the_loss_without_any_label_is_zero(new_config, some_tokens):
    model, tokens = TitansLM(new_config(variant="mag")), some_tokens(1, 5)
    loss, _ = model.loss(tokens, torch.full_like(tokens, -100))
    loss.backward()
    assert loss.item() == 0
    assert all(bool((parameter.grad == 0).all()) for parameter in model.parameters())


def test_model_folders_that_do_not_fit(new_config, new_model, tmp_path):
    refused(r"config\.json does not exist", TitansLM.load, tmp_path)
    model = new_model(new_config(variant="mag"))
    model.save(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"

    changed = json.loads(config.read_text())
    config.write_text(json.dumps({**changed, "dim": 32}))
    refused("model.safetensors does not fit .*config.json", TitansLM.load, tmp_path)
    config.write_text(json.dumps({**changed, "num_layers": 10**12}))  # more than there is memory or time for
    refused("model.safetensors does not fit .*config.json", TitansLM.load, tmp_path)
    config.write_text(json.dumps({**changed, "depth": 32}))
    refused(r"in .*config\.json: unknown key depth", TitansLM.load, tmp_path)
    config.write_text("[" * 100_000)
    refused(r"config\.json is damaged", TitansLM.load, tmp_path)
    config.write_text("{")
    refused(r"config\.json is damaged", TitansLM.load, tmp_path)
    config.write_text("[]")
    refused(r"config\.json should hold a JSON object", TitansLM.load, tmp_path)
    config.write_text(json.dumps(changed))

    with torch.no_grad():
        model.embedding.weight[3, 5] = float("inf")
    model.save(tmp_path)
    refused(r"model\.safetensors holds NaN or infinite values in embedding\.weight", TitansLM.load, tmp_path)
    with torch.no_grad():
        model.embedding.weight[3, 5] = 0
    model.save(tmp_path)

    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(r"model\.safetensors is damaged, truncated", TitansLM.load, tmp_path)
    model(torch.zeros(1, 1, dtype=torch.int64))[1].save(weights)
    refused("holds a model state, not a model", TitansLM.load, tmp_path)
    weights.unlink()
    refused(r"model\.safetensors does not exist", TitansLM.load, tmp_path)


def test_interrupted_saving_leaves_the_old_model(new_config, new_model, tmp_path, monkeypatch, some_tokens):
    model = new_model(new_config(variant="lmm"))
    model.save(tmp_path)
    expected = model(some_tokens(1, 5).fill_(1))[0]

    def full(*_args, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("titans.files.save_file", full)
    refused("disk full while writing", model.save, tmp_path)
    assert torch.equal(TitansLM.load(tmp_path)(some_tokens(1, 5).fill_(1))[0], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_public_names():
    import titans

    assert titans.TitansLM is TitansLM
    assert titans.TitansConfig is TitansConfig
    for name in titans.__all__:
        assert getattr(titans, name) is not None


def test_token_ids_do_not_break_a_compiled_graph():
    torch._dynamo.reset()
    check = torch.compile(lambda tokens: check_tokens(tokens, 8), backend="eager", fullgraph=True)
    check(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("variant", ["mac", "mag", "attention"])
def test_a_model_built_without_memory_is_whole_once_its_weights_are_loaded(new_config, variant, some_tokens):
    model = TitansLM(new_config(variant=variant))
    with torch.device("meta"):
        built = TitansLM(new_config(variant=variant))
    built.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert not list(built.buffers())  # nothing that the weights do not have
    tokens = some_tokens(2, 20)
    assert torch.equal(built(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
def test_what_is_not_finite_is_not_written_into_a_memory(variant, new_config, new_model):
    model = new_model(new_config(variant=variant))
    model.embedding.weight[3] = torch.nan
    model(torch.tensor([[1, 2]]))
    with pytest.raises(NonFiniteError):
        model(torch.tensor([[1, 2, 3]]))


def test_a_model_that_predicts_no_numbers_does_not_write_on(new_config, new_model):
    model = new_model(new_config(variant="attention"))  # no memory would say so
    model.embedding.weight[3] = torch.nan
    with pytest.raises(NonFiniteError, match="predicts NaN"):
        generate(model, [torch.tensor([1, 2, 3])], max_new_tokens=2)
