"""A matrix regressed on covariates by its draws: their Fréchet mean, their variance and the coverage of their balls.

Beside the network stand a constant, least squares in the chart, and what as many draws from the true law reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.checkpoints.chart import chart_tensors
from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import Trained, open_trained
from core.config import Recipe
from core.config.recipes import load_recipe, to_dict
from core.data.dataset import open_dataset
from core.metrics.spd import affine_squared, karcher_mean, total_log_variance
from core.random import generator
from core.spd.chart import coordinates, from_coordinates
from core.spd.laws import law_of, regression_moments, simulate_spd
from core.spd.matrices import read_matrices
from eval.twins.client import Worker

Array = npt.NDArray[np.float64]
SHARE = 0.9
"""Share of draws within the ball whose coverage is measured."""
DRAWN_PARTS = 5000
"""Matrices drawn at a time."""


class Truth(NamedTuple):
    """New matrices with their covariates, and what is known of their law."""

    z: Array
    """(N, D) coordinates of one matrix for each row of covariates."""
    y: Array
    """(N, P)."""
    mean: Array | None
    """(N, D) E[log X | y], where the law is known."""
    deviation: Array | None
    """(N,) standard deviation of every coordinate given y, where the law is known."""


def open_truth(source: str, names: list[str], n: int, seed: int, m: int) -> Truth:
    """New matrices of the simulated regression, or those of a file.

    Raises:
        ValueError: another law, a covariate that is missing, or matrices of another size.
    """
    if source.startswith("simulate:"):
        if law_of(source) != "regression":
            raise ValueError(f"--real {source}: must be simulate:spd-regression, the one law with covariates")
        drawn = simulate_spd("regression", n, seed, m)
        values, known = drawn.values, drawn.parameters
    else:
        found = read_matrices(source)
        chosen = generator(seed, "rows").permutation(len(found.values))[:n]
        values, known = found.values[chosen], {name: column[chosen] for name, column in found.parameters.items()}
    for name in names:
        if name not in known:
            raise ValueError(f"{source}: has no covariate {name}, on which the network is conditioned")
    if values.shape[1] != m:
        raise ValueError(f"{source}: matrices of {values.shape[1]} x {values.shape[1]}: must be {m} x {m}")
    y = np.stack([known[name] for name in names], axis=1)
    if not source.startswith("simulate:"):
        return Truth(coordinates(values), y, None, None)
    mean, deviation = regression_moments(np.stack([known["y1"], known["y2"]], axis=1), m)
    return Truth(coordinates(values), y, mean, deviation)


def draw(worker: Worker, recipe: Recipe, trained: Trained, y: Array, draws: int, seed: int) -> Array:
    """Matrices (N, K, m, m) drawn for each row of covariates."""
    known, count = trained.data["condition"], len(y) * draws
    vector = np.repeat((y - known["mean"]) / known["std"], draws, axis=0).astype(trained.dtype)
    keep = np.ones(count, trained.dtype)
    fixed = {f"weights/{name}": value for name, value in trained.weights.items()}
    if trained.chart is None:
        raise ValueError("the network draws no matrices: name a run with data.space = spd")
    fixed |= {f"chart/{name}": value for name, value in chart_tensors(trained.chart).items()}
    parts = []
    for first in range(0, count, DRAWN_PARTS):
        part = slice(first, min(first + DRAWN_PARTS, count))
        arrays = fixed | {"condition/vector": vector[part], "condition/keep": keep[part]}
        options = {"recipe": to_dict(recipe), "seed": seed, "first": first, "n": part.stop - first}
        parts.append(worker.call("sample", arrays, **options)[0]["images"])
    drawn = np.concatenate(parts)
    return drawn.reshape(len(y), draws, *drawn.shape[1:])


def least_squares(z: Array, y: Array) -> Callable[[Array], Array]:
    """The linear regression of coordinates on covariates, with an intercept."""
    design = np.column_stack([np.ones(len(y)), y])
    coefficients = np.linalg.lstsq(design, z, rcond=None)[0]
    return lambda new: np.column_stack([np.ones(len(new)), new]) @ coefficients


def errors(found: Array, expected: Array) -> dict[str, dict[str, float]]:
    """Mean and median over covariates of the errors of matrices that are given by their coordinates (N, D)."""
    a, b = from_coordinates(found), from_coordinates(expected)
    each = {
        "log_euclidean_squared": np.square(found - expected).sum(axis=1),
        "affine_squared": affine_squared(b, a),
        "frobenius": np.sqrt(np.square(a - b).sum(axis=(1, 2))),
    }
    return {name: {"mean": float(v.mean()), "median": float(np.median(v))} for name, v in each.items()}


def balls(z: Array, centre: Array, truth: Array) -> Array:
    """(N,) whether the matrix lies in the ball about the mean (N, D) that holds SHARE of the draws z (N, K, D)."""
    radius = np.quantile(np.linalg.norm(z - centre[:, None], axis=2), SHARE, axis=1)
    return np.asarray(np.linalg.norm(truth - centre, axis=1) <= radius)


def evaluate_regression(run: str, real: str, n: int, draws: int, seed: int, worker: Worker) -> dict[str, Any]:
    """Measure the regression of a run's network.

    Args:
        run: a run or checkpoint whose network is conditioned on covariates.
        real: simulate:spd-regression, or an .npz file with the covariates by name.
        n: number of new rows of covariates.
        draws: matrices drawn for each.
        seed: of new matrices and of the noise.
        worker: the running twin.
    Returns:
        Plain JSON values, and under `shown` what the picture needs.
    Raises:
        ValueError: input that the user must change.
    """
    folder = resolve_checkpoint(run)
    trained, recipe = open_trained(folder), load_recipe(folder / "recipe.json")
    names = list(recipe.data.condition)
    if trained.chart is None or not names or trained.classes is not None:
        raise ValueError(f"{run}: must be a run of matrices (data.space = spd) with data.condition, without classes")
    truth = open_truth(real, names, n, seed, trained.chart.m)
    with worker:
        matrices = draw(worker, recipe, trained, truth.y, draws, seed)
    z = coordinates(matrices.reshape(-1, *matrices.shape[2:])).reshape(len(truth.y), draws, -1)
    centre, target = z.mean(axis=1), truth.z if truth.mean is None else truth.mean
    dataset = open_dataset(recipe.data, recipe.image_shape)
    train = dataset.images[dataset.train][:, 0, 0] @ trained.chart.unwhiten + trained.chart.mean
    known = np.stack([dataset.parameters[name][dataset.train] for name in names], axis=1)
    ways = {
        "network": centre,
        "network_karcher": coordinates(np.stack([karcher_mean(each).mean for each in matrices])),
        "least_squares": least_squares(train, known)(truth.y),
        "constant": np.tile(train.mean(axis=0), (len(truth.y), 1)),
    }
    result: dict[str, Any] = {
        "run": run,
        "real": real,
        "n": len(truth.y),
        "draws": draws,
        "seed": seed,
        "against": "one matrix for each y" if truth.mean is None else "the true mean of log X given y",
        "errors": {name: errors(found, target) for name, found in ways.items()},
        "coverage": {"share": SHARE, "found": float(balls(z, centre, truth.z).mean())},
        "not_spd": int((np.linalg.eigvalsh(matrices)[..., 0] <= 0).sum()),
    }
    if truth.deviation is not None:
        size = z.shape[2]
        noise = generator(seed, "rows", 4).standard_normal((len(truth.y), draws, size)).mean(axis=1)
        result["errors"]["true_draws"] = errors(target + truth.deviation[:, None] * noise, target)
        ratio = np.array([total_log_variance(each) for each in z]) / (size * truth.deviation**2)
        result["log_variance_ratio"] = {"mean": float(ratio.mean()), "std": float(ratio.std(ddof=1))}
    traces = unit_traces(z), unit_traces(truth.z[:, None])[:, 0]
    return {**result, "shown": {"y": truth.y, "names": names, "drawn": traces[0], "real": traces[1]}}


def unit_traces(z: Array) -> Array:
    """(N, K) log-determinants of matrices that are given by their coordinates (N, K, D)."""
    m = trace_places(z.shape[2])
    return np.asarray(z[..., m].sum(axis=-1))


def trace_places(size: int) -> npt.NDArray[np.intp]:
    """Places of the diagonal among D coordinates."""
    from core.spd.chart import size_of

    rows, columns = np.triu_indices(size_of(size))
    return np.flatnonzero(rows == columns)
