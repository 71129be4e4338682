"""How cost grows: with the tokens already read (not at all), with rows and with the length of training (linearly)."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from titans.bench.ages import PIECE, VARIANTS, after, load, reader, some_tokens, states
from titans.bench.contest import Contender, Contest, Work
from titans.bench.memory import QUICK, SIZES, Size, make_layer

ROWS = (1, 2, 4, 8, 16)
LENGTHS = (1_024, 2_048, 4_096, 8_192, 16_384)


def contests(folder: Path, *, quick: bool = False) -> list[Contest]:
    """Reading by age of the state for each variant; training of the memory layer by rows and by length.

    Args:
        folder: where the states are kept.
    """
    found = []
    for variant in VARIANTS:
        paths = states(variant, folder, quick)
        ages = tuple(
            Contender(name=after(age), make=partial(make_reading, variant, path, quick), tokens=PIECE)
            for age, path in paths.items()
        )
        found.append(Contest(title=f"reading, {variant}, by tokens read", base=after(min(paths)), contenders=ages))
    size = (QUICK if quick else SIZES)[0]
    by_rows = [replace(size, B=rows) for rows in ROWS]
    by_length = [replace(size, B=1, T=length // (16 if quick else 1)) for length in LENGTHS]
    found.append(_layer_contest("rows", [f"{each.B} x {each.T:,} tokens" for each in by_rows], by_rows))
    found.append(_layer_contest("length", [f"{each.T:,} tokens" for each in by_length], by_length))
    return found


def _layer_contest(what: str, names: list[str], sizes: list[Size]) -> Contest:
    contenders = tuple(
        Contender(name=name, make=partial(make_layer, "auto", size, True), tokens=size.tokens)
        for name, size in zip(names, sizes, strict=True)
    )
    return Contest(title=f"layer, forward + backward, by {what}, {sizes[0]}", base=names[0], contenders=contenders)


def make_reading(variant: str, path: Path, quick: bool) -> Work:
    """PIECE tokens in one call, from a saved state; always from that state."""
    model = reader(variant, quick)
    state = load(path, model)
    tokens = some_tokens(model, 1, PIECE)

    @torch.no_grad()
    def run() -> None:
        model(tokens, state)

    return Work(run=run, parameters=model.num_parameters)
