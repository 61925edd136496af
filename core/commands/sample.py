"""The verb `sample`: images from a run, a checkpoint or a diffusers pipeline folder. Imports no framework."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.command_line import name_the_checkpoint
from core.config import Sampler, SamplingConfig, Spacing, Variance
from core.twin import Twin, environment, read_flags

if TYPE_CHECKING:
    from core.checkpoints.trained import Source
    from core.diffusion.table import SamplingTable
    from core.inference.conditioning import Condition


@dataclass(frozen=True)
class SampleCommand:
    """Draw images from a run, a checkpoint, or a diffusers pipeline folder.

    Image i of a seed is the same image in both frameworks, whatever the batch size and range. Sampling options that
    are not given are the recipe's.

    Examples:
      python -m PACKAGE sample --checkpoint runs/mine --n 64 --out runs/mine/out
      python -m PACKAGE sample --checkpoint runs/mine --sampler ddpm --steps 1000 --seed 7 --out ddpm
      python -m PACKAGE sample --checkpoint runs/mine --sampler unipc --nfe 10 --spacing log_snr --out few
      python -m PACKAGE sample --checkpoint runs/mine/checkpoints/step-00002000 --n 16 --gif --out film
      python -m PACKAGE sample --checkpoint runs/mine --first 40 --n 10 --out images-40-to-49
      python -m PACKAGE sample --checkpoint runs/mine --class-name vort --guidance 2 --out vortices
      python -m PACKAGE sample --checkpoint runs/mine --param theta_e=1.2 --param gamma1=0.05 --out asked
    """

    checkpoint: str = ""
    """Run, checkpoint or pipeline folder; may also be given as the first word after `sample`."""
    out: str = ""
    """Folder to write samples.npy, grid.png and manifest.json to; CHECKPOINT/samples-SAMPLER-STEPS-SEED where not given."""
    n: int = 64
    """Number of images."""
    first: int = 0
    """Index of the first image: --first 40 --n 10 draws images 40 to 49 of the seed."""
    seed: int = 0
    """Seed of the noise."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged weights, or those of the last step."""
    class_name: str | None = None
    """Class to draw, by name or number, for a class-conditional network; each in turn where not given."""
    param: tuple[str, ...] = ()
    """NAME=VALUE: a number of the images, in the training data's units; may be given several times. Others are drawn as in
    the training images."""
    guidance: float | None = None
    """Away from no condition: weak + g (output - weak), at two evaluations each; 1 is off."""
    guidance_min: float | None = None
    """Guide only above this sigma = noise / signal."""
    guidance_max: float | None = None
    """Guide only up to this sigma; 0 for no limit."""
    guide: str = ""
    """Run or checkpoint of a weaker network (an earlier step, or a smaller one) to guide away from instead."""
    gif: bool = False
    """Also write denoising.gif: the predicted images of the first 16, from noise to image."""
    overwrite: bool = False
    """Replace samples that are already in the folder."""
    threads: int = 0
    """CPU threads; 0 for the framework's choice."""
    sampler: Sampler | None = None
    """Sampling method."""
    steps: int | None = None
    """Points of the sampling grid."""
    nfe: int | None = None
    """Evaluations of the network an image, in place of --steps: the fair measure of cost, since heun takes two a step."""
    spacing: Spacing | None = None
    """Where on the training grid the steps lie."""
    eta: float | None = None
    """Noise of ddim, from 0 (deterministic) to 1."""
    variance: Variance | None = None
    """Variance of ddpm."""
    order: int | None = None
    """Order of unipc (1 to 3) and ipndm (1 to 4)."""
    unipc_variant: Literal["bh1", "bh2"] | None = None
    """B(h) of unipc."""
    churn: float | None = None
    """S_churn of euler and heun: noise added and removed again on the way."""
    churn_min: float | None = None
    """Smallest sigma at which there is churn."""
    churn_max: float | None = None
    """Largest sigma at which there is churn; 0 for no limit."""
    churn_noise: float | None = None
    """Standard deviation of the noise that churn adds."""
    clip: bool | None = None
    """Clip the predicted image to [-1, 1] at every step."""
    dynamic_threshold: float | None = None
    """Clip to this quantile of the predicted image instead, where it is above 1; 0 for no."""
    batch_size: int | None = None
    """Images at a time."""

    def __post_init__(self) -> None:
        read_numbers(self.param)
        for name, low in (("n", 1), ("first", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {low}")


def read_numbers(words: Sequence[str]) -> dict[str, float]:
    """NAME=VALUE words as numbers by name.

    Raises:
        ValueError: another form, or a name given twice.
    """
    found: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number) or name in found:
            raise ValueError(f"--param {word}: must be NAME=VALUE with a number, each name once")
        found[name] = number
    return found


def _together(argv: list[str]) -> list[str]:
    """`--param A --param=B` as `--param A B`, which is how the parser takes a list."""
    rest: list[str] = []
    words: list[str] = []
    flags = iter(argv)
    for word in flags:
        if word.partition("=")[0] == "--param":
            words.append(word.partition("=")[2] or next(flags, ""))
        else:
            rest.append(word)
    return [*rest, "--param", *words] if words else rest


def sample(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = _together(name_the_checkpoint(SampleCommand, argv, "sample"))
    command = read_flags(SampleCommand(), twin, argv, "sample")
    if not command.checkpoint:
        raise ValueError("sample: no run or checkpoint given; for example: sample runs/mine --out images")
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.trained import open_source
    from core.diffusion.process import make_process
    from core.diffusion.samplers import make_table
    from core.inference.conditioning import asked_condition, numbers_of
    from core.inference.sampling import sample_manifest, write_samples

    folder = resolve_checkpoint(command.checkpoint)
    source = open_source(folder, command.weights)
    sampling = _sampling(source.sampling, command)
    table = make_table(make_process(source.process), sampling)
    name = f"samples-{sampling.sampler}-{table.nfe}-seed{command.seed}"
    out = Path(command.out) if command.out else Path(command.checkpoint) / name
    if (out / "samples.npy").exists() and not command.overwrite:
        raise ValueError(f"{out}: already holds samples; name another --out, or give --overwrite")
    samples = range(command.first, command.first + command.n)
    if source.model.condition_channels:
        raise ValueError(f"{folder}: conditioned on an image, which `sample` cannot give; call the network from Python")
    numbers = read_numbers(command.param)
    condition = asked_condition(
        source.classes, source.data, samples, command.seed, source.dtype, command.class_name, numbers
    )
    weak, guide = _weak(command, source, table, condition)
    twin.set_threads(command.threads)
    started = time.monotonic()
    sampler = twin.make_sampler(source.model, source.weights, source.dtype)
    given = {"condition": condition, "weak": weak}
    if guide is not None:
        given["guide"] = twin.make_sampler(guide.model, guide.weights, source.dtype)
    images, frames = _draw(sampler, table, source, sampling, command, samples, given)
    manifest = {
        **sample_manifest(source, sampling, table, started),
        "weights": command.weights,
        "seed": command.seed,
        "first": command.first,
        "n": command.n,
        "labels": condition["labels"].tolist() if "labels" in condition else None,
        "parameters": numbers_of(source.data, condition),
        "guide": None if guide is None else str(guide.weights_files[0].parent),
        **environment(twin),
    }
    write_samples(out, images, frames, manifest)
    print(f"wrote {out / 'samples.npy'}, {out / 'grid.png'}" + (f", {out / 'denoising.gif'}" if frames else ""))
    return 0


def _weak(command: SampleCommand, source: Source, table: SamplingTable, condition: Condition) -> tuple[Condition | None, Source | None]:  # fmt: skip
    """What guided rows move away from: no condition, or the network of --guide under the same one."""
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.trained import open_source
    from core.inference.conditioning import no_condition

    if table.network_evaluations == table.nfe:
        if command.guide:
            raise ValueError(f"--guide {command.guide}: no level is guided; give --guidance, such as 2")
        return None, None
    if not command.guide:
        if not source.drops:
            raise ValueError(
                "--guidance: must be 1, since the network was trained with training.condition_dropout = 0 and "
                "does not know images without a condition; or give a weaker network with --guide"
            )
        return no_condition(condition, source.classes), None
    guide = open_source(resolve_checkpoint(command.guide), command.weights)
    if guide.process != source.process:
        raise ValueError(f"--guide {command.guide}: trained with another process than {command.checkpoint}")
    same = ("sample_size", "in_channels", "num_class_embeds", "vector_channels")
    alike = guide.classes == source.classes and guide.data.get("condition") == source.data.get("condition")
    if not alike or any(getattr(guide.model, k) != getattr(source.model, k) for k in same):
        raise ValueError(f"--guide {command.guide}: takes other images or conditions than {command.checkpoint}")
    return condition, guide


def _sampling(recipe: SamplingConfig, command: SampleCommand) -> SamplingConfig:
    """The recipe's sampling options with the flags that were given; another sampler starts from its own defaults."""
    from core.diffusion.samplers import with_sampler

    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    given = {name: getattr(command, name) for name in names if getattr(command, name) is not None}
    if given.get("steps"):
        given.setdefault("nfe", 0)
    if command.sampler:
        recipe = with_sampler(recipe, command.sampler)
    return dataclasses.replace(recipe, **given)


def _draw(
    sampler: Any,
    table: Any,
    source: Any,
    sampling: SamplingConfig,
    command: SampleCommand,
    samples: range,
    given: dict[str, Any],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw with a progress bar over the evaluations of the network; also the frames of the GIF."""
    from tqdm import tqdm

    from core.inference.sampling import denoising_frames, draw

    frames: list[np.ndarray] = []
    batches = -(-command.n // sampling.batch_size)
    with tqdm(total=batches * table.nfe, desc="sample", unit="eval", dynamic_ncols=True) as progress:

        def callback(row: int, x_0: np.ndarray) -> None:
            if command.gif and progress.n < table.nfe:
                denoising_frames(row, table.nfe, x_0, frames)
            progress.update()

        shape = (*source.model.sample_size, source.model.image_channels)
        images = draw(
            sampler, table, shape, command.seed, samples, sampling.batch_size, source.dtype, callback=callback, **given
        )
    return images, frames
