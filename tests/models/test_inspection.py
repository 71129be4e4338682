"""What each variant's memory is seen to read, against what it must read."""

import pytest
import torch

from titans.memory.trace import MemoryTrace, trace
from titans.models.inspection import memory_traces


def assert_same(found: MemoryTrace, expected: MemoryTrace) -> None:
    for name, values in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], values, rtol=1e-9, atol=1e-11)


def inputs_of_memories(model, tokens) -> dict:
    """What each memory has to read [1, T, dim], by hooks on the layer that makes it."""
    seen = {}
    hooks = []
    for number, block in enumerate(model.blocks):
        if model.config.has_memory(number):
            source = block.mixer.norm if model.config.variant == "mac" else block.mixer_norm

            def keep(module, arguments, output, number=number) -> None:
                seen.setdefault(number, []).append(output)

            hooks.append(source.register_forward_hook(keep))
    model(tokens)
    for hook in hooks:
        hook.remove()
    return {number: torch.cat(parts, 1)[:, : tokens.shape[1]] for number, parts in seen.items()}


def test_a_trace_is_that_of_what_the_memory_reads(config, model, some_tokens):
    tokens = some_tokens(1, 21)
    found = memory_traces(model, tokens[0])
    assert list(found) == [number for number in range(config.num_layers) if config.has_memory(number)]
    for number, x in inputs_of_memories(model, tokens).items():
        expected, _ = trace(model.blocks[number].mixer.memory, x)
        assert_same(found[number], expected.map(lambda field: field[0]))


@pytest.mark.parametrize("piece", [1, 5, 8])
def test_pieces_change_nothing(model, some_tokens, piece):
    tokens = some_tokens(1, 21)[0]
    counts = []
    found = memory_traces(model, tokens, piece=piece, on_read=counts.append)
    assert sum(counts) == 21
    for number, expected in memory_traces(model, tokens).items():
        assert_same(found[number], expected)


def test_only_the_blocks_asked_for_are_watched(new_config, new_model, some_tokens):
    model = new_model(new_config(variant="mag"))
    tokens = some_tokens(1, 9)[0]
    found = memory_traces(model, tokens, blocks=[2])
    assert list(found) == [2]
    assert_same(found[2], memory_traces(model, tokens)[2])
