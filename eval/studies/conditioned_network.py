"""A network conditioned on the Einstein radius, and what a study of it measures, prints and draws."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import Trained, open_trained
from core.config import Recipe, SamplingConfig
from core.config.recipes import load_recipe, to_dict
from core.data.lenses import simulate
from core.extractors.lens import in_arcsec
from core.images import grid
from core.inference.conditioning import asked_condition, numbers_of
from eval.pages.tables import markdown_table
from eval.twins.client import Worker
from eval.twins.features import FeatureWorker, open_extractor

RADIUS = "theta_e"
REAL_SEED = 4_000_001
"""Of the simulated lenses that show how exact the extractor is; training and extractor have other seeds."""

Images = npt.NDArray[np.float32]
Parameters = Mapping[str, npt.NDArray[np.float64]]


def agreement(wanted: npt.ArrayLike, found: npt.ArrayLike) -> dict[str, float]:
    """How near found values lie to the wanted ones.

    Args:
        wanted, found: (N,).
    Returns:
        r2 = 1 - sum (found - wanted)^2 / sum (wanted - mean)^2; rms of found - wanted; slope of found against wanted.
    """
    x, y = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    squares = float(((x - x.mean()) ** 2).sum())
    r2 = 1 - float(((y - x) ** 2).sum()) / squares
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / squares
    return {"r2": r2, "rms": float(np.sqrt(((y - x) ** 2).mean())), "slope": slope}


@dataclass(frozen=True)
class ConditionedNetwork:
    """A trained network, and a twin that draws and measures with it."""

    recipe: Recipe
    source: Trained
    worker: Worker
    seed: int

    def draw(
        self, samples: Sequence[int], radii: npt.NDArray[np.float64], guidance: float
    ) -> tuple[Images, Parameters]:
        """Images at these Einstein radii, and all parameters on which they were conditioned."""
        data = self.source.data
        condition = dict(asked_condition(self.source.classes, data, samples, self.seed))
        place = data["condition"]["names"].index(RADIUS)
        mean, std = (data["condition"][key][place] for key in ("mean", "std"))
        condition["vector"][:, place] = (radii - mean) / std
        recipe = dataclasses.replace(self.recipe, sampling=self.sampling(guidance))
        arrays = {f"weights/{name}": value for name, value in self.source.weights.items()}
        arrays |= {f"condition/{name}": value for name, value in condition.items()}
        options = {"recipe": to_dict(recipe), "seed": self.seed, "first": samples[0], "n": len(samples)}
        result, _ = self.worker.call("sample", arrays, **options)
        numbers = numbers_of(data, condition) or {}
        return result["images"], {name: np.array(values) for name, values in numbers.items()}

    def sampling(self, guidance: float) -> SamplingConfig:
        """The recipe's sampler with another guidance scale."""
        return dataclasses.replace(self.recipe.sampling, guidance=guidance)

    def found(self, images: Images) -> Parameters:
        """The parameters that the lens extractor measures, in arcsec."""
        parameters = FeatureWorker(self.worker, open_extractor("lens"))(images)["parameters"]
        return in_arcsec(parameters, self.recipe.data.field_of_view)

    def simulated(self, n: int) -> tuple[Images, Parameters]:
        """Simulated lenses and their true parameters."""
        data, size = self.recipe.data, self.recipe.model.sample_size
        preset = data.source.removeprefix("simulate:")
        images, _, numbers = simulate(preset, n, size, REAL_SEED, data.simulate_classes, data.field_of_view)
        return images, numbers


def open_network(checkpoint: str, worker: Worker, seed: int) -> ConditionedNetwork:
    """Read what is needed of a checkpoint.

    Raises:
        ValueError: not trained on simulated lenses with their Einstein radius as a condition.
    """
    folder = resolve_checkpoint(checkpoint)
    source, recipe = open_trained(folder, "ema"), load_recipe(folder / "recipe.json")
    if RADIUS not in recipe.data.condition or not recipe.data.source.startswith("simulate:"):
        raise ValueError(f"--checkpoint {checkpoint}: must be trained on simulated lenses with data.condition {RADIUS}")
    return ConditionedNetwork(recipe, source, worker, seed)


def markdown(result: Mapping[str, Any]) -> str:
    """R^2 and rms of every parameter, a row a set."""
    scores = result["scores"]
    names = list(scores["simulated"])
    rows = [
        [
            key,
            str(result["network_evaluations"].get(key, "–")),
            *(f"{of[name]['r2']:.3f}, {of[name]['rms']:.3f}" for name in names),
        ]
        for key, of in scores.items()
    ]
    return markdown_table(["images", "evaluations", *(f"`{name}` R², rms" for name in names)], rows) + "\n"


def picture(
    seen: Mapping[str, tuple[Parameters, Parameters]], strips: Mapping[float, Images], ladder: npt.NDArray[np.float64]
) -> bytes:
    """Measured against wanted radius of every set, and below it one lens at all radii a guidance scale; PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(seen), 3.4 + 1.2 * len(strips)), layout="constrained")
    heights = [3.2, *[1.1] * len(strips)]
    margin = 0.15 * (ladder[-1] - ladder[0])
    limits = (ladder[0] - margin, ladder[-1] + margin)
    rows = figure.add_gridspec(len(heights), len(seen), height_ratios=heights)
    for column, (key, (wanted, found)) in enumerate(seen.items()):
        axes = figure.add_subplot(rows[0, column])
        axes.plot(ladder[[0, -1]], ladder[[0, -1]], color="0.6", linewidth=1)
        axes.plot(wanted[RADIUS], found[RADIUS], ".", markersize=3, alpha=0.6)
        axes.set_title(f"{key}: R² {agreement(wanted[RADIUS], found[RADIUS])['r2']:.3f}", fontsize=9)
        axes.set_xlabel(f"Einstein radius, {'wanted' if column else 'true'} (arcsec)", fontsize=8)
        axes.set_ylabel("measured by the extractor", fontsize=8)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
    for row, (scale, images) in enumerate(strips.items(), 1):
        axes = figure.add_subplot(rows[row, :])
        sheet = grid(np.pad(images.astype(np.float32), ((0, 0), (0, 0), (0, 1), (0, 0))), len(images), pad=0)
        axes.imshow(sheet[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_yticks([])
        width = sheet.shape[1] / len(images)
        places, labels = [(i + 0.5) * width for i in range(len(images))], [f"{value:.2f}" for value in ladder]
        axes.set_xticks(places, labels, fontsize=8)
        axes.set_title(f"One lens at Einstein radii in arcsec, guidance scale {scale:g}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
