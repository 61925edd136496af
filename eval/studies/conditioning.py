"""The verb `conditioning`: are drawn lenses what they were asked to be? conditioning.json, conditioning.md and a picture.

Lenses are drawn at Einstein radii spread over the training range, with the other numbers as in the training images; the
lens extractor, which knows nothing of the network, says which numbers it sees. Imports NumPy, core and eval's own
modules; matplotlib inside the function.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import Source, open_source
from core.config import Recipe
from core.config.recipes import load_recipe, to_dict
from core.data.lenses import simulate
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.extractors.lens import LENS_PARAMETERS, in_arcsec
from core.files import file_hash, write_atomically, write_json, write_text_atomic
from core.images import grid
from core.inference.conditioning import asked_condition, numbers_of
from eval.twins.client import Framework, Worker
from eval.twins.features import FeatureWorker, open_extractor

RADIUS = "theta_e"
COLUMNS = 9
"""Einstein radii in the picture's grid."""
REAL_SEED = 4_000_001
"""Of the simulated lenses that say how well the extractor sees; training and extractor have others."""

Images = npt.NDArray[np.float32]
Numbers = Mapping[str, npt.NDArray[np.float64]]


def agreement(asked: npt.ArrayLike, found: npt.ArrayLike) -> dict[str, float]:
    """How near found numbers lie to those asked for.

    Args:
        asked, found: (N,).
    Returns:
        r2 = 1 - sum (found - asked)^2 / sum (asked - mean)^2; rms of found - asked; slope of found against asked.
    """
    x, y = np.asarray(asked, np.float64), np.asarray(found, np.float64)
    squares = float(((x - x.mean()) ** 2).sum())
    r2 = 1 - float(((y - x) ** 2).sum()) / squares
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / squares
    return {"r2": r2, "rms": float(np.sqrt(((y - x) ** 2).mean())), "slope": slope}


@dataclass(frozen=True)
class Study:
    """A checkpoint, and a twin to draw and to measure with."""

    recipe: Recipe
    source: Source
    worker: Worker
    seed: int

    def draw(self, samples: Sequence[int], radii: npt.NDArray[np.float64], guidance: float) -> tuple[Images, Numbers]:
        """Images at these Einstein radii, and all numbers that they were asked for."""
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

    def sampling(self, guidance: float) -> Any:
        """The recipe's sampler with another guidance."""
        return dataclasses.replace(self.recipe.sampling, guidance=guidance)

    def found(self, images: Images) -> Numbers:
        """What the lens extractor sees, in arcsec."""
        parameters = FeatureWorker(self.worker, open_extractor("lens", "clean", None))(images)["parameters"]
        return in_arcsec(parameters, self.recipe.data.field_of_view)

    def simulated(self, n: int) -> tuple[Images, Numbers]:
        """Simulated lenses and their true numbers."""
        data, size = self.recipe.data, self.recipe.model.sample_size
        preset = data.source.removeprefix("simulate:")
        images, _, numbers = simulate(preset, n, size, REAL_SEED, data.simulate_classes, data.field_of_view)
        return images, numbers


def open_study(checkpoint: str, worker: Worker, seed: int) -> Study:
    """Read what is needed of a checkpoint.

    Raises:
        ValueError: not trained on simulated lenses with their Einstein radius as a condition.
    """
    folder = resolve_checkpoint(checkpoint)
    source, recipe = open_source(folder, "ema"), load_recipe(folder / "recipe.json")
    if RADIUS not in recipe.data.condition or not recipe.data.source.startswith("simulate:"):
        raise ValueError(f"--checkpoint {checkpoint}: must be trained on simulated lenses with data.condition {RADIUS}")
    return Study(recipe, source, worker, seed)


def run(
    checkpoint: str, out: str, *, n: int, guidance: Sequence[float], seed: int, framework: Framework,
    python: str | None, threads: int,
) -> str:  # fmt: skip
    """Draw, measure, and write conditioning.json, conditioning.md and conditioning.png.

    Args:
        checkpoint: run or checkpoint.
        out: folder; made where it is missing.
        n: images a guidance, at least 9.
        guidance: factors, 1 for none.
        seed: of the noise and of the numbers that are not asked for.
        framework, python, threads: the twin that draws and measures.
    Returns:
        The table.
    Raises:
        ValueError: an argument, or a checkpoint that is not conditioned on the Einstein radius.
    """
    if n < COLUMNS or not guidance:
        raise ValueError(f"--n {n}, --guidance {guidance}: must be at least {COLUMNS}, and one factor or more")
    with Worker(framework, python=python, threads=threads, timeout=3600) as worker:
        study = open_study(checkpoint, worker, seed)
        known = study.source.data["condition"]
        low, high = (known[key][known["names"].index(RADIUS)] for key in ("min", "max"))
        # In an order that is not the images': so that every batch has all radii.
        radii = low + (high - low) * np.random.Generator(np.random.Philox(key=[seed, 1])).permutation(n) / (n - 1)
        names = [name for name in known["names"] if name in LENS_PARAMETERS]
        images, true = study.simulated(n)
        seen = {"simulated": (true, study.found(images))}
        strips, evaluations = {}, {}
        for g in guidance:
            images, asked = study.draw(range(n), radii, g)
            seen[f"guidance {g:g}"] = (asked, study.found(images))
            ladder = np.linspace(low, high, COLUMNS)
            # One image at all radii: the same noise, the same other numbers.
            strips[g] = np.concatenate([study.draw([0], ladder[i : i + 1], g)[0] for i in range(COLUMNS)])
            table = make_table(make_process(study.source.process), study.sampling(g))
            evaluations[f"guidance {g:g}"] = table.network_evaluations
    scores = {key: {name: agreement(x[name], y[name]) for name in names} for key, (x, y) in seen.items()}
    result = {
        "checkpoint": checkpoint, "weights_sha256": file_hash(*study.source.weights_files), "n": n, "seed": seed,
        "framework": framework, "sampling": dataclasses.asdict(study.recipe.sampling), "radii": [low, high],
        "network_evaluations": evaluations, "scores": scores,
    }  # fmt: skip
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    write_json(folder / "conditioning.json", result)
    write_text_atomic(folder / "conditioning.md", text)
    shown = np.linspace(low, high, COLUMNS)
    write_atomically(folder / "conditioning.png", lambda path: path.write_bytes(picture(seen, strips, shown)))
    return text


def markdown(result: Mapping[str, Any]) -> str:
    """R^2 and rms of every number, a row a set."""
    scores = result["scores"]
    names = list(scores["simulated"])
    head = ["images", "evaluations", *(f"`{name}` R², rms" for name in names)]
    lines = [head, ["---"] * len(head)]
    for key, of in scores.items():
        cells = [f"{of[name]['r2']:.3f}, {of[name]['rms']:.3f}" for name in names]
        lines.append([key, str(result["network_evaluations"].get(key, "–")), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def picture(
    seen: Mapping[str, tuple[Numbers, Numbers]], strips: Mapping[float, Images], ladder: npt.NDArray[np.float64]
) -> bytes:
    """Found against asked radius for every set, and below one lens at all radii for every guidance; PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(seen), 3.4 + 1.2 * len(strips)), layout="constrained")
    heights = [3.2, *[1.1] * len(strips)]
    margin = 0.15 * (ladder[-1] - ladder[0])
    limits = (ladder[0] - margin, ladder[-1] + margin)
    rows = figure.add_gridspec(len(heights), len(seen), height_ratios=heights)
    for column, (key, (asked, found)) in enumerate(seen.items()):
        axes = figure.add_subplot(rows[0, column])
        axes.plot(ladder[[0, -1]], ladder[[0, -1]], color="0.6", linewidth=1)
        axes.plot(asked[RADIUS], found[RADIUS], ".", markersize=3, alpha=0.6)
        axes.set_title(f"{key}: R² {agreement(asked[RADIUS], found[RADIUS])['r2']:.3f}", fontsize=9)
        axes.set_xlabel("Einstein radius, asked for (arcsec)" if column else "Einstein radius, true (arcsec)", fontsize=8)  # fmt: skip
        axes.set_ylabel("seen by the extractor", fontsize=8)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
    for row, (g, images) in enumerate(strips.items(), 1):
        axes = figure.add_subplot(rows[row, :])
        sheet = grid(np.pad(images.astype(np.float32), ((0, 0), (0, 0), (0, 1), (0, 0))), len(images), pad=0)
        axes.imshow(sheet[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_yticks([])
        width = sheet.shape[1] / len(images)
        axes.set_xticks([(i + 0.5) * width for i in range(len(images))], [f"{value:.2f}" for value in ladder], fontsize=8)  # fmt: skip
        axes.set_title(f"One lens, Einstein radius asked for in arcsec, guidance {g:g}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
