"""The race as Markdown, as a plot and as a page. Its sentences stand in templates/race.txt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.measure.race_measure import smallest_n
from eval.measure.race_table import CONTESTANTS, SETS, ContestantName, SetName
from eval.pages.page import Figure, Figures, Prose, Section, Table, render
from eval.pages.plots import as_file, line_plot
from eval.pages.tables import markdown_table, number

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """One contestant in one cell: its results by seed."""

    contestant: ContestantName
    minutes: float
    n: int
    """The cell's N."""
    results: Sequence[Result]

    def fact(self, name: str) -> float:
        """The mean of a fact."""
        return float(sum(result["facts"][name] for result in self.results) / len(self.results))

    def measured(self) -> list[Mapping[str, Any]]:
        """What was measured at the cell's N, a seed at a time."""
        return [result["measured"][str(self.n)] for result in self.results]

    def distance(self, feature: str) -> dict[str, float]:
        """Mean distance of the seeds, the lowest and highest end of their intervals, and the floor."""
        numbers = [entry["features"][feature] for entry in self.measured()]
        frechet = [entry["frechet"] for entry in numbers]
        return {
            "value": sum(entry["value"] for entry in frechet) / len(frechet),
            "low": min(entry["low"] for entry in frechet),
            "high": max(entry["high"] for entry in frechet),
            "floor": numbers[0]["floor"]["mean"],
        }


def groups_of(results: Sequence[Result], name: SetName) -> list[Group]:
    """The groups of a set: by minutes, then from the smallest distance up."""
    here = [result for result in results if result["made_from"]["set"] == name]
    groups: list[Group] = []
    for minutes in sorted({result["made_from"]["minutes"] for result in here}):
        cell = [result for result in here if result["made_from"]["minutes"] == minutes]
        n = smallest_n(cell)
        cell = [result for result in cell if str(n) in result["measured"]]
        for contestant in dict.fromkeys(result["made_from"]["contestant"] for result in cell):
            own = [result for result in cell if result["made_from"]["contestant"] == contestant]
            groups.append(Group(contestant, minutes, n, own))
    first = SETS[name].features[0]
    return sorted(groups, key=lambda group: (group.minutes, group.distance(first)["value"]))


def names_of(results: Sequence[Result]) -> list[SetName]:
    """The sets that have results."""
    return [name for name in SETS if any(result["made_from"]["set"] == name for result in results)]


def table(results: Sequence[Result], name: SetName) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a set's table."""
    features = SETS[name].features
    head = ["Minutes", "Contestant", "Seeds", "N"]
    for feature in features:
        head += [f"Fréchet distance, {feature} [95 %]", "above the floor / floor"]
    head += ["Seconds", "Steps", "Images seen", "Parameters", "Drawing, s", "Sampler", "Near a training image"]
    rows = []
    for group in groups_of(results, name):
        row = [f"{group.minutes:g}", CONTESTANTS[group.contestant].title, str(len(group.results)), f"{group.n:,}"]
        for feature in features:
            found = group.distance(feature)
            row.append(f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]")
            row.append(number((found["value"] - found["floor"]) / found["floor"]))
        facts = [f"{group.fact(key):,.0f}" for key in ("seconds", "steps", "images_seen", "parameters")]
        share = sum(entry["nearest_share"] for entry in group.measured()) / len(group.results)
        drawing = f"{group.fact('drawing_seconds'):,.0f} for {group.fact('n'):,.0f}"
        rows.append([*row, *facts, drawing, group.results[0]["facts"]["sampler"], f"{100 * share:.1f} %"])
    return head, rows


def curves(results: Sequence[Result], name: SetName, feature: str) -> str:
    """The distance of every start against the seconds of its training, and the floor, as SVG."""
    groups, found = groups_of(results, name), dict[str, dict[str, list[float]]]()
    for group in groups:
        curve = found.setdefault(CONTESTANTS[group.contestant].title, {"x": [], "y": [], "low": [], "high": []})
        for result, entry in zip(group.results, group.measured(), strict=True):
            frechet = entry["features"][feature]["frechet"]
            for key, value in (("x", result["facts"]["seconds"]), *((k, frechet[v]) for k, v in ENDS)):
                curve[key].append(value)
    seconds = [x for curve in found.values() for x in curve["x"]]
    floor = groups[0].distance(feature)["floor"]
    found["real"] = {"x": [0.9 * min(seconds), 1.1 * max(seconds)], "y": [floor, floor]}
    label = f"Fréchet distance, {feature} features"
    return line_plot(found, "seconds of training", label, label=label, log_x=True, log_y=True, points=True)


ENDS = (("y", "value"), ("low", "low"), ("high", "high"))


def plots(results: Sequence[Result]) -> Iterator[tuple[str, str, str]]:
    """The name of a set, a feature, and the plot."""
    for name in names_of(results):
        for feature in SETS[name].features:
            yield name, feature, curves(results, name, feature)


def race_text(results: Sequence[Result]) -> str:
    """Markdown: a table for each set, the floors, and the machine."""
    prose, parts = Prose("race"), []
    for name in names_of(results):
        parts += [f"## {name}", prose.floors(**_floors(results, name)), markdown_table(*table(results, name))]
    return "\n\n".join([*parts, prose.counted(**_settings(results))])


def _floors(results: Sequence[Result], name: SetName) -> dict[str, Any]:
    """The floor at each N and feature of a set, and the classifier's accuracy, None where there is no classifier."""
    known, accuracy = {}, None
    for group in groups_of(results, name):
        entry = group.measured()[0]
        accuracy = entry["classifier"].get("accuracy")
        for feature, numbers in entry["features"].items():
            known[group.n, feature] = {**numbers["floor"], "n": group.n, "feature": feature}
    return {"floors": list(known.values()), "accuracy": accuracy}


def _settings(results: Sequence[Result]) -> dict[str, Any]:
    """The machine and the threads, for the sentence below the tables."""
    loads = [load for result in results for load in result["machine"]["load_during"] or []]
    return {
        "machine": results[0]["machine"],
        "threads": results[0]["made_from"]["threads"],
        "load": max(loads, default=0.0),
    }


def write_race_page(folder: Path, results: Sequence[Result]) -> Path:
    """Write race.md, report.html and a plot for each set and feature into a folder; the path of report.html."""
    from core.files import write_text_atomic

    prose, sections = Prose("race"), list[Section]()
    write_text_atomic(folder / "race.md", race_text(results) + "\n")
    drawn = list(plots(results))
    for name, feature, markup in drawn:
        write_text_atomic(folder / f"race-{name}-{feature}.svg", as_file(markup))
    for name in names_of(results):
        figures = [Figure(markup, f"By {f} features", prose.plot()) for n, f, markup in drawn if n == name]
        sections += [
            Figures(figures, name, prose.floors(**_floors(results, name)), wide=True),
            Table(*table(results, name)),
        ]
    path = folder / "report.html"
    render(path, "The race", sections, lead=prose.counted(**_settings(results)))
    return path
