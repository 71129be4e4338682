"""Short-term memory: causal attention over a sliding window, with persistent tokens in front.

Letters: B rows, T tokens, H heads, d head dimension, N window, b tokens per block of queries, P persistent tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans.memory.convolution import causal_convolution, convolution_weight, tie_keys_to_queries, tie_output_to_values
from titans.memory.kernels.elementwise import rotate
from titans.memory.kernels.short_convolution import Finish
from titans.memory.layout import take
from titans.models.config import TitansConfig
from titans.models.state import AttentionState
from titans.models.token import Token


class Attention(nn.Module):
    """Projections that all variants share: q, k, v with convolution and rotary positions, persistent tokens, output."""

    def __init__(self, config: TitansConfig, behind: int = 1) -> None:
        """behind: how many tokens before the queries the keys begin (`convolution_weight`)."""
        super().__init__()
        self.num_heads, self.rope_base, self.window = config.num_heads, config.rope_base, config.window_size
        dim, conv = config.dim, config.memory
        self.project_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.conv_weight = convolution_weight(dim, conv.conv_size, behind=behind) if conv.convolution else None
        tie_keys_to_queries(self.project_qkv)
        self.project_out = nn.Linear(dim, dim, bias=False)
        tie_output_to_values(self.project_out, self.project_qkv)
        persistent = config.num_persistent_tokens
        self.persistent = nn.Parameter(torch.randn(persistent, dim)) if persistent else None

    def project(
        self, x: Tensor, tail: Tensor, position: Tensor, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, T, dim] -> rotated q and k, v [B, T, H, d], and the convolution's new tail."""
        qkv = self.project_qkv(x)
        parts, tail = self._convolve(qkv, tail, position, mask, reset)
        q, k, v = self._heads(parts, rotary_angles(position, x.shape[-1] // self.num_heads, self.rope_base), x.dtype)
        return q, k, v, tail

    def project_(self, x: Tensor, tail: Tensor, token: Token) -> tuple[Tensor, Tensor, Tensor]:
        """The same for one token x [B, dim], with the tail changed in place -> q, k, v [B, H, d]."""
        qkv = self.project_qkv(x).unsqueeze(1)
        parts, new_tail = self._convolve(qkv, tail, token.position.unsqueeze(1), None, None)
        if self.conv_weight is not None:
            token.replace_(tail, new_tail)
        q, k, v = self._heads(parts, token.angles, x.dtype)
        return q.squeeze(1), k.squeeze(1), v.squeeze(1)

    def _convolve(
        self, qkv: Tensor, tail: Tensor, position: Tensor, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """[B, T, 3 dim] -> queries, keys and values [B, T, dim], and the convolution's new tail."""
        if self.conv_weight is None:
            return qkv.chunk(3, -1), tail
        return causal_convolution(qkv, self.conv_weight, tail, position, mask, reset, Finish(parts=3))

    def _heads(self, parts: tuple[Tensor, ...], angles: tuple[Tensor, Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Queries, keys and values [B, T, dim] -> the same by heads [B, T, H, d], queries and keys rotated."""
        q, k, v = (part.to(dtype).unflatten(-1, (self.num_heads, -1)) for part in parts)
        return [rotate(q, *angles), rotate(k, *angles), v]

    @property
    def context_weight(self) -> Tensor:
        """Of the keys and values of what is no part of the stream [2 dim, dim]."""
        return self.project_qkv.weight[len(self.project_qkv.weight) // 3 :]

    def project_context(self, h: Tensor, angles: tuple[Tensor, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, T, H, d] of tokens that are no part of the stream (MAC's memory tokens).

        h: [B, T, dim]; angles: `rotary_angles` of their positions; weight: `context_weight`.
        """
        k, v = F.linear(h, weight).to(weight.dtype).chunk(2, -1)  # kept in the state: not in autocast's precision
        k, v = (x.unflatten(-1, (self.num_heads, -1)) for x in (k, v))
        return rotate(k, *angles), v

    def project_persistent(self, weight: Tensor) -> list[Tensor]:
        """Keys and values [1, P, H, d] of the persistent tokens; weight: `context_weight`.

        They have no position, so their keys are zero in all channels that a query is turned in: seen through those,
        what is found at position 1,000,000 would be another thing than what training saw at position 1,000.
        """
        persistent = weight.new_zeros(0, weight.shape[1]) if self.persistent is None else self.persistent
        parts = F.linear(persistent.to(weight.dtype), weight).chunk(2, -1)
        k, v = (part.unflatten(-1, (self.num_heads, -1)).unsqueeze(0) for part in parts)
        turned = turned_pairs(k.shape[-1])
        return [F.pad(k.unflatten(-1, (2, -1))[..., turned:], (turned, 0)).flatten(-2), v]

    def attend(self, q: Tensor, keys: list[Tensor], values: list[Tensor], visible: Tensor) -> Tensor:
        """Softmax attention with the persistent tokens always visible.

        q: [B, T, H, d]; keys, values: those of the persistent tokens first, then others [B, S, H, d] with S tokens
        together; visible: [B or 1, T, S] bool -> [B, T, dim], output projection included.
        """
        always = keys[0].shape[1]
        k, v = (
            torch.cat([persistent.to(q.dtype).expand(len(q), -1, -1, -1), *others], 1)
            for persistent, *others in (keys, values)
        )
        visible = F.pad(visible, (always, 0), value=True)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible.unsqueeze(1))
        return self.project_out(y.transpose(1, 2).flatten(2))


class SlidingWindowAttention(Attention):
    """Every token sees itself, the window - 1 tokens of its document before it, and the persistent tokens.

    Costs O(T * window): queries go in blocks of at most one window, each with the keys that some of them see.
    """

    def begin(self, rows: int, config: TitansConfig, like: Tensor) -> AttentionState:
        """The state before the first token."""
        head_dim = config.dim // config.num_heads
        keys = like.new_zeros(1).expand(rows, config.window_size, config.num_heads, head_dim)
        return AttentionState(keys, keys, convolution_tail(rows, config, 3 * config.dim, like))

    def forward(
        self, x: Tensor, state: AttentionState, position: Tensor, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, AttentionState]:
        """x [B, T, dim] with all absent tokens (mask 0) at the end; position [B, T] of each token in its document."""
        rows, length = x.shape[:2]
        q, k, v, tail = self.project(x, state.tail, position, mask, reset)
        oldest_first = (position[:, :1] + torch.arange(self.window, device=x.device)) % self.window
        keys, values = (
            torch.cat([take(old, oldest_first).to(new.dtype), new], 1)
            for old, new in ((state.keys, k), (state.values, v))
        )

        block = min(length, self.window)
        num_blocks = -(-length // block)
        missing = num_blocks * block - length
        span = self.window + block

        def blocks(x: Tensor) -> Tensor:
            """[B, N + T, H, d] -> the keys of each block [B * blocks, N + b, H, d]."""
            return F.pad(x, (0, 0, 0, 0, 0, missing)).unfold(1, span, block).movedim(-1, 2).flatten(0, 1)

        queries = F.pad(q, (0, 0, 0, 0, 0, missing)).unflatten(1, (num_blocks, block)).flatten(0, 1)
        seen = F.pad(position, (0, missing)).clamp_max(self.window - 1).view(rows * num_blocks, block, 1)
        distance = torch.arange(self.window, span, device=x.device)[:, None] - torch.arange(
            span, device=x.device
        )  # of each key from each query
        visible = (distance >= 0) & (distance <= seen)
        always_keys, always_values = self.project_persistent(self.context_weight)
        y = self.attend(queries, [always_keys, blocks(keys)], [always_values, blocks(values)], visible)
        y = y.unflatten(0, (rows, num_blocks)).flatten(1, 2)[:, :length]

        keys, values = (self._ring(x, position, mask).to(state.keys.dtype) for x in (keys, values))
        return y, AttentionState(keys, values, tail)

    def step_(self, x: Tensor, state: AttentionState, token: Token) -> Tensor:
        """One token per row, x [B, dim] -> [B, dim], in place on the state: it takes the slot of the oldest."""
        q, k, v = self.project_(x, state.tail, token)
        slot = token.position % self.window
        token.put_(state.keys, slot, k)
        token.put_(state.values, slot, v)
        age = (slot.unsqueeze(1) - torch.arange(self.window, device=x.device)) % self.window  # of each slot [B, N]
        visible = (age <= token.position.unsqueeze(1)).unsqueeze(1)
        keys, values = state.keys.to(q.dtype), state.values.to(q.dtype)
        always_keys, always_values = self.project_persistent(self.context_weight)
        return self.attend(q.unsqueeze(1), [always_keys, keys], [always_values, values], visible).squeeze(1)

    def _ring(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """The window after a call in the order of the state, of what came before and in it [B, N + T, H, d]."""
        count = torch.full_like(position[:, :1], position.shape[1]) if mask is None else mask.sum(1, keepdim=True)
        end = torch.where(count > 0, take(position, (count - 1).clamp_min(0)) + 1, position[:, :1])
        age = (end - 1 - torch.arange(self.window, device=x.device)) % self.window  # of what each slot holds [B, N]
        return take(x, self.window + count - 1 - age).masked_fill((age >= end)[..., None, None], 0)


def convolution_tail(rows: int, config: TitansConfig, channels: int, like: Tensor) -> Tensor:
    """An empty past for a convolution of the config's size."""
    if not config.memory.convolution:
        return like.new_zeros(rows, 0, 0)
    return like.new_zeros(1).expand(rows, config.memory.conv_size - 1, channels)


def rotary_angles(position: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin [B, T, 1, d / 2] of the rotary embedding, exact at any position: angles are taken in float64.

    The second half of the pairs is never turned (`turned_pairs`): what has no position is seen through these.
    """
    turned, pairs = turned_pairs(head_dim), head_dim // 2
    frequency = base ** (-torch.arange(turned, device=position.device, dtype=torch.float64) / turned)
    angle = position.double()[:, :, None, None] * F.pad(frequency, (0, pairs - turned))
    return angle.cos(), angle.sin()


def turned_pairs(head_dim: int) -> int:
    """How many of the d / 2 pairs of channels, (i, i + d / 2) for the first i, the rotary embedding turns."""
    return (head_dim // 2 + 1) // 2
