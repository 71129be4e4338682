"""TitansLM: tokens in, logits and the state of every stream out."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans.memory.kernels.step import Workspace
from titans.memory.layout import compact, document_positions, take
from titans.memory.norm import RMSNorm
from titans.models.arguments import check_kept, check_labels, check_state, check_tokens
from titans.models.attention import rotary_angles
from titans.models.blocks import Block
from titans.models.config import TitansConfig
from titans.models.folder import read_model, write_model
from titans.models.loss import weighted_cross_entropy
from titans.models.segments import Stream
from titans.models.state import LMState
from titans.models.token import Token


class TitansLM(nn.Module):
    """A language model of Titans blocks with a tied head.

    Example:
        >>> model = TitansLM(TitansConfig(variant="mac"))
        >>> logits, state = model(tokens)               # [B, T] int64 -> [B, T, vocab_size]
        >>> logits, state = model(more_tokens, state)   # continues; any split equals one call
    """

    state_type = LMState

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.embedding_norm = RMSNorm(config.dim, eps=config.norm_eps)  # else the first block drowns the token
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():  # as GPT-2: residual branches start small in deep models
            for name, parameter in self.named_parameters():
                if name.endswith("project_out.weight"):
                    parameter.div_((2 * config.num_layers) ** 0.5)

    def forward(
        self,
        tokens: Tensor,
        state: LMState | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, LMState]:
        """Reads tokens and predicts the next one at every position.

        Args:
            tokens: [B, T] int64.
            state: what an earlier call returned; None begins a document in every row.
            mask: [B, T], 0 where a token is absent (padding anywhere in the row); its logits are arbitrary.
            reset: [B, T], 1 where a new document begins (packed documents).
            logits_to_keep: predict at that many last positions only, as in transformers: to read a long text without
                [T, vocab_size] numbers for each row. 0, or more than there are, for all.

        Returns:
            logits [B, T, vocab_size], of the last positions if so wanted, and the state after the last token.

        Raises:
            ValueError: tokens, mask, reset or state have the wrong shape or dtype, a token id is out of range
                (within torch.compile ids are not looked at), or logits_to_keep is no number of positions.
        """
        self._check(tokens, state, mask, reset)
        check_kept(logits_to_keep)
        mask = None if mask is None else mask.to(tokens.device, torch.bool)
        reset = None if reset is None else reset.to(tokens.device, torch.bool)
        target = None
        if mask is not None:
            source, target, _ = compact(mask)
            tokens, mask = take(tokens, source), take(mask, source)
            reset = None if reset is None else take(reset, source) & mask
        state = self.begin(len(tokens)) if state is None else state
        position = document_positions(state.position, tokens.shape[1], mask, reset)
        stream = Stream(state.position, position, mask, reset)

        def wanted(x: Tensor) -> Tensor:
            """Where each token was, and the last ones only; what comes after the last mixer looks at no other token."""
            return x[:, -logits_to_keep:] if target is None else take(x, target[:, -logits_to_keep:])

        x = self.embedding_norm(self.embedding(tokens))
        blocks = []
        for number, (block, before) in enumerate(zip(self.blocks, state.blocks, strict=True), 1):
            x, after = block(x, before, stream, wanted if number == len(self.blocks) else None)
            blocks.append(after)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return logits, LMState(_end(stream), tuple(blocks), self.config).apart_from(state)

    @torch.no_grad()
    def step_(
        self,
        tokens: Tensor,
        state: LMState,
        running: Tensor | None = None,
        workspaces: Sequence[Workspace | None] | None = None,
    ) -> Tensor:
        """Reads one token per row and changes `state` in place: to generate with. The same as `forward` on one token.

        Nothing is allocated for the state and no shape depends on a value, so torch.compile(fullgraph=True) and CUDA
        graphs can take it; workspaces are for processors and not for torch.compile. Token ids are not checked, as
        that would have to wait for an accelerator. Records no gradient.

        Args:
            tokens: [B] int64.
            state: to change; of `LMState.own`, as tensors that share memory with others cannot be changed.
            running: [B] bool; rows that are not stay exactly as they are, and their logits are arbitrary.
            workspaces: of `workspaces(state)`; without them a processor does part of the open chunk's work again.

        Returns:
            logits [B, vocab_size].

        Raises:
            ValueError: tokens, running or state have the wrong shape or dtype, or the state is not of `own`.
        """
        self._check_step(tokens, state, running)
        workspaces = [None] * len(self.blocks) if workspaces is None else workspaces
        if len(workspaces) != len(self.blocks):
            raise ValueError(f"workspaces has {len(workspaces)} entries; there are {len(self.blocks)} blocks")
        config = self.config
        angles = rotary_angles(state.position.unsqueeze(1), config.dim // config.num_heads, config.rope_base)
        token = Token(state.position, running, angles)
        x = self.embedding_norm(self.embedding(tokens))
        for block, part, workspace in zip(self.blocks, state.blocks, workspaces, strict=True):
            x = block.step_(x, part, token, workspace)  # pyright: ignore[reportCallIssue]
        state.position.add_(1 if running is None else running)
        return F.linear(self.norm(x), self.embedding.weight)

    def workspaces(self, state: LMState) -> list[Workspace | None]:
        """What `step_` may keep beside a state from token to token, one per block (`NeuralMemory.workspace`)."""
        return [block.workspace(part) for block, part in zip(self.blocks, state.blocks, strict=True)]  # pyright: ignore

    def loss(
        self,
        tokens: Tensor,
        labels: Tensor,
        state: LMState | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, LMState]:
        """Mean cross-entropy in nats over labels [B, T] int64 that are not -100, and the state; see `forward`.

        Without any label it is 0.

        weights: [B, T], how much each label counts in the mean; None for all the same.
        """
        check_labels(tokens, labels, weights, self.config.vocab_size)
        logits, after = self(tokens, state, mask, reset)
        return weighted_cross_entropy(logits, labels, weights), after

    def begin(self, rows: int) -> LMState:
        """The state before the first token of `rows` documents."""
        like = self.embedding.weight.new_zeros(rows, 1)
        position = torch.zeros(rows, dtype=torch.int64, device=like.device)
        return LMState(position, tuple(block.mixer.begin(like) for block in self.blocks), self.config)  # pyright: ignore

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, the tied head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors into `folder`, each atomically."""
        write_model(folder, self.config, self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> "TitansLM":
        """Reads what `save` wrote.

        Raises:
            TitansError: a file is missing, damaged, of another kind, or does not fit the configuration.
        """
        return read_model(folder, cls, TitansConfig)

    def _check(self, tokens: Tensor, state: LMState | None, mask: Tensor | None, reset: Tensor | None) -> None:
        check_tokens(tokens, self.config.vocab_size, mask=mask, reset=reset)
        if state is not None:
            check_state(tokens, state, LMState, self.config)

    def _check_step(self, tokens: Tensor, state: LMState, running: Tensor | None) -> None:
        if tokens.dim() != 1 or tokens.dtype != torch.int64:
            raise ValueError(f"tokens must be [B] int64, got {tuple(tokens.shape)} {tokens.dtype}")
        if running is not None and (running.shape != tokens.shape or running.dtype != torch.bool):
            raise ValueError(f"running must be [B] bool, got {tuple(running.shape)} {running.dtype}")
        check_state(tokens, state, LMState, self.config)
        state.check_own()


def empty_state(config: TitansConfig) -> LMState:
    """The structure of a model's state, without any memory behind it."""
    with torch.device("meta"):
        return TitansLM(config).begin(1)


def _end(stream: Stream) -> Tensor:
    """Position of each row after the call [B]."""
    if stream.mask is None:
        return stream.position[:, -1] + 1
    count = stream.mask.sum(1)
    last = take(stream.position, (count - 1).clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.where(count > 0, last + 1, stream.start)
