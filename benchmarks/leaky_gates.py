"""What gates that shut exactly are worth over millions of tokens: trained models whose gates no longer quite do.

Same weights, same questions (pass keys, at depths from 0 to 100 %); only that every token writes, or forgets, by at
least so much. What is done is kept: the same command goes on where it was interrupted.

    python benchmarks/leaky_gates.py --checkpoint runs/needles/lmm-2 --lengths 131072 524288 --samples 20
    python benchmarks/long_context_tables.py                (puts the table into docs/long-context.md)
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import torch
from gain_summary import markdown_table
from records import Records
from torch import nn

from titans.baselines import load_model
from titans.memory.layer import GateProjections
from titans.models.language_model import TitansLM
from titans.tasks.needles import needles
from titans.tasks.score import score
from titans.training.progress import Progress

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAKS: dict[str, tuple[float, float]] = {
    "as trained": (0, 0),
    "writes 1e-4": (1e-4, 0),
    "writes 1e-3": (1e-3, 0),
    "writes 1e-2": (1e-2, 0),
    "forgets 1e-7": (0, 1e-7),
    "forgets 1e-6": (0, 1e-6),
    "forgets 1e-5": (0, 1e-5),
}


@contextmanager
def leaking(model: nn.Module, step: float, forget: float) -> Iterator[None]:
    """Within, theta is at least `step` and alpha at least `forget` at every token of `model`'s memories."""

    def leak(_module: nn.Module, _inputs: object, gates: tuple) -> tuple:
        g, log_eta, theta = gates
        return g.clamp_max(math.log1p(-forget)), log_eta, theta.clamp_min(step)

    hooks = [one.register_forward_hook(leak) for one in model.modules() if isinstance(one, GateProjections)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(model: TitansLM, leak: str, length: int, samples: int, progress: Progress | None = None) -> dict:
    """Asks for `samples` keys, as many at each depth: those of `titans eval needles --kind pk --depths 5`."""
    each, found = samples // len(DEPTHS), []
    with leaking(model, *LEAKS[leak]):
        for depth in DEPTHS:
            task, seed = needles("pk", (), depth=depth), (0, round(1000 * depth))
            found.append(score(model, task, length, each, seed=seed, batch_size=each, progress=progress))
    right, tokens = ([getattr(one, name) for one in found] for name in ("right", "tokens_right"))
    return {
        "leak": leak,
        "length": length,
        "samples": each * len(DEPTHS),
        "right": fmean(right),
        "right_by_depth": dict(zip(map(str, DEPTHS), right, strict=True)),
        "tokens_right": fmean(tokens),
    }


def table(runs: list[dict]) -> str:
    """As Markdown: how many keys were found; a line for each model and leak."""
    lengths = sorted({one["length"] for one in runs})
    lines = []
    for model in sorted({one["model"] for one in runs}):
        for leak in LEAKS:
            own = {one["length"]: one for one in runs if (one["model"], one["leak"]) == (model, leak)}
            cells = [_keys(own[length]) if length in own else "-" for length in lengths]
            lines += [[model, leak, *cells]] if own else []
    return markdown_table(["model", "every token", *(f"{length:,}" for length in lengths)], lines)


def _keys(run: dict) -> str:
    return f"{round(run['right'] * run['samples'])} of {run['samples']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, metavar="DIR", help="runs of `needles`")
    parser.add_argument("--leaks", nargs="+", choices=LEAKS, default=[*LEAKS], metavar="NAME")
    parser.add_argument("--lengths", type=int, nargs="+", default=[131072, 524288, 2097152])
    parser.add_argument("--samples", type=int, default=20, help=f"keys, a multiple of {len(DEPTHS)}")
    parser.add_argument("--out", type=Path, default=Path("docs/results/leaky_gates.json"))
    options = parser.parse_args()
    if options.samples < 1 or options.samples % len(DEPTHS):
        parser.error(f"--samples is {options.samples}; it must be a multiple of {len(DEPTHS)}, the number of depths")
    models: dict[Path, TitansLM] = {}
    for folder in options.checkpoint:
        model = load_model(folder)
        if not isinstance(model, TitansLM):
            parser.error(f"{folder} holds a baseline, which has no gates of ours: name a Titans model")
        models[folder] = model
    if len({folder.name for folder in options.checkpoint}) < len(options.checkpoint):
        parser.error("two of --checkpoint have the same name, which a table is by: rename one folder")
    records = Records(options.out, "leaky_gates.py")
    done = {(one["model"], one["leak"], one["length"]): one["samples"] for one in records.runs}
    fewer = [
        length for (*_, length), samples in done.items() if length in options.lengths and samples < options.samples
    ]
    if fewer:
        parser.error(f"{options.out} has {fewer[0]:,} bytes with fewer samples: choose another --out")
    planned = [
        (folder, leak, length)
        for length in options.lengths
        for folder in options.checkpoint
        for leak in options.leaks
        if (folder.name, leak, length) not in done
    ]
    with Progress("ask", total=sum(options.samples * length for *_, length in planned), unit="tokens") as progress:
        for folder, leak, length in planned:
            records.add({"model": folder.name} | measure(models[folder], leak, length, options.samples, progress))
    print(table(records.runs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
