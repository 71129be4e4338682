"""The variants against their equations, written down for whole segments with the parts that other tests check."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory import MemoryConfig
from titans.models import TitansConfig, TitansLM
from titans.models.attention import rotary_angles, rotate
from titans.models.blocks import Gate, MemoryAsContext
from titans.models.config import VARIANTS

LENGTH, SEGMENT = 21, 8


def mixer_of(model: TitansLM, layer: int = 0):
    return model.blocks[layer].mixer


def stream_call(model: TitansLM, tokens: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
    """The input and output of one block's mixer during a forward pass."""
    seen: list[Tensor] = []
    handle = mixer_of(model, layer).register_forward_hook(lambda _, args, out: seen.extend([args[0], out[0]]))
    model(tokens)
    handle.remove()
    return seen[0], seen[1]


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def windowed(mixer, x: Tensor) -> Tensor:
    begun = mixer.begin(x).attention
    return mixer.attention(x, begun, torch.arange(LENGTH).expand(len(x), LENGTH), None, None)[0]


def test_control_is_attention_and_nothing_else(new_model, new_config, some_tokens):
    model = new_model(new_config(variant="attention"))
    x, o = stream_call(model, some_tokens(2, LENGTH))
    assert_same(o, windowed(mixer_of(model), x))
    assert not any("memory" in name for name, _ in model.named_parameters())


def test_memory_alone_is_the_memory_and_nothing_else(new_model, new_config, some_tokens):
    model = new_model(new_config(variant="lmm"))
    x, o = stream_call(model, some_tokens(2, LENGTH))
    assert_same(o, mixer_of(model).memory(x)[0])
    assert not any("attention" in name for name, _ in model.named_parameters())


def test_memory_as_gate(new_model, new_config, some_tokens):
    model = new_model(new_config(variant="mag"))
    x, o = stream_call(model, some_tokens(2, LENGTH))
    mixer = mixer_of(model)
    assert_same(o, mixer.gate(windowed(mixer, x), mixer.memory(x)[0]))


def test_memory_as_layer(new_model, new_config, some_tokens):
    model = new_model(new_config(variant="mal"))
    x, o = stream_call(model, some_tokens(2, LENGTH))
    mixer = mixer_of(model)
    m = mixer.memory(x)[0]
    assert_same(o, m + windowed(mixer, mixer.norm(x + m)))


@pytest.mark.parametrize("num_memory_tokens", [None, 8, 2, 1])
def test_memory_as_context(num_memory_tokens, new_model, new_config, some_tokens):
    """Equations 21-25, segment by segment, with the mask that keeps token i from what token j > i asked for."""
    model = new_model(new_config(variant="mac", num_memory_tokens=num_memory_tokens))
    x, o = stream_call(model, some_tokens(1, LENGTH))
    mixer = mixer_of(model)
    assert isinstance(mixer, MemoryAsContext)
    attention, memory = mixer.attention, mixer.memory
    position = torch.arange(LENGTH).unsqueeze(0)
    begun = mixer.begin(x)
    q, k, v, _ = attention.project(x, begun.attention.tail, position, None, None)
    asked, _ = memory.queries(x, begun.context.tail, position, None, None)
    angles = rotary_angles(position, q.shape[-1], attention.rope_base)
    stride = SEGMENT // (num_memory_tokens or SEGMENT)
    state, outputs = begun.memory, []
    for start in range(0, LENGTH, SEGMENT):
        s = slice(start, min(start + SEGMENT, LENGTH))
        h = memory.recall(
            asked[:, s], memory.output_gate(x[:, s]), state.weights
        )  # eq. 21: as the memory was before the segment
        _, hk, hv = F.linear(h, attention.project_qkv.weight).chunk(3, -1)
        hk, hv = (part.unflatten(-1, (2, -1)) for part in (hk, hv))
        hk = rotate(hk, *(angle[:, s] for angle in angles))
        _, pk, pv = F.linear(attention.persistent, attention.project_qkv.weight).chunk(3, -1)
        pk, pv = (part.unflatten(-1, (2, -1)) for part in (pk, pv))
        pk = pk * torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])  # where the queries are turned they are not asked
        y = torch.zeros_like(x[:, s])
        for i in range(y.shape[1]):
            offered = [j for j in range(i + 1) if (j + 1) % stride == 0]
            keys = torch.cat([pk, hk[0, offered], k[0, s][: i + 1]])
            values = torch.cat([pv, hv[0, offered], v[0, s][: i + 1]])
            scores = torch.einsum("hd,shd->hs", q[0, start + i], keys) / q.shape[-1] ** 0.5
            mixed = torch.einsum("hs,shd->hd", scores.softmax(-1), values)
            y[:, i] = attention.project_out(mixed.flatten())  # eq. 23
        m, state = memory(mixer.norm(x[:, s] + y), state)  # eq. 24, with a residual connection
        outputs.append(mixer.gate(y, m))  # eq. 25
    assert_same(o, torch.cat(outputs, 1))


def test_the_gate_lets_each_through_the_other(new_config):
    gate = Gate(new_config())
    y, m = torch.randn(3, 16), torch.randn(3, 16)
    y_unit, m_unit = (z / z.square().mean(-1, keepdim=True).sqrt() for z in (y, m))
    expected = y_unit * torch.sigmoid(m_unit) + m_unit * torch.sigmoid(y_unit)
    torch.testing.assert_close(gate(y, m), expected, rtol=1e-4, atol=1e-4)
    assert gate(y, torch.zeros_like(m)).abs().max() > 0.1


def test_blocks_without_a_memory_are_attention_blocks(new_model, new_config):
    model = new_model(new_config(variant="mac", memory_layers=(1,)))
    assert [type(block.mixer).__name__ for block in model.blocks] == ["ControlMixer", "MemoryAsContext", "ControlMixer"]


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "attention"])
def test_persistent_tokens_matter_where_there_is_attention(variant, new_model, new_config, some_tokens):
    with_tokens = {name for name, _ in new_model(new_config(variant=variant)).named_parameters()}
    without = {name for name, _ in new_model(new_config(variant=variant, num_persistent_tokens=0)).named_parameters()}
    assert (with_tokens != without) == (variant != "lmm")
    assert new_model(new_config(variant=variant, num_persistent_tokens=0))(some_tokens(1, 20))[0].isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_convolution_of_one_tap_needs_no_past(variant):
    memory = MemoryConfig(num_heads=2, chunk_size=4, conv_size=1)
    model = TitansLM(TitansConfig(variant=variant, dim=16, num_layers=2, num_heads=2, segment_size=8, memory=memory))
    tokens = torch.randint(256, (2, 21))
    begun, state = model(tokens[:, :9])
    later, _ = model(tokens[:, 9:], state)
    torch.testing.assert_close(torch.cat([begun, later], 1), model(tokens)[0], atol=1e-4, rtol=1e-4)


def test_memory_as_context_recalls_and_keeps_only_what_attention_sees(new_model, new_config, some_tokens, monkeypatch):
    model = new_model(new_config(variant="mac", num_memory_tokens=2))
    memory, asked = mixer_of(model).memory, []
    recall = memory.recall

    def counted(questions, gate, weights):
        asked.append(questions.shape[1])
        return recall(questions, gate, weights)

    monkeypatch.setattr(memory, "recall", counted)
    _, state = model(some_tokens(1, 2 * SEGMENT))
    assert asked == [2, 2]
    context = state.blocks[0].context
    assert context.keys.shape[1] == context.values.shape[1] == 2
