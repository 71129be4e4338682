"""The tables of docs/long-context.md, out of docs/results: one after each line `<!-- RECIPE: TASK -->`.

`python benchmarks/long_context_tables.py` writes them anew, and so does long_context.py when it has measured.
"""

import re
from functools import cache
from pathlib import Path

from long_context_page import contenders, right, task_tables

from titans.files import write_text
from titans.report.results import read_results

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RESULTS = DOCS / "long-context.md", DOCS / "results"

TABLE = re.compile(r"(<!-- ([\w-]+): (.+) -->\n)(?:\|.*\n)*")


def filled(page: str, results: Path = RESULTS) -> str:
    """The page with its tables as the results are now.

    Raises:
        KeyError: a table of something that no model was asked.
    """
    tables = cache(lambda recipe: _tables(results / recipe))
    return TABLE.sub(lambda found: f"{found[1]}{tables(found[2])[found[3]]}\n", page)


def _tables(folder: Path) -> dict[str, str]:
    results = read_results(folder)
    return task_tables(contenders(results.models), right(results.scores), results.scores)


def main() -> None:
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    print(PAGE)


if __name__ == "__main__":
    main()
