"""The distance that a request names, with everything it depends on, and whether a published one is reproduced."""

from __future__ import annotations

import dataclasses
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.reading import check_kinds, read_json
from eval.measure import distance
from eval.measure.comparable import assumptions, check_comparable, named
from eval.measure.image_sets import Images, ImageSet, is_run, read_image_set
from eval.measure.metrics import measure_all, rows
from eval.measure.request import DistanceRequest
from eval.measure.saved import check_given, check_statistics
from eval.twins.drawn import draw_from
from eval.twins.features import GIVEN, FeatureExtractor, Taps, open_extractor, open_features
from eval.twins.interpreters import ROOT, Framework, first_framework

OF_DRAWING = ("sampler", "steps", "nfe", "spacing", "eta", "variance", "clip", "weights", "seed", "first", "dtype")
OF_ORIGIN = (
    "framework",
    "weights_sha256",
    "source",
    "split",
    "data_sha256",
    "fit",
    "normalise",
    "stored",
    "n",
    "extractor",
)
REPRODUCED = 1e-3
"""Relative difference within which a published distance counts as reproduced: float32 features give 1e-5, and other
processors' convolutions somewhat more."""
IDENTITY = ("extractor name", "extractor weights_sha256", "extractor resize", "real sha256", "generated sha256")
NUMBERS = ("frechet value", "floor mean", "kid value")


def code_version() -> str:
    """The project's version and, in a git checkout, the commit."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return str(version)
    return f"{version}+{answer.stdout.strip()[:12]}" if answer.returncode == 0 else str(version)


def _sides(request: DistanceRequest, framework: Framework) -> tuple[ImageSet, ImageSet]:
    """Both sides, made comparable. Files take the generated images' size; no more images are drawn than serve."""
    n, how, held_out = request.n or distance.PROTOCOL_N, request.fit, None

    def draw(run: Path) -> Path:
        return draw_from(run, n, framework)

    if is_run(Path(request.real)):
        held_out = read_image_set(request.real, "real", draw)
        if not request.n:
            n = min(n, *(len(images) for images in (held_out.images, held_out.others) if images is not None))
    generated = read_image_set(request.generated, "generated", draw)
    size = generated.images.shape[1:3] if generated.images is not None and how != "exact" else None
    real = held_out or read_image_set(request.real, "real", draw, size, how)
    train = read_image_set(request.train, "real", draw, size, how) if request.train else None
    if train:
        split = f"apart from {request.train}, as the command says"
        real = dataclasses.replace(real, others=train.rows(), about={**real.about, "split": split})
    if request.eight_bit:
        real, generated = real.rounded(), generated.rounded()
    check_comparable(real, generated)
    if train:
        check_comparable(train.rounded() if request.eight_bit else train, generated)
    return real, generated


def evaluate(request: DistanceRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of the result file, and the real images' mu and sigma (none where a side is saved statistics).

    Raises:
        ValueError: input that the user must change. RunError: a twin failed.
    """
    framework = first_framework(request.framework)
    if check_given(request):
        extractor = GIVEN
    else:
        extractor = open_extractor(request.extractor, request.resize, request.weights)
        for side in (request.real, request.generated):
            check_statistics(side, extractor.name, extractor.resize)
    real, generated = _sides(request, framework)
    for images in (real.images, generated.images):
        if images is not None:
            extractor.check_channels(images.shape[3])
    gaussian: dict[str, Any] = {}
    with open_features(extractor, framework) as (features, environment):
        if real.statistics or generated.statistics:
            main = extractor.taps[0]
            sides = [s.statistics or distance.moments(features(_first(s, request.n))[main]) for s in (real, generated)]
            numbers, dim = distance.measure_statistics(*sides), len(sides[0][0])
            numbers["n"] = {"real": _count(real, request.n), "generated": _count(generated, request.n)}
        else:
            numbers, gaussian = _measure(request, extractor, real, generated, features)
            dim = len(gaussian["mu"])
    result = {
        **numbers,
        "n_why": {"real": _why(real, "REAL", request.n), "generated": _why(generated, "GENERATED", request.n)},
        "extractor": extractor.about() | named(real, generated) | {"features": dim},
        "real": _about(real),
        "generated": _about(generated),
        "eight_bit": request.eight_bit,
        "seed": request.seed,
        "assumed": assumptions(real, generated),
        "warnings": distance.warnings(real, generated, numbers, dim, extractor.name),
        "environment": environment,
        "code": code_version(),
    }
    return result, gaussian


def _measure(
    request: DistanceRequest,
    extractor: FeatureExtractor,
    real: ImageSet,
    generated: ImageSet,
    features: Callable[[Images], Taps],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every number of two sets of images, and the real images' mu and sigma."""
    part = distance.cut(real, generated, request.n, request.seed)
    of_real, of_generated = features(part.real), features(part.generated)
    of_spare = features(part.spare) if len(part.spare) else {tap: rows[:0] for tap, rows in of_real.items()}
    main = extractor.taps[0]
    numbers = distance.measure(of_real[main], of_generated[main], of_spare[main], request.seed)
    numbers["floor"]["of"] = "halves of REAL" if real.others is None else f"{len(real.others):,} other real images"
    if extractor.name == "lens":
        labels = generated.about.get("labels")
        labels = None if labels is None else np.array(labels)
        numbers["lens"] = distance.lens_numbers(of_real, of_generated, of_spare, labels)
    elif extractor.name == "inception":
        numbers |= measure_all(rows("inception"), of_generated, of_real)
    return numbers, {"mu": of_real[main].mean(axis=0), "sigma": np.cov(of_real[main], rowvar=False)}


def _first(side: ImageSet, n: int) -> Images:
    """The first n images of a side whose other side is saved statistics; all for 0.

    Raises:
        ValueError: fewer than n images.
    """
    images = side.rows()
    if n > len(images):
        raise ValueError(f"--n {n}: must be at most {len(images):,}, the images of {side.path}")
    return images[: n or len(images)]


def _count(side: ImageSet, n: int) -> int | None:
    """How many images a side is of that is not held against images; None where its statistics do not say it."""
    if side.statistics is None:
        return len(_first(side, n))
    count = side.about.get("n")
    return count if isinstance(count, int) and count > 0 else None


def _why(side: ImageSet, name: str, n: int) -> str:
    """Why a side's N is what it is."""
    if side.statistics is not None:
        return f"{name} is saved statistics" + (", which do not say it" if _count(side, n) is None else "")
    return f"--n, of the {len(side.rows()):,} images of {name}" if n else f"all images of {name}"


def _about(side: ImageSet) -> dict[str, Any]:
    """Where a side comes from and what its pixels are."""
    kept = {key: value for key, value in side.about.items() if key in OF_DRAWING + OF_ORIGIN}
    shape = None if side.statistics else list(side.rows().shape)
    return {"path": side.path, "shape": shape, "sha256": side.fingerprint(), **kept}


def read_result(path: Path) -> dict[str, Any]:
    """A published result of `eval fid`.

    Raises:
        ValueError: damaged, or something else; the message names the file.
    """
    result = read_json(path)
    if not (isinstance(result.get("frechet"), dict) and "extractor" in result):
        raise ValueError(f"--expect {path}: is no result of `eval fid`")
    for kind, entries in ((str, IDENTITY), (float, NUMBERS)):
        for part, key in (entry.split() for entry in entries):
            if result.get(part) is not None:
                check_kinds(path, result, {part: dict})
                check_kinds(f"{path}: {part}", result[part], {key: kind} if result[part].get(key) is not None else {})
    return result


def differences(expected: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """One line for everything that keeps a published result from being reproduced; none where it is.

    Args:
        expected: the published file's values.
        result: those of now.
    """

    def entry(values: Mapping[str, Any], path: str) -> Any:
        part, key = path.split()
        return (values.get(part) or {}).get(key)

    there = expected.get("n")
    n = there if isinstance(there, dict) else {"real": there, "generated": there}  # older files: one N for both sides
    found = [
        f"n {side}: {n.get(side)} there, {count} here" for side, count in result["n"].items() if n.get(side) != count
    ]
    for path in IDENTITY:
        there, here = entry(expected, path), entry(result, path)
        if there != here:
            found.append(f"{path}: {str(there)[:16]} there, {str(here)[:16]} here")
    for path in NUMBERS:
        there, here = entry(expected, path), entry(result, path)
        scale = max(abs(there or 0.0), abs(entry(result, "floor mean") or 0.0))
        if (there is None) != (here is None) or (here is not None and abs(there - here) > REPRODUCED * scale):
            found.append(f"{path}: {there} there, {here} here")
    return found
