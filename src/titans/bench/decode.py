"""One token at a time: does a long past make it slower, and what do many sessions in one batch gain?"""

from functools import partial
from pathlib import Path

from titans.bench.ages import SEGMENT, VARIANTS, after, load, reader, some_tokens, states
from titans.bench.contest import Contender, Contest, Work
from titans.models.generation import Decoder

TOKENS = SEGMENT  # per session and run: every phase of chunk and segment once
QUICK_TOKENS = 4
SESSIONS = (1, 8, 32)


def contests(folder: Path, *, quick: bool = False) -> list[Contest]:
    """For each variant: the youngest state against the oldest, and sessions side by side.

    Args:
        folder: where the states are kept.
    """
    found, tokens = [], QUICK_TOKENS if quick else TOKENS
    for variant in VARIANTS:
        paths = states(variant, folder, quick)
        young, old = min(paths), max(paths)
        ages = tuple(
            Contender(name=after(age), make=partial(make_decoding, variant, paths[age], 1, quick), tokens=tokens)
            for age in (young, old)
        )
        rows = tuple(
            Contender(
                name=sessions(count),
                make=partial(make_decoding, variant, paths[young], count, quick),
                tokens=count * tokens,
            )
            for count in SESSIONS
        )
        found.append(Contest(title=f"decoding, {variant}, by context", base=after(young), contenders=ages))
        found.append(Contest(title=f"decoding, {variant}, by sessions", base=sessions(1), contenders=rows))
    return found


def sessions(count: int) -> str:
    """The name of a contender."""
    return f"{count} session{'s' if count > 1 else ''}"


def make_decoding(variant: str, path: Path, rows: int, quick: bool) -> Work:
    """Tokens one after the other as `generate` reads them, from a saved state on; always as many."""
    model = reader(variant, quick)
    decode = Decoder(model, load(path, model, rows))
    columns = some_tokens(model, rows, QUICK_TOKENS if quick else TOKENS).unbind(1)

    def run() -> None:
        for column in columns:
            decode(column)

    return Work(run=run, parameters=model.num_parameters)
