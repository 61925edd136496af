"""The damage study as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.pages.page import fill_template
from eval.pages.tables import markdown_table, number
from eval.studies.damage_scores import ALL_METRICS

LABELS = {metric.key: metric.label for metric in ALL_METRICS}


def seen_from(found: Mapping[str, Any], strengths: Sequence[float]) -> float | None:
    """The weakest strength from which on a metric sees the damage; None where it does not see the strongest."""
    seen = [entry["seen"] for entry in found["strengths"]]
    return next((strength for i, strength in enumerate(strengths) if all(seen[i:])), None)


def _overview(result: Mapping[str, Any]) -> str:
    """Metrics by damage: the weakest strength seen, with a star where the metric rises with every step."""
    rows = []
    for key, label in LABELS.items():
        row = [label]
        for damage in result["damages"]:
            found = damage["metrics"][key]
            weakest = seen_from(found, damage["strengths"])
            row.append("–" if weakest is None else f"{weakest:g}{' *' if found['monotone'] else ''}")
        rows.append(row)
    return markdown_table(["Seen from", *(damage["label"] for damage in result["damages"])], rows)


def _damage_table(result: Mapping[str, Any], damage: Mapping[str, Any]) -> str:
    """Each metric of one kind of damage as a multiple of its floor."""

    def cell(key: str, entry: Mapping[str, Any]) -> str:
        base = result["floor"][key]["mean"]
        text = f"{entry['mean'] / base:.2f}" if base else number(entry["mean"])
        return f"**{text}**" if entry.get("seen") else text

    rows = []
    for key, found in damage["metrics"].items():
        cells = [cell(key, entry) for entry in (result["whole"][key], *found["strengths"])]
        floor = number(result["floor"][key]["mean"])
        rows.append([LABELS[key], floor, *cells, "yes" if found["monotone"] else "no"])
    head = [damage["label"], "floor", "0", *(f"{strength:g}" for strength in damage["strengths"]), "rises"]
    return markdown_table(head, rows)


def markdown(result: Mapping[str, Any]) -> str:
    """The result as tables: each metric as a multiple of its floor, bold where it lies above the floor in every cut."""
    tests = result["substructure"]["tests"]
    rows = [[LABELS[k], number(t["observed"]), number(t["null_95"]), f"{t['p']:.3f}"] for k, t in tests.items()]
    head = ["Class no only against the mixture", "observed", "95 % of permutations below", "p"]
    return fill_template(
        "damage.md",
        protocol=result["protocol"],
        overview=_overview(result),
        tables=[_damage_table(result, damage) for damage in result["damages"]],
        substructure=markdown_table(head, rows),
        no=result["substructure"]["no_probability"],
    )
