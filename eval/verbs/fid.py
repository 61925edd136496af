"""The verb `fid`: words of the command line in; a table, a result file and, where asked for, a verdict out.

Imports NumPy, core and eval's own modules: features and samples come from a twin, started as its own process.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import WEIGHTS_FILE, resolve_checkpoint
from core.files import file_hash, read_json, write_atomically
from eval.measure.distance import (
    PROTOCOL_N,
    choose,
    inception_numbers,
    lens_numbers,
    measure,
    measure_statistics,
    warnings,
)
from eval.measure.sides import Side, check_footing, is_run, read_side, round_to_eight_bits
from eval.twins.client import ROOT, Framework, find_python, run_verb
from eval.twins.features import FidExtractor, open_extractor, open_features

SHOWN_OF_SAMPLES = ("sampler", "steps", "nfe", "spacing", "eta", "variance", "clip", "weights", "seed", "first", "dtype", "framework", "weights_sha256")  # fmt: skip
REPRODUCED = 1e-3
"""Relative difference within which a published distance counts as reproduced: float32 features give 1e-5, and other
processors' convolutions somewhat more."""


def first_framework(asked: str | None, pythons: Mapping[Framework, str | None]) -> Framework:
    """The framework asked for, else the first that has an environment.

    Raises:
        ValueError: none has.
    """
    order: tuple[Framework, ...] = ("torch", "tensorflow")
    if asked:
        return next(framework for framework in order if framework == asked)
    for framework in order[:-1]:
        try:
            find_python(framework, pythons.get(framework))
        except ValueError:
            continue
        return framework
    return order[-1]


def draw_from(
    run: Path, n: int, framework: Framework, python: str | None, name: str = "fid-samples", **sampling: str | int
) -> Path:
    """The folder of the first n images of seed 0 that a run draws; drawn now, unless they are there.

    Args:
        run: its folder.
        n: number of images.
        framework, python: who draws.
        name: the folder's name, in the run's.
        sampling: `sampler` and `steps` in place of the recipe's.
    """
    out = run / name
    made_from = {
        "framework": framework,
        "n": n,
        "seed": 0,
        "weights_sha256": file_hash(resolve_checkpoint(run) / "unet" / WEIGHTS_FILE),
    }
    if (out / "manifest.json").is_file():
        manifest = read_json(out / "manifest.json")
        if all(manifest.get(key) == value for key, value in (made_from | sampling).items()):
            return out
    words = ["sample", str(run.resolve()), "--n", str(n), "--seed", "0", "--out", str(out.resolve()), "--overwrite"]
    run_verb(
        framework, words + [word for key, value in sampling.items() for word in (f"--{key}", str(value))], python=python
    )
    return out


def code_version() -> str:
    """The project's version and, in a git checkout, the commit."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return str(version)
    return f"{version}+{answer.stdout.strip()[:12]}" if answer.returncode == 0 else str(version)


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    real: str
    generated: str
    extractor: FidExtractor = "lens"
    resize: str = "clean"
    weights: str | None = None
    train: str | None = None
    n: int = 0
    fit: str = "exact"
    eight_bit: bool = False
    seed: int = 0
    framework: str | None = None


def _sides(request: Request, framework: Framework, python: str | None) -> tuple[Side, Side]:
    """Both sides on one footing; files are brought to the size of the generated images, of which no more are drawn than serve."""
    n, how, held_out = request.n or PROTOCOL_N, request.fit, None
    if is_run(Path(request.real)):
        held_out = read_side(request.real, "real", lambda run: run)
        if not request.n:
            n = min(n, *(len(images) for images in (held_out.images, held_out.others) if images is not None))

    def draw(run: Path) -> Path:
        return draw_from(run, n, framework, python)

    generated = read_side(request.generated, "generated", draw)
    size = None if generated.images is None else generated.images.shape[1:3]
    real = held_out or read_side(request.real, "real", draw, size if how != "exact" else None, how)
    if request.train:
        train = read_side(request.train, "real", draw, size if how != "exact" else None, how)
        real = replace(real, others=train.images, about={**real.about, "split": f"apart from {request.train}, as the command says"})  # fmt: skip
    if request.eight_bit:
        real, generated = round_to_eight_bits(real), round_to_eight_bits(generated)
    check_footing(real, generated)
    return real, generated


def evaluate(request: Request, pythons: Mapping[Framework, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result file's values, and the real images' statistics for saving.

    Raises:
        ValueError: input that the user must change. RuntimeError: a twin failed.
    """
    framework = first_framework(request.framework, pythons)
    extractor = open_extractor(request.extractor, request.resize, request.weights)
    real, generated = _sides(request, framework, pythons.get(framework))
    main = extractor.taps[0]
    with open_features(extractor, framework, pythons.get(framework)) as (features, environment):
        if real.statistics or generated.statistics:
            sides = [s.statistics or features(s.images)[main] for s in (real, generated)]
            numbers, n = measure_statistics(*sides), 0
        else:
            cut = choose(real, generated, request.n, request.seed)
            n, taps = cut.n, [features(images) for images in (cut.real, cut.generated, cut.spare)]
            numbers = measure(*(t[main] for t in taps), request.seed)
            labels = generated.about.get("labels")
            if extractor.name == "lens":
                numbers["lens"] = lens_numbers(*taps, None if labels is None else np.array(labels))
            elif extractor.name == "inception":
                numbers |= inception_numbers(taps[1])
    dim = taps[0][main].shape[1] if n else 0
    result = {
        **numbers,
        "n": n,
        "extractor": extractor.about() | {"features": dim or None},
        "real": _about(real),
        "generated": _about(generated),
        "eight_bit": request.eight_bit,
        "seed": request.seed,
        "warnings": warnings(real, generated, n, dim, extractor.name),
        "environment": environment,
        "code": code_version(),
    }
    return result, {"mu": taps[0][main].mean(axis=0), "sigma": np.cov(taps[0][main], rowvar=False)} if n else {}


def _about(side: Side) -> dict[str, Any]:
    """Where a side comes from and what its pixels are."""
    kept = {k: v for k, v in side.about.items() if k in SHOWN_OF_SAMPLES or k in ("source", "split", "data_sha256", "fit", "normalise", "stored", "n", "extractor")}  # fmt: skip
    shape = list(side.images.shape) if side.images is not None else None
    return {"path": side.path, "shape": shape, "sha256": side.fingerprint(), **kept}


def save_statistics(path: Path, result: Mapping[str, Any], gaussian: Mapping[str, Any]) -> None:
    """Write the real images' mean and covariance as pytorch-fid and clean-fid do (mu, sigma), and what they are of.

    Raises:
        ValueError: the real side is itself saved statistics.
    """
    if not gaussian:
        raise ValueError(f"--save-statistics {path}: nothing to save: one side is saved statistics already")
    about = json.dumps({"n": result["n"], "extractor": result["extractor"], "split": result["real"].get("split")})

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.savez(stream, allow_pickle=False, about=np.array(about), **gaussian)

    write_atomically(path, write)
