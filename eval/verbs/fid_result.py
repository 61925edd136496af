"""The result of `eval fid` as people read it, and whether a published one is reproduced. Imports eval's own modules only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.command_line import RunError
from core.files import write_atomically
from eval.twins.client import Framework
from eval.verbs.fid import REPRODUCED, Request, evaluate, save_statistics

IDENTITY = (("extractor", "name"), ("extractor", "weights_sha256"), ("extractor", "resize"), ("real", "sha256"), ("generated", "sha256"))  # fmt: skip
NUMBERS = (("frechet", "value"), ("floor", "mean"), ("kid", "value"))


def _get(result: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        result = result.get(key) or {}
    return None if result == {} else result


def text_table(result: Mapping[str, Any]) -> str:
    """The numbers, one a line, then what they were measured with, then the warnings."""
    frechet, extractor = result["frechet"], result["extractor"]
    unit = f"{extractor['name']}, {extractor['tap']}" + (
        f", {extractor['resize']}" if extractor["name"] == "inception" else ""
    )
    lines = [
        (
            "Fréchet distance",
            f"{frechet['value']:.4g}"
            + (f"  [{frechet['low']:.4g}, {frechet['high']:.4g}]" if "low" in frechet else ""),
            unit,
        )
    ]
    if result["n"]:
        floor, score = result["floor"], result["kid"]
        lines.append(
            (
                "  real against real",
                f"{floor['mean']:.4g} ± {floor['std']:.2g}",
                f"the same N, {len(floor['values'])} draws",
            )
        )
        if result["infinity"]:
            lines.append(
                (
                    "  for infinite N",
                    f"{result['infinity']['value']:.4g} ± {result['infinity']['standard_error']:.2g}",
                    "extrapolated in 1/N",
                )
            )
        lines.append(("KID", f"{score['value']:.3g} ± {score['standard_error']:.2g}", "unbiased, ± standard error"))
        lines += [
            (name.capitalize(), f"{result[name]:.3f}", "") for name in ("precision", "recall", "density", "coverage")
        ]
    if "inception_score" in result:
        score = result["inception_score"]
        lines.append(("Inception Score", f"{score['mean']:.3f} ± {score['std']:.2g}", f"{score['splits']} splits"))
    for name, entry in result.get("lens", {}).get("parameters", {}).items():
        lines.append((f"{name}, Wasserstein", f"{entry['value']:.3g}", f"floor {entry['floor']:.3g}"))
    agreement = result.get("lens", {}).get("class_agreement")
    if agreement is not None:
        lines.append(("Taken for their class", f"{agreement:.3f}", "share of the generated images"))
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    table = [f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}".rstrip() for a, b, c in lines]
    n = f"N = {result['n']:,} images a side" if result["n"] else "saved statistics"
    return "\n".join([n, *table, *(f"warning: {text}" for text in result["warnings"])])


def compare_with(expected: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """One line for everything that keeps a published result from being reproduced; none where it is.

    Args:
        expected: the published file's values.
        result: those of now.
    """
    found = []
    if expected.get("n") != result["n"]:
        found.append(f"n: {expected.get('n')} there, {result['n']} here")
    for path in IDENTITY:
        there, here = _get(expected, path), _get(result, path)
        if there != here:
            found.append(f"{' '.join(path)}: {str(there)[:16]} there, {str(here)[:16]} here")
    for path in NUMBERS:
        there, here = _get(expected, path), _get(result, path)
        if (there is None) != (here is None) or (there is not None and abs(there - here) > REPRODUCED * max(abs(there), abs(_get(result, ("floor", "mean")) or 0.0))):  # fmt: skip
            found.append(f"{' '.join(path)}: {there} there, {here} here")
    return found


def read_result(path: Path) -> dict[str, Any]:
    """A published result.

    Raises:
        ValueError: a file that cannot be read or is no result of `eval fid`.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--expect {path}: cannot be read: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("frechet"), dict) or "extractor" not in values:
        raise ValueError(f"--expect {path}: is no result of `eval fid`")
    return values


def run(
    request: Request,
    *,
    out: str | None,
    expect: str | None,
    statistics: str | None,
    as_json: bool,
    pythons: Mapping[Framework, str | None],
) -> str:
    """Measure, write, compare.

    Args:
        request: what to measure.
        out: file for the result, or None.
        expect: a published result to reproduce, or None.
        statistics: .npz file for the real images' mean and covariance, or None.
        as_json: return the result file's text rather than the table.
        pythons: framework -> its interpreter.
    Returns:
        What to print on stdout.
    Raises:
        ValueError: input that the user must change.
        RunError: a published result is not reproduced, or a twin failed; the result is written all the same.
    """
    expected = read_result(Path(expect)) if expect else None
    result, gaussian = evaluate(request, pythons)
    text = json.dumps(result, indent=1, allow_nan=False)
    lines = [text if as_json else text_table(result)]
    if statistics:
        save_statistics(Path(statistics), result, gaussian)
        lines += [] if as_json else [f"wrote {statistics}"]
    if out:
        write_atomically(out, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        lines += [] if as_json else [f"wrote {out}"]
    if expected is not None:
        apart = compare_with(expected, result)
        if apart:
            raise RunError(f"{expect}: not reproduced: " + "; ".join(apart))
        lines += [] if as_json else [f"{expect}: reproduced, to {REPRODUCED:g}"]
    return "\n".join(lines)
