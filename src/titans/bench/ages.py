"""Models that have read a long stream, as states in files: the same tokens can then be read from a state of any age."""

from pathlib import Path

import torch

from titans.bench.timing import using_threads
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.models.state import LMState
from titans.training.model import best_device
from titans.training.progress import Progress

VARIANTS = ("mac", "mag")
SEGMENT = 64  # and attention's window
# Tokens read. All multiples of the segment and of the memory's chunk: every state is as far into them.
AGES = (1_024, 10_240, 102_400, 1_024_000)
QUICK_AGES = (256, 512, 1_024, 2_048)
PIECE = 2_048


def reader(variant: str, quick: bool) -> TitansLM:
    """A freshly initialised model, always the same: 2 blocks, D = 256, 4 memory heads of d = 64, h = 128."""
    torch.manual_seed(0)
    heads, head_dim = (1, 16) if quick else (4, 64)
    config = TitansConfig(
        dim=heads * head_dim,
        num_layers=2,
        num_heads=heads,
        segment_size=SEGMENT,
        window_size=SEGMENT,
        memory=MemoryConfig(num_heads=heads, expansion=2),
    )
    return TitansLM(config.replace(variant=variant)).to(best_device())


@torch.no_grad()
def states(variant: str, folder: Path, quick: bool) -> dict[int, Path]:
    """Reads random tokens and leaves the state at every age in `folder`, unless it is there already."""
    paths = {age: folder / f"{variant}-{age}.safetensors" for age in (QUICK_AGES if quick else AGES)}
    if all(path.exists() for path in paths.values()):
        return paths
    model, state, read = reader(variant, quick), None, 0
    # Threads wait for each other on a busy machine, and this reading is not measured.
    with using_threads(1), Progress(f"{variant} reads", total=max(paths), unit="tokens") as progress:
        for age, path in paths.items():
            while read < age:
                tokens = some_tokens(model, 1, min(PIECE, age - read))
                _, state = model(tokens, state)
                read += tokens.shape[1]
                progress.advance(tokens.shape[1])
            assert state is not None
            state.save(path, model)
    return paths


def load(path: Path, model: TitansLM, rows: int = 1) -> LMState:
    """A saved state, once for every row."""
    state = LMState.load(path, model).to(best_device())
    return state.map(lambda x: x.repeat_interleave(rows, 0))


def some_tokens(model: TitansLM, rows: int, length: int) -> torch.Tensor:
    """Random tokens [rows, length] int64."""
    return torch.randint(model.config.vocab_size, (rows, length), device=best_device())


def after(age: int) -> str:
    """The name of a contender that goes on from a state."""
    return f"after {age:,} tokens"
