"""Train a small Titans and a model without its memory side by side, read a million tokens, recall hidden keys.

Example:
    titans quickstart
    titans quickstart --text book.txt --out runs/book --minutes 30

Ends with a page of figures, report.html, and a model that can be used further. Takes --minutes on two processor cores.
Ctrl-C stops it and leaves nothing behind.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from titans.cli.folder import require_empty
from titans.cli.imports import import_torch
from titans.errors import TitansError

DEFAULT_OUT = "titans-quickstart"


def run(
    *,
    text: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: Python's standard library)")] = None,
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=f"(default: {DEFAULT_OUT})")] = None,
    minutes: float = 8.0,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Trains, measures, and writes the report.

    Args:
        text: text file, folder, .gz or - for standard input
        out: folder for the models, the memory and the report
        minutes: how long it may take in all
        seed: of the first weights and of the order of the text
        json: print the results as JSON
    """
    if not 0.2 <= minutes <= 24 * 60:
        raise TitansError(f"--minutes is {minutes:g}; it must be between 0.2 and 1440")
    if not 0 <= seed < 2**63:
        raise TitansError(f"--seed is {seed}; it must be 0 or more, and below 2**63")
    folder = _free_folder() if out is None else out
    require_empty(folder)

    import_torch()

    from titans.cli.comparison import OWN_FILES, compare
    from titans.files import removed_on_failure, require_writable
    from titans.report.html import REPORT_NAME

    busy = f"{folder} is being used by another process: name another folder with --out"
    with removed_on_failure(folder, OWN_FILES, unless=folder / REPORT_NAME, busy=busy):
        require_empty(folder)  # another process may have come and gone while torch was imported
        require_writable(folder)
        compare(text, folder, minutes, seed, as_json=json)


def _free_folder() -> Path:
    """The default folder, or the first numbered one that is free."""
    folder, number = Path(DEFAULT_OUT), 1
    while folder.exists():
        number += 1
        folder = Path(f"{DEFAULT_OUT}-{number}")
    return folder
