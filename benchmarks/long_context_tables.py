"""The tables of docs/long-context.md, out of docs/results: one after each line `<!-- RESULTS: TASK -->`.

`python benchmarks/long_context_tables.py` writes them anew, and so does long_context.py when it has measured.
"""

import argparse
import re
from functools import cache
from pathlib import Path

import capacity
import leaky_gates
import parity_ablation
from long_context_page import contenders, right, task_tables

from titans.files import read_json, write_text
from titans.report.results import read_results

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RESULTS = DOCS / "long-context.md", DOCS / "results"

BY_THEMSELVES = {
    "parity_ablation": ("bits right", parity_ablation.table),
    "capacity": ("values right", capacity.table),
    "leaky_gates": ("keys found", leaky_gates.table),
}
TABLE = re.compile(r"(<!-- ([\w/-]+): (.+) -->\n)(?:\|.*\n)*")


def filled(page: str, results: Path = RESULTS) -> str:
    """The page with its tables as the results are now.

    Raises:
        KeyError: a table of something that no model was asked.
    """
    tables = cache(lambda name: _tables(results, name))
    return TABLE.sub(lambda found: f"{found[1]}{tables(found[2])[found[3]]}\n", page)


def _tables(results: Path, name: str) -> dict[str, str]:
    if name in BY_THEMSELVES:
        title, table = BY_THEMSELVES[name]
        return {title: table(read_json(results / f"{name}.json")["runs"])}
    found = read_results(results / name)
    names = found.models or dict.fromkeys(score.model for score in found.scores)
    return task_tables(contenders(names), right(found.scores), found.scores)


def main() -> None:
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    print(PAGE)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
