"""Self-contained HTML pages: one file, no script, no network, light and dark.

A page is a title and a list of sections of the kinds below. Its sentences stand in templates/NAME.txt, one macro each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.files import write_text_atomic
from eval.pages.tables import number

TEMPLATES = Path(__file__).parent / "templates"
Tone = Literal["", "good", "poor"]


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text; a blank line parts them."""

    body: str
    heading: str = ""
    kind: str = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The body, cut at blank lines."""
        return [part.strip() for part in self.body.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Notice:
    """A warning: something that the reader must know before trusting the page."""

    body: str
    kind: str = "warning"


@dataclass(frozen=True)
class Cell:
    """A table cell: a value, a smaller second line, and a tone."""

    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; plain strings serve as cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    heading: str = ""
    caption: str = ""
    kind: str = "table"

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{i}]: {len(row)} cells: must be {len(self.columns)}, one a column")

    @property
    def cells(self) -> list[list[Cell]]:
        """Every row with strings turned into cells."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A plot or picture (markup made by eval.pages.plots, trusted) with a title and a caption."""

    markup: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Figures side by side, as many as fit; wide ones take a row each."""

    figures: Sequence[Figure]
    heading: str = ""
    intro: str = ""
    wide: bool = False
    kind: str = "figures"


Section = Text | Notice | Table | Figures


def render(path: str | Path, title: str, sections: Sequence[Section], *, lead: str = "") -> None:
    """Write one self-contained HTML page, atomically.

    Args:
        path: file to write; folders are made.
        title: page title.
        sections: in reading order. All text is escaped; only a Figure's markup enters as it is.
        lead: one sentence under the title.
    Raises:
        OSError: the file cannot be written.
    """
    html = _environment(escape=True).get_template("page.html").render(title=title, lead=lead, sections=sections)
    write_text_atomic(Path(path), html)


def write_result(path: Path, result: Mapping[str, Any]) -> str:
    """Write a result as JSON, atomically; folders are made. Returns the text.

    Raises:
        OSError: the file cannot be written.
    """
    text = to_json(result)
    write_text_atomic(path, text + "\n")
    return text


def to_json(result: Mapping[str, Any]) -> str:
    """A result as JSON text, as it stands in its file."""
    return json.dumps(result, indent=1, allow_nan=False)


class Prose:
    """The sentences of one page: `prose.caption(n=3)` fills in the macro `caption` of its template."""

    def __init__(self, name: str) -> None:
        self._macros = _environment(escape=False).get_template(f"{name}.txt").module

    def __getattr__(self, name: str) -> Callable[..., str]:
        macro = getattr(self._macros, name)

        def fill(**values: Any) -> str:
            paragraphs = str(macro(**values)).strip().split("\n\n")
            return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

        return fill


def fill_template(name: str, **values: Any) -> str:
    """A whole text from templates/NAME, nothing escaped."""
    return str(_environment(escape=False).get_template(name).render(**values))


def _environment(escape: bool) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["count"] = "{:,}".format
    return environment
