"""The verb `damage`: simulate, spoil, measure; damage.json and damage.md. Imports eval's own modules and core only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.extractors.lens import LARGEST, SMALLEST
from core.files import write_atomically
from eval.pages.compare_page import number
from eval.studies.damages import ALL_METRICS, DAMAGES, SPLITS, Features, Pools
from eval.twins.client import Framework, Worker
from eval.twins.features import FeatureWorker, open_extractor

PERMUTATIONS = 199
SUBSTRUCTURE_FEATURES = ("lens", "lens_classes", "lens_theta_e", "thumbnail", "power")
SUBSTRUCTURE_METRICS = [
    m
    for m in ALL_METRICS
    if m.key in ("lens_frechet", "lens_classes", "lens_theta_e", "frechet_thumbnail", "power_spectrum")
]


def _rows(features: Features, rows: npt.NDArray[Any]) -> Features:
    return {key: value[rows] for key, value in features.items()}


def _summary(values: list[float], whole: list[float] | None = None) -> dict[str, Any]:
    """Mean and range over the splits; `seen` where all of it lies above all that whole images give."""
    result = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
    return result if whole is None else {**result, "seen": min(values) > max(whole)}


def study(pools: Pools) -> dict[str, Any]:
    """Every metric of every spoilt set against the reference, and the floor, over SPLITS random cuts of the real images.

    Returns:
        floor and whole, by metric: mean, min, max; damages: key, label, strengths and, by metric, one such entry a
        strength with `seen`, above both floor and whole, and `monotone`: whether the mean rises with every step of
        strength. `whole` are the images that the spoilt sets grew out of, unspoilt: they tell what is chance in them.
    """
    sets = {(d.key, s): pools.spoilt(d, s) for d in DAMAGES for s in d.strengths}
    sets["whole", 0.0] = _rows(pools.features["other"], np.arange(pools.n))
    values: dict[str, dict[tuple[str, float], list[float]]] = {m.key: {k: [] for k in sets} for m in ALL_METRICS}
    floors: dict[str, list[float]] = {m.key: [] for m in ALL_METRICS}
    for split in range(SPLITS):
        order = np.random.Generator(np.random.Philox(key=[pools.seed, 2 + split])).permutation(2 * pools.n)
        reference, rest = (_rows(pools.features["real"], part) for part in (order[: pools.n], order[pools.n :]))
        for metric in ALL_METRICS:
            floors[metric.key].append(metric.measure(rest, reference))
            for key, features in sets.items():
                values[metric.key][key].append(metric.measure(features, reference))
    damages = []
    for damage in DAMAGES:
        found = {}
        for metric in ALL_METRICS:
            of, chance = values[metric.key], floors[metric.key] + values[metric.key]["whole", 0.0]
            entries = [_summary(of[damage.key, s], chance) for s in damage.strengths]
            rising = bool(np.all(np.diff([entry["mean"] for entry in entries]) > 0))
            found[metric.key] = {"strengths": entries, "monotone": rising}
        damages.append({"key": damage.key, "label": damage.label, "strengths": damage.strengths, "metrics": found})
    return {
        "floor": {key: _summary(floor) for key, floor in floors.items()},
        "whole": {m.key: _summary(values[m.key]["whole", 0.0]) for m in ALL_METRICS},
        "damages": damages,
    }


def substructure(pools: Pools) -> dict[str, Any]:
    """Are images of class no told from the mixture of all classes? A permutation test of each metric, N against N.

    Returns:
        no_probability: the mean probability of class no in both sets, and their difference with its 95 % interval
        (normal). tests, by metric: observed, the 95 % quantile of the same metric with the labels of the images
        permuted, and p: the share of permutations (the observed one included) that reach the observed value.
    Source: Phipson & Smyth 2010 for p.
    """
    n = pools.n
    first, second = pools.features["smooth"], _rows(pools.features["real"], np.arange(n))
    joined = {key: np.concatenate([first[key], second[key]]) for key in SUBSTRUCTURE_FEATURES}
    rng = np.random.Generator(np.random.Philox(key=[pools.seed, 100]))
    null: dict[str, list[float]] = {metric.key: [] for metric in SUBSTRUCTURE_METRICS}
    for _ in range(PERMUTATIONS):
        order = rng.permutation(2 * n)
        halves = _rows(joined, order[:n]), _rows(joined, order[n:])
        for metric in SUBSTRUCTURE_METRICS:
            null[metric.key].append(metric.measure(*halves))
    tests = {}
    for metric in SUBSTRUCTURE_METRICS:
        observed, permuted = metric.measure(first, second), null[metric.key]
        p = (1 + sum(value >= observed for value in permuted)) / (1 + PERMUTATIONS)
        tests[metric.key] = {"observed": observed, "null_95": float(np.quantile(permuted, 0.95)), "p": p}
    shares = [features["lens_classes"][:, 0] for features in (first, second)]
    difference = float(shares[0].mean() - shares[1].mean())
    half = 1.96 * float(np.sqrt(sum(share.var(ddof=1) / n for share in shares)))
    no = {
        "class_no": float(shares[0].mean()),
        "mixture": float(shares[1].mean()),
        "difference": difference,
        "interval": [difference - half, difference + half],
    }
    return {"permutations": PERMUTATIONS, "no_probability": no, "tests": tests}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seen_from(found: dict[str, Any], strengths: list[float]) -> float | None:
    """The weakest strength from which on a metric sees the damage; None where it does not see the strongest."""
    seen = [entry["seen"] for entry in found["strengths"]]
    return next((s for i, s in enumerate(strengths) if all(seen[i:])), None)


def _overview(result: dict[str, Any], labels: dict[str, str]) -> str:
    """Metrics by damage: the weakest strength seen, with a star where the metric rises with every step."""
    rows = []
    for key, label in labels.items():
        row = [label]
        for damage in result["damages"]:
            found = damage["metrics"][key]
            weakest = seen_from(found, damage["strengths"])
            row.append("–" if weakest is None else f"{weakest:g}{' *' if found['monotone'] else ''}")
        rows.append(row)
    return _table(["Seen from", *(damage["label"] for damage in result["damages"])], rows)


def markdown(result: dict[str, Any]) -> str:
    """The result as tables: each metric as a multiple of its floor; bold where it lies above the floor in every split."""
    protocol, floor = result["protocol"], result["floor"]
    parts = [
        f"N = {protocol['n']:,} images a side, {protocol['size']} px over {protocol['field_of_view']:g} arcsec, "
        f"{SPLITS} random cuts of the reference. Numbers are multiples of the floor, whole images against whole images; "
        "**bold**, seen, where the metric lies in every cut above the largest value that whole images give in any. Column "
        "0: the images before they are spoilt. The last column says whether the metric rises with every step. The first "
        "table has the weakest strength from which on damage is seen, with a star where the metric rises with every step."
    ]
    labels = {m.key: m.label for m in ALL_METRICS}
    parts.append(_overview(result, labels))

    def cell(key: str, entry: dict[str, Any]) -> str:
        base = floor[key]["mean"]
        text = f"{entry['mean'] / base:.2f}" if base else number(entry["mean"])
        return f"**{text}**" if entry.get("seen") else text

    for damage in result["damages"]:
        head = [damage["label"], "floor", "0", *(f"{s:g}" for s in damage["strengths"]), "rises"]
        rows = []
        for key, found in damage["metrics"].items():
            cells = [cell(key, entry) for entry in (result["whole"][key], *found["strengths"])]
            rows.append([labels[key], number(floor[key]["mean"]), *cells, "yes" if found["monotone"] else "no"])
        parts.append(_table(head, rows))
    seen = result["substructure"]
    rows = [[labels[k], number(t["observed"]), number(t["null_95"]), f"{t['p']:.3f}"] for k, t in seen["tests"].items()]
    parts.append(
        _table(["Class no only against the mixture", "observed", "95 % of permutations below", "p"], rows)
        + "\n\nMean probability of class no: {class_no:.4f} in class no, {mixture:.4f} in the mixture; difference "
        "{difference:+.4f}, 95 % interval ".format(**seen["no_probability"])
        + "[{:+.4f}, {:+.4f}].".format(*seen["no_probability"]["interval"])
    )
    return "\n\n".join(parts) + "\n"


def run(
    out: str, *, n: int, size: int, field_of_view: float, seed: int, framework: Framework, python: str | None
) -> str:
    """Do the study and write damage.json and damage.md.

    Args:
        out: folder; made where it is missing.
        n: images a set, at least 100.
        size: of the images in pixels; field_of_view: in arcsec.
        seed: of images, damage and cuts.
        framework: the twin that evaluates the extractor; python: as find_python's override.
    Returns:
        The tables.
    Raises:
        ValueError: input that the user must change; RuntimeError: the twin failed; OSError: cannot be written.
    """
    if n < 100:
        raise ValueError(f"n = {n}: must be at least 100 images")
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size = {size}: must be in [{SMALLEST}, {LARGEST}] pixels, which the lens extractor takes")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed = {seed}: must be in [0, 2^31)")
    extractor = open_extractor("lens", "clean", None)
    with Worker(framework, python=python) as worker:
        pools = Pools(n, size, field_of_view, seed, FeatureWorker(worker, extractor))
    protocol = {"n": n, "size": size, "field_of_view": field_of_view, "seed": seed, "splits": SPLITS, "framework": framework, "extractor_sha256": extractor.sha256}  # fmt: skip
    result = {"protocol": protocol, **study(pools), "substructure": substructure(pools)}
    text, table = json.dumps(result, indent=1, allow_nan=False), markdown(result)
    write_atomically(Path(out) / "damage.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    write_atomically(Path(out) / "damage.md", lambda path: path.write_text(table, encoding="utf-8"))
    return table
