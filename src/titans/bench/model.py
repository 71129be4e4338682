"""Whole models: one training step (forward, loss, backward, clipping, AdamW) of every variant and of the control."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from titans.bench.contest import Contender, Contest, Work
from titans.memory.config import MemoryConfig
from titans.models.config import VARIANTS, TitansConfig
from titans.models.language_model import TitansLM
from titans.training.config import TrainConfig
from titans.training.model import best_device
from titans.training.optimizer import make_optimizer


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model, but for its variant, and what it reads in one step."""

    config: TitansConfig
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """In one step."""
        return self.rows * self.length


def _setting(dim: int, layers: int, memory_layers: tuple[int, ...], rows: int, length: int) -> Setting:
    """Heads of 64 channels; memories of depth 2, twice as wide inside, in some blocks; segments and windows of 32, for
    each of which MAC recalls four tokens."""
    heads = max(1, dim // 64)
    config = TitansConfig(
        dim=dim,
        num_layers=layers,
        num_heads=heads,
        segment_size=32,
        window_size=32,
        num_memory_tokens=4,
        memory_layers=memory_layers,
        memory=MemoryConfig(num_heads=heads, expansion=2, chunk_size=32),
    )
    return Setting(config=config, rows=rows, length=length)


# The shape of titans-pytorch's training script: 384 wide, 8 blocks, segments of 32 with four memory tokens, memories in
# blocks 2, 4 and 6, rows of 512 tokens; two rows and not four, because its own model needs about 10 MB for a token.
FULL = _setting(384, 8, (1, 3, 5), 2, 512)
QUICK = _setting(32, 2, (1,), 1, 64)

Peers = Callable[[Setting], Sequence[Contender]]
"""From a setting to contenders of other packages."""


def no_peers(_setting: Setting) -> Sequence[Contender]:
    return ()


def contests(*, quick: bool = False, peers: Peers = no_peers) -> list[Contest]:
    """One: a training step."""
    setting = QUICK if quick else FULL
    own = [
        Contender(name=variant, make=partial(make_step, setting, variant), tokens=setting.tokens)
        for variant in VARIANTS
    ]
    config = setting.config
    title = f"training step, {config.num_layers} blocks of width {config.dim}, {setting.rows} x {setting.length} tokens"
    return [Contest(title=title, base="mac", contenders=(*own, *peers(setting)))]


def make_step(setting: Setting, variant: str) -> Work:
    """A training step of ours, with the state carried on from step to step."""
    torch.manual_seed(0)
    model = TitansLM(setting.config.replace(variant=variant)).to(best_device())
    tokens, labels = random_tokens(setting, setting.length + 1).unfold(1, setting.length, 1).unbind(1)
    state: list[Any] = [None]

    def loss() -> Tensor:
        nats, after = model.loss(tokens, labels, state=state[0])
        state[0] = after.detach()
        return nats

    return training_step(model, loss, model.num_parameters)


def training_step(model: nn.Module, loss: Callable[[], Tensor], parameters: int) -> Work:
    """Forward and backward pass, clipping and AdamW, the same for every model."""
    config = TrainConfig()
    optimizer = make_optimizer(model, config)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        loss().backward()
        clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Work(run=run, parameters=parameters)


def random_tokens(setting: Setting, length: int) -> Tensor:
    """[rows, length] int64."""
    return torch.randint(setting.config.vocab_size, (setting.rows, length), device=best_device())
