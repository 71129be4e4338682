"""A model of transformers that goes on from a state, given and returned as a value.

transformers keeps what a model remembers in a cache that every call changes. Here each call fills a cache of its own
from the state and empties it into the next one, so that earlier states stay as they are.
"""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from titans.baselines.architectures import build
from titans.baselines.config import BaselineConfig
from titans.baselines.state import AttentionState, BaselineState, RecurrentState

EPSILON = 1e-6  # of the norms of transformers' models


class Backbone(nn.Module):
    """Tokens in, outputs and the next state out."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.model = build(config)
        self.embedding_norm = nn.RMSNorm(config.dim, eps=EPSILON)  # as in ours: else the first block drowns the token
        # One cache, called differently from model to model before transformers 5.24.
        names = inspect.signature(self.model.forward).parameters.keys()
        (self.cache_name,) = names & {"cache", "past_key_values", "cache_params"}

    @property
    def embedding(self) -> Tensor:
        """[vocab_size, dim]"""
        return self.model.get_input_embeddings().weight  # pyright: ignore[reportCallIssue]

    def forward(self, tokens: Tensor, state: BaselineState | None) -> tuple[Tensor, BaselineState]:
        """tokens [B, T] int64 to outputs [B, T, dim] and the state after them."""
        cache = DynamicCache(config=self.model.config)  # pyright: ignore[reportArgumentType]
        pieces = [tokens]
        position = tokens.new_zeros(len(tokens))
        if state is not None:
            position = state.position
            _fill(cache, state)
            if self.config.name == "mamba":  # begins every longer stretch with an empty memory, without a word
                pieces = tokens.split(1, dim=1)
        options = {self.cache_name: cache, **self._options(tokens)}
        with _spared(cache):
            outputs = [self.model(inputs_embeds=self._embedded(piece), **options).last_hidden_state for piece in pieces]
        layers = tuple(_emptied(layer) for layer in cache.layers)
        return torch.cat(outputs, dim=1), BaselineState(position + tokens.shape[1], layers, self.config)

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.embedding_norm(F.embedding(tokens, self.embedding))

    def _options(self, tokens: Tensor) -> dict:
        if "delta" not in self.config.name:
            return {}
        # transformers asks the cache for the length that attention has seen, and here nothing attends.
        masks = {"full_attention": None, "linear_attention": None}
        return {"attention_mask": masks, "position_ids": torch.arange(tokens.shape[1], device=tokens.device)[None]}


def _fill(cache: DynamicCache, state: BaselineState) -> None:
    """Copies a state into an empty cache."""
    for layer, part in zip(cache.layers, state.layers, strict=True):
        if isinstance(layer, LinearAttentionLayer) and isinstance(part, RecurrentState):
            layer.update_conv_state(part.tail)
            layer.update_recurrent_state(part.memory)
        elif isinstance(layer, DynamicLayer) and isinstance(part, AttentionState):
            layer.update(part.keys, part.values)
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = int(state.position[0])


def _emptied(layer: object) -> AttentionState | RecurrentState:
    if isinstance(layer, LinearAttentionLayer):
        return RecurrentState(layer.conv_states[0], layer.recurrent_states[0])  # pyright: ignore[reportArgumentType]
    assert isinstance(layer, DynamicLayer)
    # What has left the window is not kept alive by what is still in it.
    return AttentionState(layer.keys.clone(), layer.values.clone())  # pyright: ignore


def _spared(cache: DynamicCache) -> torch.autograd.graph.saved_tensors_hooks:
    """While it holds, autograd keeps copies of the memories in `cache`, which transformers overwrites after use."""
    layers = [layer for layer in cache.layers if isinstance(layer, LinearAttentionLayer)]
    memories = {memory.data_ptr() for layer in layers if (memory := layer.recurrent_states[0]) is not None}
    return torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensor.clone() if tensor.data_ptr() in memories else tensor, lambda tensor: tensor
    )
