"""The step-size guard is what keeps the training of a deep memory alive."""

import textwrap
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from titans import MemoryConfig, TitansConfig, TitansLM

TEXT = torch.tensor(list(Path(textwrap.__file__).read_bytes()))


def trained(guard: bool) -> tuple[list[float], float]:
    """Losses of 20 steps of a memory with steps near 1 on Python source, and the largest gradient norm."""
    torch.manual_seed(0)
    memory = MemoryConfig(num_heads=2, depth=2, expansion=2, max_step=1.0, guard=guard)
    model = TitansLM(TitansConfig(variant="lmm", dim=32, num_layers=2, num_heads=2, memory=memory))
    for block in model.blocks:
        block.mixer.memory.gates.step.bias.data.fill_(3.0)
        block.mixer.memory.gates.forget.bias.data.fill_(-3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, norms = [], []
    for _ in range(20):
        x = torch.stack([TEXT[start : start + 257] for start in torch.randint(0, len(TEXT) - 257, (2,)).tolist()])
        loss, _ = model.loss(x[:, :-1], x[:, 1:])
        loss.backward()
        norms.append(clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, max(norms)


def test_training_lives_with_the_guard_and_not_without():
    losses, largest = trained(guard=True)
    assert losses[-1] < 3.7
    assert largest < 100
    losses, largest = trained(guard=False)
    assert not losses[-1] < 4.3  # NaN counts as dead
    assert not largest < 1000
