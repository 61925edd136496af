"""The study `conditioning`: do drawn lenses have the Einstein radius on which they were conditioned?
 Lenses are drawn at Einstein radii spread over the training range, with their other parameters as in the training
images. The lens extractor, which knows nothing of the network, then measures the parameters of each image.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import Trained, open_trained
from core.config import Recipe, SamplingConfig
from core.config.recipes import load_recipe, to_dict
from core.data.lenses import simulate
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.extractors.lens import LENS_PARAMETERS, in_arcsec
from core.files import file_hash, write_atomically, write_text_atomic
from core.images import grid
from core.inference.conditioning import asked_condition, numbers_of
from core.random import generator
from eval.pages.page import write_result
from eval.pages.tables import markdown_table
from eval.twins.client import Worker
from eval.twins.features import FeatureWorker, open_extractor
from eval.twins.interpreters import Framework, Interpreters
from eval.verbs import main

RADIUS = "theta_e"
COLUMNS = 9
"""Einstein radii in the picture's grid."""
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


@dataclass(frozen=True, kw_only=True)
class ConditioningStudy(Interpreters):
    """Draw lenses of known Einstein radius, and measure it with the lens extractor: table, picture, conditioning.json.

    Examples:
      python -m eval conditioning --checkpoint runs/lens-conditional-torch
    """

    checkpoint: str
    """Run or checkpoint of a network conditioned on theta_e (data.condition), trained on simulated lenses."""
    out: str = "runs/conditioning"
    """Folder for conditioning.json, conditioning.md and conditioning.png."""
    n: int = 448
    """Images a guidance scale, at least 9."""
    guidance: tuple[float, ...] = (1.0, 2.0)
    """Guidance scales; 1 is no guidance."""
    seed: int = 0
    """Seed of the noise and of the parameters other than the Einstein radius."""
    framework: Framework = "torch"
    """Framework that draws and evaluates the lens extractor."""
    threads: int = 0
    """CPU threads; 0 for the framework's choice."""

    def __post_init__(self) -> None:
        if self.n < COLUMNS or not self.guidance:
            raise ValueError(
                f"--n {self.n}, --guidance {self.guidance}: must be at least {COLUMNS}, and one scale or more"
            )

    def execute(self) -> str:
        """Draw, measure, and write the three files; the table."""
        worker = Worker(self.framework, threads=self.threads, timeout=3600)
        network = open_network(self.checkpoint, worker, self.seed)
        with worker:
            known = network.source.data["condition"]
            low, high = (float(known[key][known["names"].index(RADIUS)]) for key in ("min", "max"))
            ladder = np.linspace(low, high, COLUMNS)
            # In another order than the images', so that every batch has all radii.
            radii = low + (high - low) * generator(self.seed, "rows", 1).permutation(self.n) / (self.n - 1)
            images, true = network.simulated(self.n)
            seen, strips, evaluations = {"simulated": (true, network.found(images))}, {}, {}
            for scale in self.guidance:
                images, wanted = network.draw(range(self.n), radii, scale)
                seen[f"guidance {scale:g}"] = (wanted, network.found(images))
                # One image at all radii: the same noise, the same other parameters.
                strips[scale] = np.concatenate([network.draw([0], ladder[i : i + 1], scale)[0] for i in range(COLUMNS)])
                table = make_table(make_process(network.source.process), network.sampling(scale))
                evaluations[f"guidance {scale:g}"] = table.network_evaluations
        names = [name for name in known["names"] if name in LENS_PARAMETERS]
        result = {
            "checkpoint": self.checkpoint,
            "weights_sha256": file_hash(*network.source.files),
            "n": self.n,
            "seed": self.seed,
            "framework": self.framework,
            "sampling": dataclasses.asdict(network.recipe.sampling),
            "radii": [low, high],
            "network_evaluations": evaluations,
            "scores": {key: {name: agreement(x[name], y[name]) for name in names} for key, (x, y) in seen.items()},
        }
        folder, text = Path(self.out), markdown(result)
        write_result(folder / "conditioning.json", result)
        write_text_atomic(folder / "conditioning.md", text)
        write_atomically(folder / "conditioning.png", lambda path: path.write_bytes(picture(seen, strips, ladder)))
        return text


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


if __name__ == "__main__":
    sys.exit(main(ConditioningStudy, "python -m eval.studies.conditioning"))
