"""The verb `likelihood`: bits per dimension of images under a trained network."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from core.command_line import name_the_checkpoint, read_flags
from core.commands.scores import check_scores_file, compare_scores, line_of_comparison, write_scores
from core.config import Variance
from core.twin import Device, Twin

if TYPE_CHECKING:
    import numpy as np

    from core.inference.generator import Generator
    from core.inference.given_images import GivenImages

FILE = "likelihood.json"
SHOWN = 8
"""Rows of the printed table over which the bound's divergences are summed."""


@dataclass(frozen=True)
class LikelihoodCommand:
    """Measure the bits per dimension (pixel and channel) of images under a trained network. Fewer is better.

    vlb is the variational bound of DDPM: an upper bound for images of eight bits, to which images are rounded. The
    table shows its terms: prior (the last timestep against pure noise), a divergence at each timestep above 0, and
    decoder (timestep 0). It takes one network evaluation a timestep. --levels 50 draws 50 timesteps, without bias; the
    standard error includes the spread that this adds.

    ode is the density under the deterministic flow (ddim with eta 0). It integrates the flow's divergence, a trace that
    random vectors estimate without bias. Uniform noise as wide as one grey level is added to the images. With
    --no-dequantise the images' own values count; the result is then a density, and may be negative.

    A seed gives the same results in both frameworks and for every batch size. They are also written to
    CHECKPOINT/likelihood.json.

    --scores FILE.csv writes the bits of every image. --against takes a second set, such as images with anomalies. The
    AUC says how often one of its images has more bits than one of the first set: 0.5 where bits do not tell the sets
    apart, 1 where always, 0 where never. Images that are smoother than those of the training have fewer bits, so an
    anomaly may well give less than 0.5.

    Examples:
      python -m PACKAGE likelihood runs/mine
      python -m PACKAGE likelihood runs/mine --levels 50 --n 1000
      python -m PACKAGE likelihood runs/mine --method ode --n 64 --json
      python -m PACKAGE likelihood runs/mine --levels 20 --against odd.npy --scores scores.csv
      python -m PACKAGE likelihood runs/mine --data images.npy --n 16 --method ode --steps 100 --probes 4
    """

    checkpoint: str = ""
    """Run, checkpoint or pipeline folder. The first word after `likelihood` names it too."""
    data: str = "held-out"
    """Images to measure. held-out takes images that the run did not train on; otherwise name a picture, .npy, .npz,
    folder or zip."""
    n: int = 256
    """Number of images. More images give a smaller standard error and take longer."""
    first: int = 0
    """Index of the first image."""
    against: str = ""
    """Second set of images, named as in --data, whose first --n images are compared with those of --data; all where
    there are fewer. Default: none."""
    scores: str = ""
    """File to write, ending in .csv: a row an image, with its set, its name and its bits per dimension. It is replaced
    where it exists. Default: none."""
    method: Literal["vlb", "ode"] = "vlb"
    """vlb is the variational bound; ode is the density of the deterministic flow."""
    levels: int = 0
    """vlb: number of timesteps drawn for each image, one from each of as many intervals; 0 takes every timestep. Set it
    to save time."""
    variance: Variance | None = None
    """vlb: reverse variance. Default: learned where the network predicts it, otherwise fixed_small."""
    clip: bool = True
    """vlb: clip the predicted image to [-1, 1]."""
    steps: int = 50
    """ode: steps in log-SNR of the Runge-Kutta method of order 4. A step takes 4 evaluations for each random vector."""
    probe: Literal["rademacher", "normal", "exact"] = "rademacher"
    """ode: random vectors that estimate the trace: rademacher has entries of +1 or -1, normal has Gaussian entries.
    exact computes the trace with one evaluation a pixel and channel, for small images only."""
    probes: int = 1
    """ode: number of random vectors for each image. Raise it to lower the variance of the estimate."""
    dequantise: bool = True
    """ode: round images to eight bits and add uniform noise."""
    seed: int = 0
    """Seed of the noise, the timesteps and the random vectors."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of the network: ema is their average over training, raw those of the last step."""
    changed_weights: bool = False
    """Accept weights that were changed after the checkpoint was saved. Default: they are refused as damaged."""
    batch_size: int = 64
    """Images processed at a time. It changes time and memory, not the results."""
    json: bool = False
    """Print the content of likelihood.json in place of a table."""
    threads: int = 0
    """Number of CPU threads; 0 leaves it to the framework."""
    device: Device = "auto"
    """Where to compute. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU."""

    def __post_init__(self) -> None:
        lowest = {"n": 1, "first": 0, "levels": 0, "steps": 1, "probes": 1, "seed": 0, "batch_size": 1, "threads": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}")
        check_scores_file(self.scores)
        if self.against and self.against == self.data:
            raise ValueError(f"--against {self.against}: must be another set than --data")
        others = {"vlb": ("steps", "probe", "probes", "dequantise"), "ode": ("levels", "variance", "clip")}
        for field in dataclasses.fields(self):
            if field.name in others[self.method] and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"--{field.name} with --method {self.method}: must be left out, it is an option of the other method"
                )


def likelihood(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = name_the_checkpoint(LikelihoodCommand, argv, "likelihood")
    command = read_flags(LikelihoodCommand(), twin.package, argv, "likelihood")
    if not command.checkpoint:
        raise ValueError("likelihood: no run or checkpoint given; for example: likelihood runs/mine")
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.pretrained import results_folder
    from core.files import file_hash, write_json
    from core.inference.generator import open_generator
    from core.inference.given_images import given_images
    from core.inference.space import require_images
    from core.reading import read_json

    twin = twin.on(command.device)
    twin.prepare(command.threads)
    folder, started = resolve_checkpoint(command.checkpoint), time.monotonic()
    generator = open_generator(twin, folder, command.weights, command.changed_weights)
    require_images(generator.trained.chart, "likelihood")
    sets = {command.data: given_images(command.data, folder, generator.trained, command.first, command.n)}
    if command.against:
        sets[command.against] = given_images(command.against, folder, generator.trained, 0, command.n, fewer=True)
    for name, given in sets.items():
        if given.condition is None and generator.model.conditional:
            raise ValueError(f"--data {name}: must be held-out, since the network is conditional")
    path = results_folder(command.checkpoint) / FILE
    before = read_json(path) if path.is_file() else {}  # before the work, which a damaged file would cost
    found = {name: _compute(command, generator, given) for name, given in sets.items()}
    bits, more = found[command.data]
    result: dict[str, Any] = {
        "method": command.method,
        "n": command.n,
        **summary(bits),
        **more,
        "data": sets[command.data].identity,
        "weights": command.weights,
        "checkpoint": str(generator.trained.files[0].parent),
        "weights_sha256": file_hash(*generator.trained.files),
        "seed": command.seed,
        "batch_size": command.batch_size,
        "dtype": generator.trained.dtype,
        "seconds": round(time.monotonic() - started, 3),
        **twin.environment(),
    }
    totals = {name: values["total"] for name, (values, _) in found.items()}
    lines = [table(result)]
    if command.against:
        second = totals[command.against]
        result["against"] = compare_scores(totals[command.data], second, sets[command.against].identity)
        lines.append(line_of_comparison(result["against"]))
    write_json(path, {**before, command.method: result})
    lines.append(f"wrote {path}")
    if command.scores:
        write_scores(command.scores, {name: (sets[name].names, scores) for name, scores in totals.items()})
        lines.append(f"wrote {command.scores}")
    print(json.dumps(result, indent=2) if command.json else "\n".join(lines))
    return 0


def _compute(
    command: LikelihoodCommand, generator: Generator, given: GivenImages
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Bits per dimension of every image, and the options that they depend on, under a progress bar over evaluations."""
    from tqdm import tqdm

    from core.inference.likelihood import strata

    options: dict[str, Any]
    if command.method == "vlb":
        learned = generator.model.out_channels == 2 * generator.model.image_channels
        variance = command.variance or ("learned" if learned else "fixed_small")
        options = {"variance": variance, "clip": command.clip, "levels": command.levels}
        edges = strata(generator.process.timesteps, command.levels)
        nfe, more = len(edges), {"edges": edges.tolist()}
    else:
        options = {name: getattr(command, name) for name in ("steps", "probe", "probes", "dequantise")}
        pixels = math.prod(given.images.shape[1:])
        nfe, more = 4 * command.steps * (pixels if command.probe == "exact" else command.probes), {}
    options["seed"] = command.seed
    batches = -(-len(given.images) // command.batch_size)
    with tqdm(total=batches * nfe, desc="likelihood", unit="eval", dynamic_ncols=True) as bar:
        found = generator.likelihood(
            given.images,
            command.method,
            condition=given.condition,
            batch_size=command.batch_size,
            progress=bar.update,
            **options,
        )
    return found, {**options, "nfe": nfe, **more}


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over images with their standard errors, in bits per dimension."""
    from core.inference.likelihood import mean_and_error

    mean, error = mean_and_error(found["total"])
    result: dict[str, Any] = {"bits_per_dimension": mean, "standard_error": None if math.isnan(error) else error}
    if "prior" in found:
        parts = {"prior": found["prior"], "divergences": found["divergences"].sum(axis=1), "decoder": found["decoder"]}
        result["terms"] = {name: float(values.mean()) for name, values in parts.items()}
        result["divergence_by_run"] = found["divergences"].mean(axis=0).tolist()
    return result


def table(result: dict[str, Any]) -> str:
    """The result as a table of text."""
    import numpy as np

    error = result["standard_error"]
    spread = "" if error is None else f" ± {error:.4f}"
    whole = f"{result['bits_per_dimension']:.4f}{spread} bits/dim"
    if result["method"] == "ode":
        kind = "upper bound on -log2 P, eight bits" if result["dequantise"] else "-log2 density of values in [-1, 1]"
        trace = result["probe"] + (f" x {result['probes']}" if result["probe"] != "exact" else " trace")
        return f"flow        {whole}   ({kind}; {result['nfe']} evaluations, {trace}, {result['n']} images)"
    edges, runs = result["edges"], result["divergence_by_run"]
    lines = [f"{'prior':<18}{result['terms']['prior']:>10.5f}"]
    for part in reversed(np.array_split(np.arange(len(runs)), min(SHOWN, len(runs)))):
        name = f"t = {edges[part[0]]} ... {edges[part[-1] + 1] - 1}"
        lines.append(f"{name:<18}{sum(runs[k] for k in part):>10.5f}")
    lines.append(f"{'decoder (t = 0)':<18}{result['terms']['decoder']:>10.5f}")
    how = f"variance {result['variance']}, {result['nfe']} evaluations, {result['n']} images"
    return "\n".join([*lines, f"variational bound  {whole}   ({how})"])
