"""What lets a memory keep count: the recipe `parity` with one thing changed at a time.

Words of up to 32 bits are trained on and of up to 2,048 are asked. What is done is kept: the same command goes on where
it was interrupted, and more seeds or changes can be added.

    python benchmarks/parity_ablation.py --seeds 0 1 2
    python benchmarks/long_context_tables.py                (puts the table into docs/long-context.md)
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from capacity import trained
from gain_summary import markdown_table
from long_context_page import percent
from records import Records

from titans.memory.config import MemoryConfig
from titans.models.language_model import TitansLM
from titans.tasks.recipes import recipe
from titans.tasks.score import score
from titans.tasks.state_tracking import parity
from titans.training.progress import Progress

LENGTHS, SAMPLES, EVAL_SEED = (32, 128, 512, 2048), 100, 5

CHANGES: dict[str, dict] = {
    "the recipe": {},
    "steps up to 1: no negative eigenvalues": {"max_step": 1.0},
    "steps up to 2: no room beyond the guard's limit": {"max_step": 2.0},
    "the guard's usual limit": {"guard_limit": MemoryConfig().guard_limit},
    "no price on open gates": {"gate_penalty": 0.0},
    "chunks of 2": {"chunk_size": 2},
    "chunks of 16": {"chunk_size": 16},
    "momentum": {"momentum": True},
    "forgetting": {"forgetting": True},
    "convolution": {"convolution": True},
    "one head": {"num_heads": 1},
    "depth 2": {"depth": 2},
}


def measure(change: str, seed: int) -> dict:
    """Trains one model and asks it."""
    base, changed = recipe("parity"), dict(CHANGES[change])
    penalty = changed.pop("gate_penalty", base.settings.gate_penalty)
    settings = replace(base.settings, seed=seed, gate_penalty=penalty)
    config = base.config.replace(memory=base.config.memory.replace(**changed))
    model, seconds = trained(base.source, partial(TitansLM, config), settings)
    asked = {length: score(model, parity(), length, SAMPLES, seed=EVAL_SEED, batch_size=SAMPLES) for length in LENGTHS}
    return {
        "change": change,
        "seed": seed,
        "parameters": model.num_parameters,
        "train_seconds": seconds,
        "tokens_right": {str(length): found.tokens_right for length, found in asked.items()},
        "words_right": {str(length): found.right for length, found in asked.items()},
    }


def table(runs: list[dict]) -> str:
    """As Markdown; bits told right in %, a number for each seed."""
    lines = []
    for change in CHANGES:
        own = sorted((one for one in runs if one["change"] == change), key=lambda one: one["seed"])
        cells = [", ".join(percent(one["tokens_right"][str(length)]) for one in own) for length in LENGTHS]
        lines += [[change, *cells]] if own else []
    return markdown_table(["changed", *(f"{length:,}" for length in LENGTHS)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=[*CHANGES], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/results/parity_ablation.json"))
    options = parser.parse_args()
    records = Records(options.out, "parity_ablation.py")
    done = {(one["change"], one["seed"]) for one in records.runs}
    planned = [(change, seed) for seed in options.seeds for change in options.changes if (change, seed) not in done]
    with Progress("train and ask", total=len(planned), unit="models") as progress:
        for change, seed in planned:
            records.add(measure(change, seed))
            progress.advance(1)
    print(table(records.runs))


if __name__ == "__main__":
    main()
