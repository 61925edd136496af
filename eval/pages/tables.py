"""Numbers, aligned text tables and Markdown tables, as every page and verb prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import write_text_atomic


def number(value: float | None) -> str:
    """Three significant digits, or a dash where there is no number."""
    return "–" if value is None else f"{value:.3g}"


def span(low: float | None, high: float | None, between: str = " to ") -> str:
    """A range, or nothing where it is not defined."""
    return "" if low is None or high is None else f"{number(low)}{between}{number(high)}"


def text_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns aligned with spaces: the first `left` of them to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        padded = zip(row, widths, strict=True)
        cells = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(padded)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without a line break at its end."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def side_by_side(columns: Mapping[str, Mapping[str, Any]], keys: Sequence[str] = ()) -> list[list[str]]:
    """A row a key and a cell a column, with a dash where a column has no such key.

    Args:
        columns: title -> values by key.
        keys: the rows; by default every key of any column.
    """
    shown = keys or list(dict.fromkeys(key for values in columns.values() for key in values))
    return [[key.replace("_", " "), *(str(values.get(key, "–")) for values in columns.values())] for key in shown]


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two lines of a page.

    Args:
        page: file to change.
        begin, end: the two lines, with their line ends. They stay.
        text: what then stands between them, without its last line end.
    Raises:
        ValueError: the page lacks one of the lines.
    """
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page}: must have the lines {begin.strip()} and {end.strip()}")
    write_text_atomic(page, f"{before}{begin}{text}\n{end}{after}")
