"""The configuration: a round trip through JSON, and every impossible value named."""

import json
from pathlib import Path

import pytest

from titans.errors import TitansError
from titans.memory import MemoryConfig
from titans.models import TitansConfig


def test_round_trip_through_json(config):
    values = json.loads(json.dumps(config.to_dict()))
    assert TitansConfig.from_dict(values) == config


def test_missing_keys_get_their_defaults():
    assert TitansConfig.from_dict({"variant": "mac", "memory": {"depth": 3}}) == TitansConfig(
        variant="mac", memory=MemoryConfig(depth=3)
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"variant": "rnn"}, "TitansConfig.variant should be one of mac, mag, mal, lmm, attention, not 'rnn'"),
        ({"vocab_size": 0}, "vocab_size is 0; it must be at least 1"),
        ({"dim": 0}, "dim is 0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"segment_size": 0}, "segment_size is 0"),
        ({"window_size": -1}, "window_size is -1"),
        ({"num_persistent_tokens": -1}, "num_persistent_tokens is -1; it must be at least 0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_heads": 3}, "dim is 16; it must be a multiple of 2 num_heads = 6"),
        (
            {"dim": 24, "num_heads": 3, "memory": {"num_heads": 5}},
            "dim is 24; it must be a multiple of memory.num_heads",
        ),
        ({"variant": "mac", "segment_size": 10}, "segment_size is 10; it must be a multiple of memory.chunk_size = 4"),
        (
            {"variant": "mac", "num_memory_tokens": 3},
            "num_memory_tokens is 3; it must be a divisor of segment_size = 8",
        ),
        ({"variant": "mac", "num_memory_tokens": 0}, "num_memory_tokens is 0"),
        ({"variant": "mac", "num_memory_tokens": 16}, "num_memory_tokens is 16"),
        ({"memory_layers": (3,)}, "memory_layers is .3,.; it must be block numbers from 0 to 2"),
        ({"memory_layers": (-1,)}, "memory_layers"),
        ({"variant": "lmm", "num_heads": 3, "memory_layers": (0,)}, "dim is 16; it must be a multiple of 2 num_heads"),
        ({"rope_base": 0.0}, "rope_base is 0.0"),
        ({"rope_base": float("nan")}, "rope_base should be a finite number"),
        ({"window_size": 2.5}, "window_size should be a whole number, not a number"),
        ({"memory_layers": 3}, "memory_layers should be a list, not a whole number"),
        ({"norm_eps": -1.0}, "norm_eps is -1.0"),
    ],
)
def test_impossible_values_are_named(changes, match, new_config):
    with pytest.raises(ValueError, match=match) as caught:
        new_config(**changes)
    assert "\n" not in str(caught.value)


def test_the_memory_is_no_dictionary():
    with pytest.raises(ValueError, match=r"TitansConfig\.memory should be a MemoryConfig, not an object"):
        TitansConfig(memory={"depth": 2})


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"dimm": 3}, "impossible configuration in a.json: unknown key dimm; was it written by a newer version"),
        ({"memory": {"dept": 3}}, r"unknown key memory\.dept"),
        ({"dim": "wide"}, "impossible configuration in a.json: dim should be a whole number, not text"),
        ({"dim": 64.0}, "dim should be a whole number, not a number"),
        ({"vocab_size": True}, "vocab_size should be a whole number, not true or false"),
        ({"rope_base": float("inf")}, "rope_base should be a finite number"),
        ({"memory": {"momentum": "no"}}, "memory.momentum should be true or false, not text"),
        ({"variant": ["mac"]}, "variant should be one of mac, mag"),
        ({"dim": -5}, "TitansConfig.dim is -5"),
        ({"memory": {"depth": 9}}, "memory.MemoryConfig.depth is 9"),
        ({"memory": None}, "impossible configuration"),
        ({"memory": [1]}, "impossible configuration"),
        ({"memory_layers": 3}, "memory_layers should be a list, not a whole number"),
    ],
)
def test_bad_files_are_named(values, match):
    with pytest.raises(TitansError, match=match):
        TitansConfig.from_dict(values, Path("a.json"))


def test_a_memory_alone_needs_no_attention_heads(new_config):
    assert new_config(variant="lmm", num_heads=3).num_heads == 3


def test_a_list_of_blocks_is_a_tuple_of_them(new_config):
    listed = new_config(memory_layers=[0, 2])
    assert listed == TitansConfig.from_dict(listed.to_dict())


def test_which_blocks_have_a_memory(new_config):
    assert [new_config(memory_layers=(0, 2)).has_memory(layer) for layer in range(3)] == [True, False, True]
    assert all(new_config().has_memory(layer) for layer in range(3))
    assert not any(new_config(variant="attention", memory_layers=(0,)).has_memory(layer) for layer in range(3))


def test_width_of_the_swiglu(new_config):
    assert new_config(dim=96).mlp_size == 256
    assert new_config(dim=16).mlp_size == 48  # 42.7 rounded up to a multiple of 8
    assert new_config(hidden_size=20).mlp_size == 20


def test_a_configuration_can_be_a_key_and_cannot_change(new_config):
    assert len({new_config(), new_config(), new_config(dim=32)}) == 2
    with pytest.raises(AttributeError):
        new_config().dim = 3
