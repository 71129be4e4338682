"""The variants side by side: how each joins the long-term memory M to short-term attention.

    MAC  memory as context   h = M*(x);  y = Attn(P || h || x) per segment;  o = y (x) M(x + y)  (eq. 21-25)
    MAG  memory as gate      y = SWA(P || x);  o = y (x) M(x)                                    (eq. 26-28)
    MAL  memory as layer     y = M(x);  o = SWA(P || x + y)                                      (eq. 29-31)
    LMM  memory alone        o = M(x)
    attention                o = SWA(P || x): the control

M(x) writes x and reads; M*(x) reads without writing.
Every block is x + mixer(norm(x)), then x + SwiGLU(norm(x)). Letters: B rows, T tokens, D = dim.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from titans.memory.kernels.elementwise import swiglu
from titans.memory.kernels.step import Workspace
from titans.memory.layer import NeuralMemory, check_finite
from titans.memory.layout import perhaps_any
from titans.memory.norm import RMSNorm
from titans.models.attention import Attention, SlidingWindowAttention, convolution_tail, rotary_angles
from titans.models.config import TitansConfig
from titans.models.segments import Segment, Segmentation, Stream
from titans.models.state import AttentionState, BlockState, ContextState
from titans.models.token import Token

T = TypeVar("T")


class Gate(nn.Module):
    """o = y (x) m: both normalised with learned vectors, then each lets the other through (eq. 25 and 28).

    A plain product y * act(m) would let neither pass while the other has nothing to say, and was the slowest to learn
    of the forms tried (docs/lab-log.md).
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.memory_norm = RMSNorm(config.dim, eps=config.norm_eps)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        y, m = self.attention_norm(y), self.memory_norm(m)
        return y * torch.sigmoid(m) + m * torch.sigmoid(y)


class ControlMixer(nn.Module):
    """Sliding-window attention and nothing else."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = SlidingWindowAttention(config)

    def begin(self, x: Tensor) -> BlockState:
        return BlockState(attention=self.attention.begin(len(x), self.config, x))

    def forward(self, x: Tensor, state: BlockState, stream: Stream) -> tuple[Tensor, BlockState]:
        y, attention = self.attention(x, _some(state.attention), stream.position, stream.mask, stream.reset)
        return y, BlockState(attention=attention)

    def step_(self, x: Tensor, state: BlockState, token: Token, workspace: Workspace | None) -> Tensor:
        return self.attention.step_(x, _some(state.attention), token)


class MemoryAsGate(nn.Module):
    """MAG: attention and memory read the same tokens; the memory gates the attention."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = SlidingWindowAttention(config)
        self.memory = NeuralMemory(config.dim, config.memory)
        self.gate = Gate(config)

    def begin(self, x: Tensor) -> BlockState:
        return BlockState(self.memory.begin(x), self.attention.begin(len(x), self.config, x))

    def forward(self, x: Tensor, state: BlockState, stream: Stream) -> tuple[Tensor, BlockState]:
        y, attention = self.attention(x, _some(state.attention), stream.position, stream.mask, stream.reset)
        m, memory = self.memory(x, state.memory, stream.mask, stream.reset)
        return self.gate(y, m), BlockState(memory, attention)

    def step_(self, x: Tensor, state: BlockState, token: Token, workspace: Workspace | None) -> Tensor:
        y = self.attention.step_(x, _some(state.attention), token)
        return self.gate(y, self.memory.step_(x, _some(state.memory), workspace, token.running))


class MemoryAsLayer(nn.Module):
    """MAL: attention reads what the memory made of the tokens. The memory is a residual layer of its own."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        self.memory = NeuralMemory(config.dim, config.memory)
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = SlidingWindowAttention(config)

    def begin(self, x: Tensor) -> BlockState:
        return BlockState(self.memory.begin(x), self.attention.begin(len(x), self.config, x))

    def forward(self, x: Tensor, state: BlockState, stream: Stream) -> tuple[Tensor, BlockState]:
        m, memory = self.memory(x, state.memory, stream.mask, stream.reset)
        y = self.norm(x + m)
        o, attention = self.attention(y, _some(state.attention), stream.position, stream.mask, stream.reset)
        return m + o, BlockState(memory, attention)

    def step_(self, x: Tensor, state: BlockState, token: Token, workspace: Workspace | None) -> Tensor:
        m = self.memory.step_(x, _some(state.memory), workspace, token.running)
        return m + self.attention.step_(self.norm(x + m), _some(state.attention), token)


class MemoryAlone(nn.Module):
    """LMM: the memory in place of attention."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.memory = NeuralMemory(config.dim, config.memory)

    def begin(self, x: Tensor) -> BlockState:
        return BlockState(self.memory.begin(x))

    def forward(self, x: Tensor, state: BlockState, stream: Stream) -> tuple[Tensor, BlockState]:
        m, memory = self.memory(x, state.memory, stream.mask, stream.reset)
        return m, BlockState(memory)

    def step_(self, x: Tensor, state: BlockState, token: Token, workspace: Workspace | None) -> Tensor:
        return self.memory.step_(x, _some(state.memory), workspace, token.running)


class MemoryAsContext(nn.Module):
    """MAC: attention sees a segment together with what the memory recalls for it, and the memory writes the token with
    what attention made of it: a residual connection, as around every mixer. Of attention's output alone it would know
    which token it is only where the token looks at itself, and tasks like bAbI's were not learned (docs/lab-log.md).

    Token i of a segment sees the persistent tokens, the segment's tokens j <= i and what tokens j <= i recalled.
    The paper puts all recalled tokens in front of the segment; read literally, token i would see what token j > i asked
    for. Recall uses the memory as it was before the segment; the last read is per position, after that token's write.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = Attention(config, behind=0)  # each token sees itself first
        self.memory = NeuralMemory(config.dim, config.memory)
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.gate = Gate(config)
        # The memory recalls for the last slot of each group, which is causal and leaves nothing to carry.
        self.num_recalled = config.num_memory_tokens or config.segment_size
        self.group = config.segment_size // self.num_recalled
        self.recalled = slice(self.group - 1, None, self.group)

    def begin(self, x: Tensor) -> BlockState:
        config, rows = self.config, len(x)
        memory = self.memory.begin(x)
        head_dim = config.dim // config.num_heads
        slots, recalled = (
            x.new_zeros(1).expand(rows, count, config.num_heads, head_dim)
            for count in (config.segment_size, self.num_recalled)
        )
        return BlockState(
            memory,
            AttentionState(slots, slots, convolution_tail(rows, config, 3 * config.dim, x)),
            ContextState(recalled, recalled, memory.weights, convolution_tail(rows, config, self.memory.inner_dim, x)),
        )

    def forward(self, x: Tensor, state: BlockState, stream: Stream) -> tuple[Tensor, BlockState]:
        memory, attention, context = _some(state.memory), _some(state.attention), _some(state.context)
        where = (stream.position, stream.mask, stream.reset)
        questions, context_tail = self.memory.queries(x, context.tail, *where)
        q, k, v, tail = self.attention.project(x, attention.tail, *where)
        angles = (part.to(q.dtype) for part in rotary_angles(stream.position, q.shape[-1], self.config.rope_base))
        weight = self.attention.context_weight
        always_keys, always_values = self.attention.project_persistent(weight)

        segmentation = Segmentation(stream, self.config.segment_size, memory.known_position)
        every_slot = torch.arange(self.config.segment_size, device=x.device)
        places = torch.cat([every_slot[self.recalled], every_slot])  # [M + S], of what attention may see
        attended, written, reads = [], [], []
        keys = values = memory_keys = memory_values = x
        weights = context.weights
        for segment in segmentation.segments(q, k, v, questions, self.memory.output_gate(x), *angles, x):
            q_s, k_s, v_s, questions_s, gate_s, cos_s, sin_s, x_s = segment.tensors
            weights = self._weights_before(memory.weights, weights, segment)
            if segment.slots.shape[1] == len(every_slot):  # M of the W tokens, or the only one
                questions_s, gate_s, cos_s, sin_s = (
                    part[:, self.recalled] for part in (questions_s, gate_s, cos_s, sin_s)
                )
            h = self.memory.recall(questions_s, gate_s, weights)  # [B, M or 1, D]
            h_keys, h_values = self.attention.project_context(h, (cos_s, sin_s), weight)
            keys, values = segment.merge(attention.keys, k_s), segment.merge(attention.values, v_s)
            memory_keys = segment.merge(context.keys, h_keys, self.recalled)
            memory_values = segment.merge(context.values, h_values, self.recalled)

            visible = places <= segment.slots.unsqueeze(-1)  # [B or 1, W, M + S]
            y = self.attention.attend(
                q_s, [always_keys, memory_keys, keys], [always_values, memory_values, values], visible
            )
            begins = None if segment.fresh is None else segment.fresh.unsqueeze(1) & (segment.slots == 0)
            normed = self.norm(x_s + y)
            found, memory = self.memory.absorb(normed, memory, segment.present, begins)
            attended.append(y)
            written.append(normed)
            reads.append(found)

        normed = segmentation.restore(written)
        check_finite(normed)
        m = self.memory.output(segmentation.restore(reads), self.memory.output_gate(normed))
        keep = segmentation.open_slots
        return self.gate(segmentation.restore(attended), m), BlockState(
            memory,
            AttentionState(keep(keys), keep(values), tail),
            ContextState(keep(memory_keys, self.recalled), keep(memory_values, self.recalled), weights, context_tail),
        )

    def step_(self, x: Tensor, state: BlockState, token: Token, workspace: Workspace | None) -> Tensor:
        memory, attention, context = _some(state.memory), _some(state.attention), _some(state.context)
        size = self.config.segment_size
        slot = token.position % size
        if perhaps_any(slot == 0):
            for before, now in zip(context.weights, memory.weights, strict=True):
                token.replace_(before, now, slot == 0)
        questions = self.memory.queries_(x, context.tail, token.running)
        q, k, v = self.attention.project_(x, attention.tail, token)
        token.put_(attention.keys, slot, k)
        token.put_(attention.values, slot, v)
        weight = self.attention.context_weight
        due = slot % self.group == self.group - 1
        if perhaps_any(due):
            gate = self.memory.output_gate(x.unsqueeze(1))
            h = self.memory.recall(questions.unsqueeze(1), gate, context.weights)  # [B, 1, D]
            for kept, new in zip(
                (context.keys, context.values), self.attention.project_context(h, token.angles, weight), strict=True
            ):
                token.put_(kept, slot // self.group, new[:, 0], due)

        slots = (context.keys, attention.keys, context.values, attention.values)  # in attention's order
        every_slot = torch.arange(size, device=x.device)
        visible = torch.cat([every_slot[self.recalled], every_slot]) <= slot.unsqueeze(1)
        always_keys, always_values = self.attention.project_persistent(weight)
        keys, values = ([kept.to(q.dtype) for kept in pair] for pair in (slots[:2], slots[2:]))
        y = self.attention.attend(
            q.unsqueeze(1), [always_keys, *keys], [always_values, *values], visible.unsqueeze(1)
        ).squeeze(1)
        full = slot == size - 1
        if perhaps_any(full):
            for kept in slots:
                token.replace_(kept, torch.zeros_like(kept), full)
        return self.gate(y, self.memory.step_(self.norm(x + y), memory, workspace, token.running))

    def _weights_before(
        self, now: tuple[Tensor, ...], earlier: tuple[Tensor, ...], segment: Segment
    ) -> tuple[Tensor, ...]:
        """The memory's weights at the start of each row's segment: `earlier` where it was opened before this one, or
        has no token here."""
        if segment.fresh is not None:
            begins = segment.fresh[:, None, None, None]
            now = tuple(torch.where(begins, w0, w) for w0, w in zip(self.memory.initial_weights, now, strict=True))
        stays = segment.continues
        if segment.present is not None:
            absent = ~segment.present.any(1)
            stays = absent if stays is None else stays | absent
        if stays is not None:
            stays = stays[:, None, None, None]
            now = tuple(torch.where(stays, old, w) for old, w in zip(earlier, now, strict=True))
        return now


class SwiGLU(nn.Module):
    """The position-wise network."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, 2 * hidden, bias=False)
        self.project_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(swiglu(self.project_in(x)))


_MIXERS = {
    "mac": MemoryAsContext,
    "mag": MemoryAsGate,
    "mal": MemoryAsLayer,
    "lmm": MemoryAlone,
    "attention": ControlMixer,
}


class Block(nn.Module):
    """Mixer and SwiGLU, each with normalisation before and a residual connection around it."""

    def __init__(self, config: TitansConfig, layer: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mixer = _MIXERS[config.variant if config.has_memory(layer) else "attention"](config)
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = SwiGLU(config.dim, config.mlp_size)

    def forward(
        self, x: Tensor, state: BlockState, stream: Stream, wanted: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, BlockState]:
        """wanted: the tokens whose outputs are needed, out of all; the state takes in all of them."""
        mixed, state = self.mixer(self.mixer_norm(x), state, stream)
        x = x + mixed
        x = x if wanted is None else wanted(x)
        return x + self.mlp(self.mlp_norm(x)), state

    def step_(self, x: Tensor, state: BlockState, token: Token, workspace: Workspace | None) -> Tensor:
        """One token per row, x [B, dim] -> [B, dim], in place on the state."""
        x = x + self.mixer.step_(self.mixer_norm(x), state, token, workspace)  # pyright: ignore[reportCallIssue]
        return x + self.mlp(self.mlp_norm(x))

    def workspace(self, state: BlockState) -> Workspace | None:
        """What the block's memory may keep from token to token beside the state (`NeuralMemory.workspace`)."""
        memory = getattr(self.mixer, "memory", None)
        return None if memory is None else memory.workspace(state.memory)


def _some(x: T | None) -> T:
    assert x is not None
    return x
