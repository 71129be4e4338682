"""The parts that a report page is built of: each returns escaped HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

CSS = Path(__file__).with_name("page.css")


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document that loads nothing from elsewhere and runs no script."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{CSS.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading: level 1 for the page's own, 2 for a section's."""
    return f"<h{level}>{escape(text)}</h{level}>\n"


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph; `kind` is a class of the style sheet."""
    return f'<p class="{kind}">{escape(text)}</p>\n' if kind else f"<p>{escape(text)}</p>\n"


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Key numbers as cards: what it is, the number, and what to compare it with."""
    cards = [
        f'<div><dt>{escape(label)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="detail">{escape(detail)}</dd></div>\n'
        for label, value, detail in items
    ]
    return f'<dl class="tiles">\n{"".join(cards)}</dl>\n' if cards else ""


def figure(caption: str, panels: Iterable[str]) -> str:
    """Panels (SVG, inserted as they are) side by side where there is room, under one caption."""
    cards = "".join(f'<div class="panel">{svg}</div>\n' for svg in panels)
    return f'<figure>\n<figcaption>{escape(caption)}</figcaption>\n<div class="panels">\n{cards}</div>\n</figure>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls in its own box when it is wider than the page."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Names and values without a header, wrapped rather than scrolled."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>\n" for name, value in items)
    return f'<table class="facts">\n<tbody>\n{rows}</tbody>\n</table>\n'


def numbers(tables: Iterable[tuple[str, str]]) -> str:
    """The numbers behind a figure, folded away: (title, table) pairs."""
    parts = "".join(f"<h3>{escape(title)}</h3>\n{html}" for title, html in tables)
    return f"<details>\n<summary>The numbers</summary>\n{parts}</details>\n"


def code(text: str) -> str:
    """A command, as it was typed."""
    return f"<pre>{escape(text)}</pre>\n"
