"""The demo as one page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import Recipe
from core.config.training import MUCH_WAITING
from core.images import note_of_strips, strip_columns, to_uint8
from core.networks.specs import count_parameters
from eval.pages.compare_page import compare_sections
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, Text, render
from eval.pages.plots import image_grid, line_plot
from eval.pages.tables import side_by_side
from eval.twins.interpreters import TITLES

Images = npt.NDArray[Any]
REAL_TITLE = "Real, held out"
GRID = 6
PAIRS = 24
PAIR_COLUMNS = 6


@dataclass(frozen=True)
class Material:
    """What the demo made; dictionaries have a framework's title as key, PyTorch first."""

    recipe: Recipe
    real: Images
    """(R, H, W, C) in [0, 1], held out of training."""
    train: Images
    """(T, H, W, C) in [0, 1]."""
    generated: Mapping[str, Images]
    """(N, H, W, C) in [0, 1] from each framework's own network."""
    same_weights: Images
    """(M, H, W, C): TensorFlow's drawing of the first M images with PyTorch's weights."""
    metrics: Mapping[str, list[dict[str, Any]]]
    """Lines of metrics.jsonl."""
    manifests: Mapping[str, Mapping[str, Any]]
    """manifest.json of the generated images."""
    record: Mapping[str, Any]
    """demo.json: seconds a phase, seconds to the first step, commands."""

    @property
    def same_pair(self) -> tuple[Images, Images]:
        """The same images, of the same weights and noise, by PyTorch and by TensorFlow."""
        return self.generated["PyTorch"][: len(self.same_weights)], self.same_weights

    @property
    def largest_difference(self) -> float:
        """Largest difference of the pair in any pixel, images being in [0, 1]."""
        first, second = self.same_pair
        return float(np.abs(second.astype(np.float64) - first).max())


def amplification(largest: float) -> float:
    """The largest power of ten that keeps a difference within 1; 1 where there is none."""
    return 10.0 ** max(math.floor(-math.log10(largest)), 0) if largest else 1.0


def _which_is_which(material: Material, prose: Prose) -> Figures:
    """Three grids: can you tell them apart?"""
    count = GRID * GRID
    figures = [
        Figure(
            image_grid(images[:count], strip_columns(images, GRID), label=f"{len(images[:count])} images: {title}"),
            title,
        )
        for title, images in {REAL_TITLE: material.real, **material.generated}.items()
    ]
    first, second = (images.astype(np.float64) for images in material.generated.values())
    note = note_of_strips(material.real.shape[-1])
    apart = 255 * float(np.median(np.abs(second - first).mean(axis=(1, 2, 3))))
    return Figures(figures, "Can you tell which is which?", prose.which(count=count, apart=apart, note=note))


def _same_weights(material: Material, prose: Prose) -> Figures:
    """The same weights and noise in both frameworks, and what is left between them."""
    first, second = material.same_pair
    largest = material.largest_difference
    factor = amplification(largest)
    levels = int(np.abs(to_uint8(first).astype(int) - to_uint8(second)).max())
    difference = (second.astype(np.float64) - first)[:PAIRS] * factor
    grids = {"PyTorch": first[:PAIRS], "TensorFlow": second[:PAIRS]}
    columns = strip_columns(first, PAIR_COLUMNS)
    figures = [Figure(image_grid(x, columns, label=f"drawn by {name}"), name) for name, x in grids.items()]
    picture = image_grid(difference, columns, label="difference", signed=True)
    figures.append(Figure(picture, f"Difference × {factor:,.0f}", prose.difference()))
    steps = material.manifests["PyTorch"]["steps"]
    intro = prose.same_weights(steps=steps, images=len(second), largest=255 * largest, levels=levels)
    return Figures(figures, "Same weights, same noise, both frameworks", intro)


def _curves(metrics: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """Loss over optimiser steps; intervals without a finite loss are left out."""
    lines = {name: [line for line in run if line.get("loss") is not None] for name, run in metrics.items()}
    return {
        name: {"x": [line["step"] for line in run], "y": [line["loss"] for line in run]} for name, run in lines.items()
    }


def _largest_gap(curves: Mapping[str, Mapping[str, list[float]]]) -> float:
    """Largest relative difference of the two losses at the same step."""
    first, second = (dict(zip(c["x"], c["y"], strict=True)) for c in curves.values())
    return max(
        (abs(second[step] - first[step]) / first[step] for step in first.keys() & second.keys()), default=math.nan
    )


def _training(material: Material, prose: Prose) -> list[Section]:
    """Both losses and speeds."""
    curves, config = _curves(material.metrics), material.recipe.training
    caption = prose.loss(log_every=config.log_every, gap=f"{100 * _largest_gap(curves):.2g}")
    plot = Figure(line_plot(curves, "optimiser step", "loss", label="training loss", log_y=True), "Loss", caption)
    rates = {name: [line["images_per_second"] for line in run[1:] or run] for name, run in material.metrics.items()}
    first = {TITLES[key]: value for key, value in material.record["first_step_seconds"].items()}
    speeds = [Cell(f"{statistics.median(r):.0f}", f"{min(r):.0f} to {max(r):.0f}") for r in rates.values()]
    rows: list[list[str | Cell]] = [
        ["training, images/s", *speeds],
        ["training, seconds in all", *(f"{run[-1]['seconds']:.0f}" for run in material.metrics.values())],
        ["seconds to the first step", *(f"{first[name]:.1f}" if name in first else "–" for name in rates)],
        *waiting_row(material.metrics),
        ["sampling, seconds an image", *(f"{m['seconds'] / m['n']:.3f}" for m in material.manifests.values())],
    ]
    figures = [plot, *distance_figures(material)]
    return [Figures(figures, "Training", prose.training()), Table(["", *rates], rows, "Speed", prose.speed())]


def waiting_row(metrics: Mapping[str, list[dict[str, Any]]]) -> list[list[str | Cell]]:
    """The share of the time that was spent on waiting for batches, where one is large; older runs did not note it."""
    shares = [statistics.median(line.get("waiting") or 0.0 for line in run) for run in metrics.values()]
    return [["waiting for data", *(f"{share:.0%}" for share in shares)]] if max(shares) > MUCH_WAITING else []


def distance_figures(material: Material) -> list[Figure]:
    """The distance to held-out images against steps and against seconds, where the recipe's evaluation measures it."""
    evaluation, prose = material.recipe.evaluation, Prose("demo")
    figures = []
    for key, label, title in (
        ("step", "optimiser step", "Distance by steps"),
        ("seconds", "seconds of training, evaluations included", "Distance by seconds"),
    ):
        curves = {}
        for name, lines in material.metrics.items():
            measured = [line for line in lines if "distance" in line]
            if measured:
                curves[name] = {"x": [line[key] for line in measured], "y": [line["distance"] for line in measured]}
        if curves:
            what = f"Fréchet distance, {evaluation.extractor} features"
            plot = line_plot(curves, label, what, label=what, log_y=True)
            figures.append(Figure(plot, title, prose.distance(n=evaluation.n)))
    return figures


def _how(material: Material, prose: Prose) -> list[Section]:
    """Commands, seconds, versions."""
    recipe, manifests = material.recipe, material.manifests
    keys = ("framework", "version", "keras", "python", "numpy", "threads", "device", "machine")
    caption = prose.made(
        parameters=count_parameters(recipe.model),
        train=len(material.train),
        held_out=len(material.real),
        training=recipe.training,
    )
    seconds = [[what, f"{value:.1f}"] for what, value in material.record["seconds"].items()]
    return [
        Table(["", *manifests], side_by_side(manifests, keys), "How it was made", caption),
        Table(["Phase", "Seconds"], seconds, caption=prose.phases()),
        Text("\n\n".join(material.record["commands"]), "Commands"),
    ]


def write_demo_page(path: Path, material: Material, result: dict[str, Any]) -> None:
    """Write the demo's page.

    Args:
        path: file to write.
        material: what the demo made.
        result: what `eval.measure.compare.compare` returned for the material's real, generated and train.
    """
    prose = Prose("demo")
    comparison = compare_sections(result, material.real, material.generated, material.train)
    notices = [section for section in comparison if isinstance(section, Notice)]
    first, *others = [section for section in comparison if not isinstance(section, Notice)]
    sections = [
        _which_is_which(material, prose),
        _same_weights(material, prose),
        *_training(material, prose),
        *(first, *notices, *others),  # what is compared, before what must be known of it
        *_how(material, prose),
    ]
    lead = prose.lead(steps=material.recipe.training.steps)
    render(path, "Two frameworks, one diffusion model", sections, lead=lead)
