"""Make one web page, with figures, from the folder of a run.

Example:
    titans report runs/book
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from titans.cli.imports import import_torch


def run(folder: Annotated[Positional[Path], arg(metavar="DIR")]) -> None:
    """Writes the page and prints where it is.

    Args:
        folder: folder of a run
    """
    import_torch()

    from titans.report.html import write_report

    print(write_report(folder))
