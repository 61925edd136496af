"""A page as a test sees it: what it would load, whether its tags close, its headings, tables and text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = ("meta", "img", "br", "link", "hr")


class Page(HTMLParser):
    """A page of eval, read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.loads: list[str] = []
        """Addresses in src, href and the like, and tags that load something by their nature."""
        self.open: list[str] = []
        """Tags that were not closed."""
        self.text = ""
        self.headings: list[str] = []
        self.tables: list[list[list[str]]] = []
        """Of each table its rows of cells, the header first."""
        self.warnings = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag loads, and begin a heading, a row or a cell."""
        values = dict(attrs)
        self.loads += [str(values[key]) for key in ("src", "href", "xlink:href", "srcset", "action") if key in values]
        self.loads += [tag] if tag in ("script", "link", "iframe") else []
        self.warnings += values.get("class") == "warning"
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """The innermost open tag must be the one that closes."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text, which also belongs to the heading or cell that is open."""
        if "style" in self.open:
            return
        self.text += data
        if {"h1", "h2"} & set(self.open):
            self.headings[-1] += data
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] = f"{self.tables[-1][-1][-1]} {data.strip()}".strip()

    def stands_alone(self) -> bool:
        """Whether all tags close and nothing but embedded pictures is loaded."""
        embedded = ("data:image/png;base64,", "#")
        return not self.open and all(x.startswith(embedded) for x in self.loads) and "@import" not in self.html

    def pictures(self) -> int:
        """Embedded pictures."""
        return self.html.count("data:image/png;base64,")

    def plots(self) -> int:
        """Embedded plots."""
        return self.html.count("<svg")


def read_page(path: Path) -> Page:
    """Read a page."""
    return Page(path.read_text(encoding="utf-8"))
