"""Outcomes as tables, for a terminal and for Markdown."""

from collections.abc import Callable

from titans.bench.contest import Outcome, Result
from titans.bench.timing import Quartiles

Cell = Callable[[Result], str]


def heading(outcome: Outcome) -> str:
    """What the table shows."""
    return f"{outcome.title}, {outcome.threads} thread{'s' if outcome.threads > 1 else ''}"


def columns(outcome: Outcome) -> dict[str, list[str]]:
    """By heading, one cell for each contender; columns in which nothing was measured are left out."""
    cells: dict[str, Cell] = {
        "tokens/s": lambda r: _median(r.tokens_per_second, lambda x: f"{x:,.0f}"),
        "spread": lambda r: _spread(r.tokens_per_second),
        "µs/token": lambda r: _median(r.tokens_per_second, lambda x: short(1e6 / x)),
        "speed": lambda r: _median(r.speed, short),
        "memory MB": lambda r: "" if r.peak_mb is None else f"{r.peak_mb:,.1f}",
        "of matmul": lambda r: _median(r.of_matrix_product, lambda x: f"{x:.0%}"),
        "parameters": lambda r: "" if r.parameters is None else f"{r.parameters:,}",
    }
    found = {"": [result.name for result in outcome.results]}
    for head, cell in cells.items():
        column = [cell(result) for result in outcome.results]
        if any(column):
            found[head] = column
    return found


def caption(outcome: Outcome) -> str:
    """What the columns are relative to."""
    text = f"speed 1 is {outcome.base}"
    if outcome.matrix_product_gflops is not None:
        text += f"; the matrix product ran at {outcome.matrix_product_gflops.median:.0f} GFLOP/s"
    return text


def problems(outcome: Outcome) -> list[str]:
    """A line for each contender that could not be measured."""
    return [f"{result.name} not measured: {result.problem}" for result in outcome.results if result.problem]


def to_markdown(outcome: Outcome) -> str:
    """The table; below it what it is relative to and what could not be measured."""
    found = columns(outcome)
    rows = [list(found), ["---", *["---:"] * (len(found) - 1)], *map(list, zip(*found.values(), strict=True))]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"{caption(outcome)[0].upper()}{caption(outcome)[1:]}.", *problems(outcome)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def show(outcome: Outcome) -> None:
    """Prints the table."""
    from rich.table import Table

    from titans.console import Console

    found = columns(outcome)
    table = Table(title=heading(outcome), caption=caption(outcome), title_justify="left", caption_justify="left")
    for head in found:
        table.add_column(head, justify="right" if head else "left", no_wrap=bool(head), overflow="fold")
    for row in zip(*found.values(), strict=True):
        table.add_row(*row)
    console = Console()
    console.print(table)
    for problem in problems(outcome):
        console.print(problem, soft_wrap=True, highlight=False, markup=False)


def short(number: float) -> str:
    """Three digits, never in powers of ten."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _median(value: Quartiles | None, write: Callable[[float], str]) -> str:
    return "" if value is None else write(value.median)


def _spread(value: Quartiles | None) -> str:
    """From quartile to quartile, as a share of the median; of one round there is none."""
    if value is None:
        return ""
    return "-" if value.low == value.high else f"{(value.high - value.low) / value.median:.0%}"
