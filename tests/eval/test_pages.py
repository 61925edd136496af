"""What every page is made of: escaped text, tables, plots, picture grids, and sentences from templates."""

import base64
import io
import re

import numpy as np
import pytest

from eval.pages.page import TEMPLATES, Cell, Figure, Figures, Notice, Prose, Table, Text, render
from eval.pages.plots import histogram_plot, image_grid, line_plot
from eval.pages.tables import markdown_table, number, side_by_side, span, text_table
from eval.twins.interpreters import ROOT
from tests.eval.html import read_page


def test_a_number_has_three_digits_or_is_a_dash():
    assert [number(value) for value in (0.123456, 1234.0, None)] == ["0.123", "1.23e+03", "–"]
    assert span(0.5, 2.0) == "0.5 to 2" and span(None, None) == ""


def test_columns_of_text_are_aligned():
    rows = [["metric", "value"], ["a", "1"], ["longer name", "12.5"]]
    lines = text_table(rows).splitlines()
    assert [line.split() for line in lines] == [row[0].split() + row[1:] for row in rows]
    assert len({len(line) for line in lines}) == 1 and lines[1].endswith("    1")


def test_a_markdown_table_has_a_rule_below_its_head():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_side_by_side_has_a_dash_where_a_column_has_no_such_key():
    columns = {"x": {"first_key": 1}, "y": {"other": 2}}
    assert side_by_side(columns) == [["first key", "1", "–"], ["other", "–", "2"]]
    assert side_by_side(columns, ["other"]) == [["other", "–", "2"]]


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.txt")), ids=lambda path: path.stem)
def test_every_sentence_of_a_template_is_used(template):
    """A macro that no page fills in is dead text; `prose.` or another macro must call it."""
    code = "\n".join(path.read_text() for path in (ROOT / "eval").rglob("*.py"))
    text = template.read_text()
    for name in re.findall(r"{% macro (\w+)\(", text):
        assert re.search(rf"prose\.{name}\(|Prose\(\"{template.stem}\"\)\.{name}\(", code) or "{{ " + name + "(" in text


def test_sentences_are_filled_in_and_their_lines_joined():
    text = Prose("sweep").few(n=12, protocol=2000)
    assert "12" in text and "2,000" in text and "\n" not in text
    assert Prose("parity").how().count("\n\n") == 1, "paragraphs stay apart"


def test_page_escapes_text_and_checks_tables(tmp_path):
    svg = line_plot({"a": {"x": [1, 2], "y": [1, 3]}}, "x <", "y", label='"quoted" <label>')
    sections = [
        Notice("a < b & c"),
        Text("one\n\ntwo <b>", "Head <i>"),
        Table(["", "v"], [["r <", Cell("1", "d >", "good")]], caption="cap <"),
        Figures([Figure(svg, "f <", "c <")], wide=True),
    ]
    render(tmp_path / "deep/p.html", "T <t>", sections, lead="l <")
    page = read_page(tmp_path / "deep/p.html")
    text = page.html
    assert page.stands_alone() and page.headings == ["T <t>", "Head <i>"] and page.warnings == 1
    for token in ("<b>", "<i>", "T <t>", "a < b"):
        assert token not in text
    assert text.count("<p>") == 2 and 'class="good"' in text and 'class="figures wide"' in text
    with pytest.raises(ValueError, match=r"rows\[0\]: 1 cells: must be 2"):
        Table(["a", "b"], [["x"]])


def test_plots_take_the_page_colour_and_repeat_bit_for_bit():
    curve = {"x": [1, 2], "y": [1, 10], "low": [0.5, 5], "high": [2, 20]}
    plot = line_plot({"real": curve, "g": curve}, "x", "y", label="l", log_y=True)
    assert plot == line_plot({"real": curve, "g": curve}, "x", "y", label="l", log_y=True)
    assert plot != line_plot({"real": curve, "g": curve}, "x", "y", label="l")
    assert "currentColor" in plot and "#010203" not in plot and plot.startswith("<svg") and "<g id=" not in plot
    assert "real" in histogram_plot([0, 1, 2], {"real": [0.5, 0.5]}, "x", label="l")


def test_image_grid_places_pixels():
    from PIL import Image

    def pixels(markup):
        data = re.search(r"base64,([^\"]+)", markup).group(1)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))

    images = np.stack([np.full((4, 6, 3), v) for v in (0.0, 0.5, 1.0)])
    sheet = pixels(image_grid(images, 2, label="<l>", gap=2))
    scale = 52  # 720 pixels over 6 + 2 + 6, rounded up
    assert sheet.shape == (10 * scale, 14 * scale, 4)
    small = sheet[::scale, ::scale]
    assert (small[:4, :6] == [0, 0, 0, 255]).all() and (small[:4, 8:] == [128, 128, 128, 255]).all()
    assert (small[6:, :6] == 255).all() and (small[:, 6:8, 3] == 0).all() and (small[6:, 8:, 3] == 0).all()
    signed = pixels(image_grid(np.array([-1.0, 0, 1]).reshape(3, 1, 1, 1), 3, label="d", signed=True, gap=0))
    low, zero, high = signed[0, [0, 360, 719], :3].astype(int)
    assert low[2] > low[0] and high[0] > high[2] and zero.min() > 240
    assert "&lt;l&gt;" in image_grid(images, 2, label="<l>")
    with pytest.raises(ValueError, match="columns"):
        image_grid(images, 0, label="l")
