"""Every baseline keeps what the interface promises: any split, no future, rows apart, states that stay as they are."""

import pytest
import torch

from titans.baselines import (
    NAMES,
    BaselineConfig,
    BaselineLM,
    BaselineState,
    RowByRow,
    baseline_like,
    load_model,
    match_parameters,
)
from titans.errors import TitansError
from titans.files import save_tensors
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM

CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32; chunks of other lengths add up in another order


@pytest.fixture(params=NAMES)
def model(request):
    torch.manual_seed(0)
    return BaselineLM(BaselineConfig(name=request.param, dim=32, num_layers=2, num_heads=2, window_size=16)).eval()


def tokens(rows=2, length=70):
    return torch.randint(256, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dim", [32, 256])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("delta", "delta-neg", "gated-delta-neg")])
def test_weights_suit_the_width(name, dim):
    torch.manual_seed(0)
    model = BaselineLM(BaselineConfig(name=name, dim=dim, num_layers=2, num_heads=2))
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d)]
    ratios = [layer.weight.std().item() * (3 * layer.weight[0].numel()) ** 0.5 for layer in layers]
    assert min(ratios) > 0.8
    assert max(ratios) < (4 if name.startswith("mamba") else 1.2)  # they bring weights of their own


def test_a_token_is_still_heard_behind_the_last_block(model):
    x, heard = tokens(), []
    model.backbone.model.layers[-1].register_forward_hook(lambda _block, _given, out: heard.append(out))
    with torch.no_grad():
        model(x)
        entered = model.backbone.embedding_norm(model.backbone.embedding[x])
    (last,) = heard
    assert torch.cosine_similarity(last, entered, dim=-1).mean() > 0.7


def in_pieces(model, x, sizes):
    """The logits of all, and the state after the last."""
    state, parts = None, []
    for piece in x.split(list(sizes), dim=1):
        logits, state = model(piece, state)
        parts.append(logits)
    return torch.cat(parts, 1), state


def test_any_split_equals_one_call(model):
    x = tokens()
    with torch.no_grad():
        whole, end = model(x)
        for cuts in ([1, 69], [40, 30], [3, 1, 1, 60, 5]):
            logits, state = in_pieces(model, x, cuts)
            torch.testing.assert_close(logits, whole, **CLOSE)
            assert (state.position == 70).all()
            for one, other in zip(state.tensors().values(), end.tensors().values(), strict=True):
                torch.testing.assert_close(one, other, **CLOSE)


def test_the_last_logits_alone_are_those_of_all(model):
    x = tokens()
    with torch.no_grad():
        (whole, _), (last, after) = model(x), model(x, logits_to_keep=5)
    torch.testing.assert_close(last, whole[:, -5:], **CLOSE)
    assert (after.position == 70).all()
    with pytest.raises(ValueError, match="logits_to_keep is -1; it must be a whole number"):
        model(x, logits_to_keep=-1)


def test_the_future_changes_nothing(model):
    x = tokens()
    for t in (1, 17, 64, 69):
        y = x.clone()
        y[:, t:] = (y[:, t:] + 7) % 256
        with torch.no_grad():
            before, after = model(x)[0], model(y)[0]
        torch.testing.assert_close(before[:, :t], after[:, :t], **CLOSE)
        assert (before[:, t:] - after[:, t:]).abs().max() > 1e-3


def test_rows_do_not_meet(model):
    x = tokens(3)
    with torch.no_grad():
        together, alone = model(x)[0], torch.cat([model(row[None])[0] for row in x])
    torch.testing.assert_close(together, alone, **CLOSE)


def test_a_state_stays_as_it_is(model):
    with torch.no_grad():
        _, state = model(tokens())
        kept = {name: tensor.clone() for name, tensor in state.tensors().items()}
        first, _ = model(tokens(length=3), state)
        again, _ = model(tokens(length=3), state)
    assert torch.equal(first, again)
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, kept[name]), name


def test_gradients_with_a_carried_state(model):
    x = tokens()
    _, state = model(x)
    loss, _ = model.loss(x, x.roll(-1, 1), state=state.detach())
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_gradients_through_a_state_are_those_of_one_call(model):
    x = tokens(length=40)

    def gradients(*cuts: int) -> list[torch.Tensor]:
        logits, _ = in_pieces(model, x, cuts)
        loss = logits[:, -3:].square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    for one, other in zip(gradients(40), gradients(36, 1, 1, 2), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_a_reset_of_all_rows_begins_anew(model):
    x, reset = tokens(), torch.zeros(2, 70, dtype=torch.bool)
    with torch.no_grad():
        fresh, state = model(x)
        reset[:, 0] = True
        torch.testing.assert_close(model(x, state, reset=reset)[0], fresh, rtol=0, atol=0)
    reset[0, 0] = False
    with pytest.raises(ValueError, match="in some rows only"):
        model(x, state, reset=reset)


def test_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, BaselineLM)
    with torch.no_grad():
        logits, state = model(tokens())
        assert torch.equal(loaded.eval()(tokens())[0], logits)
        state.save(tmp_path / "state.safetensors")
        again = BaselineState.load(tmp_path / "state.safetensors")
        assert torch.equal(model(tokens(length=2), again)[0], model(tokens(length=2), state)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [150_000, 600_000])
def test_as_many_parameters_as_asked_for(name, target):
    config = BaselineConfig(name=name, dim=64 if target < 400_000 else 128, num_layers=2, num_heads=2)
    found = BaselineLM(match_parameters(config, target)).num_parameters
    assert abs(found - target) < 0.05 * target


def test_one_of_ours_is_loaded_too(tmp_path):
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path)
    assert isinstance(load_model(tmp_path), TitansLM)


def test_neither_kind(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TitansError, match="neither that of a Titans model nor of a baseline"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "gpt"}, "BaselineConfig.name"),
        ({"name": "llama", "dim": 30, "num_heads": 4}, "dim is 30; it must be a multiple of 2 num_heads = 8"),
        ({"name": "llama-swa", "window_size": 1}, "window_size is 1; it must be at least 2"),
        ({"name": "mamba", "conv_size": 0}, "conv_size is 0; it must be at least 1"),
        ({"name": "hybrid", "num_layers": 1}, "num_layers is 1; it must be at least 2"),
    ],
)
def test_impossible_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        BaselineConfig(**settings)


@pytest.mark.parametrize(("name", "negative"), [("delta", False), ("delta-neg", True), ("gated-delta-neg", True)])
def test_with_the_delta_rule_alone_every_block_is_recurrent(name, negative):
    backbone = BaselineLM(BaselineConfig(name=name, dim=32, num_layers=4, num_heads=2)).backbone.model
    assert all(layer.linear_attn.allow_neg_eigval == negative for layer in backbone.layers)  # pyright: ignore


@pytest.mark.parametrize(("name", "forgets"), [("delta", False), ("delta-neg", False), ("gated-delta-neg", True)])
def test_what_is_not_written_over_is_forgotten_by_gates_alone(name, forgets):
    model = BaselineLM(BaselineConfig(name=name, dim=32, num_layers=1, num_heads=2)).eval()
    layer = model.backbone.model.layers[0].linear_attn  # pyright: ignore
    with torch.no_grad():
        _, written = model(tokens())
        layer.b_proj.register_forward_hook(lambda _layer, _given, out: torch.full_like(out, -torch.inf))  # no step
        _, later = model(tokens(), written)
    before, after = (state.layers[0].memory.norm() for state in (written, later))
    assert (after < 0.9 * before) if forgets else torch.equal(before, after)


@pytest.mark.parametrize(
    ("dim", "num_heads", "shape"), [(192, 2, (6, 64)), (128, 2, (4, 64)), (32, 2, (2, 32)), (80, 2, (4, 40))]
)
def test_heads_of_mamba_2_have_64_channels_at_most(dim, num_heads, shape):
    model = BaselineLM(BaselineConfig(name="mamba2", dim=dim, num_layers=1, num_heads=num_heads))
    made = model.backbone.model.config
    assert (made.num_heads, made.head_dim) == shape


def test_documents_that_begin_anywhere_are_read_row_by_row(model):
    x = tokens(3)
    reset = torch.zeros(3, 70, dtype=torch.bool)
    for row, starts in enumerate(((0, 5, 40), (0,), (0, 69))):
        reset[row, list(starts)] = True
    reader = RowByRow(model)
    with torch.no_grad():
        alone = [
            torch.cat([model(piece[None])[0][0] for piece in x[row].tensor_split(cuts)])
            for row, cuts in enumerate(([5, 40], [], [69]))
        ]
        whole, _ = reader(x, reset=reset)
        first, state = reader(x[:, :37], reset=reset[:, :37])
        second, after = reader(x[:, 37:], state, reset[:, 37:])
        last, _ = reader(x, reset=reset, logits_to_keep=2)
    torch.testing.assert_close(whole, torch.stack(alone), **CLOSE)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **CLOSE)
    torch.testing.assert_close(last, whole[:, -2:], **CLOSE)
    assert [int(one.position) for one in after] == [30, 70, 1]


@pytest.mark.parametrize("window", [2, 5])
def test_a_sliding_window_has_as_many_tokens_as_ours(window):
    like = TitansConfig(dim=32, num_layers=1, num_heads=2, window_size=window)
    model, x = BaselineLM(baseline_like("llama-swa", like)).eval(), tokens(1, 20)
    with torch.no_grad():
        before = model(x)[0][0, -1]
        for back in range(10):
            other = x.clone()
            other[0, -1 - back] = (x[0, -1 - back] + 7) % 256
            changed = (model(other)[0][0, -1] - before).abs().max() > 1e-4
            assert changed == (back < window), back


def with_memory(name, **memory):
    return baseline_like(name, TitansConfig(dim=32, num_layers=4, num_heads=2, memory=MemoryConfig(**memory)))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("llama")])
def test_a_convolution_reaches_as_far_back_as_the_memorys(name):
    model, x = BaselineLM(with_memory(name, conv_size=9)).eval(), tokens(2, 40)
    assert {module.kernel_size for module in model.modules() if isinstance(module, torch.nn.Conv1d)} == {(9,)}
    with torch.no_grad():
        whole, _ = model(x)
        split, _ = in_pieces(model, x, [20, 5, 5, 5, 5])  # shorter than the convolution
    torch.testing.assert_close(split, whole, **CLOSE)


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("gated-delta", {"conv_size": 2}),
        ("gated-delta", {"conv_size": 9, "convolution": False}),
        ("llama", {"conv_size": 9}),
    ],
)
def test_where_the_memorys_is_no_measure_a_convolution_has_its_own_length(name, memory):
    assert with_memory(name, **memory).conv_size == BaselineConfig.conv_size


def test_loss_is_cross_entropy_over_labels_that_count(model):
    x, labels, weights = tokens(), tokens().roll(-1, 1), torch.rand(2, 70)
    labels[0, 5] = -100
    with torch.no_grad():
        logits, _ = model(x)
        each = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        counted = weights * (labels != -100)
        for given, parts in ((weights, counted), (None, (counted > 0).float())):
            expected = (each * parts).sum() / parts.sum()
            torch.testing.assert_close(model.loss(x, labels, weights=given)[0], expected, **CLOSE)


def test_states_that_do_not_fit_are_refused(model, tmp_path):
    with torch.no_grad():
        _, state = model(tokens(length=8))
    other = BaselineLM(BaselineConfig(name="llama", dim=16, num_layers=2, num_heads=2))
    with pytest.raises(ValueError, match="another configuration"):
        other(tokens(), state)
    path = tmp_path / "state.safetensors"
    state.map(lambda tensor: tensor if tensor.dtype == torch.int64 else tensor * torch.nan).save(path)
    with pytest.raises(TitansError, match="holds NaN or infinite values"):
        BaselineState.load(path)
    state.map(lambda tensor: tensor - 9 if tensor.dtype == torch.int64 else tensor).save(path)
    with pytest.raises(TitansError, match=r"is damaged: position is \[-1"):
        BaselineState.load(path)
    found = state.tensors()
    found.pop(next(name for name in found if name.startswith("layers.1")))
    save_tensors(path, "baseline state", found, state.config.to_dict())
    with pytest.raises(TitansError, match=r"is incomplete: it has no tensor 'layers\.1"):
        BaselineState.load(path)


def test_gated_delta_begins_with_a_long_memory():
    model = BaselineLM(BaselineConfig(name="gated-delta", dim=32, num_layers=2, num_heads=2))
    steps = [torch.nn.functional.softplus(p) for name, p in model.named_parameters() if name.endswith("dt_bias")]
    assert len(steps) == 2
    assert all(0.0009 < step < 0.11 for step in torch.cat(steps))
