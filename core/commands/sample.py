"""The verb `sample`: draws images from a run, a checkpoint or a diffusers pipeline folder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from core.command_line import given, name_the_checkpoint, output_folder, read_flags, sampling_flags
from core.config import SamplingConfig
from core.twin import Device, Twin

if TYPE_CHECKING:
    from core.inference.generator import Generator
    from core.inference.given_images import GivenImages


@dataclass(frozen=True)
class SampleCommand:
    """Draw images from a run, a checkpoint, or a diffusers pipeline folder.

    Image i of a seed is the same image in both frameworks, for every batch size and range. Sampling options that are
    not given are taken from the recipe.

    Examples:
      python -m PACKAGE sample --checkpoint runs/mine --n 64 --out runs/mine/out
      python -m PACKAGE sample --checkpoint runs/mine --sampler ddpm --steps 1000 --seed 7 --out ddpm
      python -m PACKAGE sample --checkpoint runs/mine --sampler unipc --nfe 10 --spacing log_snr --out few
      python -m PACKAGE sample --checkpoint runs/mine/checkpoints/step-00002000 --n 16 --gif --out film
      python -m PACKAGE sample --checkpoint runs/mine --first 40 --n 10 --out images-40-to-49
      python -m PACKAGE sample --checkpoint runs/mine --n 4 --runtime onnx --out quick
      python -m PACKAGE sample --checkpoint runs/mine --class-name vort --guidance 2 --out vortices
      python -m PACKAGE sample --checkpoint runs/mine --param theta_e=1.2 --param gamma1=0.05 --out lenses
    """

    checkpoint: str = ""
    """Run, checkpoint or pipeline folder, or pretrained:NAME. The first word after `sample` names it too."""
    out: str = ""
    """Folder for samples.npy, grid.png and manifest.json. Default: CHECKPOINT/samples-SAMPLER-EVALUATIONS-seedSEED;
    for pretrained:NAME in runs/pretrained-NAME."""
    n: int = 64
    """Number of images."""
    first: int = 0
    """Index of the first image: --first 40 --n 10 draws images 40 to 49 of the seed."""
    seed: int = 0
    """Seed of the noise, and of parameters that are not given. Change it for other images."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of the network: ema is their average over training, raw those of the last step."""
    changed_weights: bool = False
    """Accept weights that were changed after the checkpoint was saved. Default: they are refused as damaged."""
    class_name: str | None = None
    """Class of all images, by name or number, for a class-conditional network. Default: the classes in turn."""
    param: tuple[str, ...] = ()
    """NAME=VALUE: a parameter that the network is conditioned on, in the training data's units. May be given several
    times. Parameters that are not given are those of a training image."""
    beside: str = "held-out"
    """Images that the network is conditioned on, for one trained with data.beside or data.low_resolution. held-out
    takes those beside the run's held-out images; otherwise name a file or folder. They are taken in turn."""
    guide: str = ""
    """Run or checkpoint of a weaker network, such as an earlier step or a smaller network. --guidance then moves away
    from its output in place of the unconditional one."""
    gif: bool = False
    """Also write denoising.gif: the predicted images at each timestep, of the first 16 images."""
    runtime: Literal["framework", "onnx"] = "framework"
    """What evaluates the network: the framework, or ONNX Runtime, which needs `pip install onnx onnxruntime`. onnx is
    faster on a CPU, most of all for few images. The images differ by less than 0.01 grey levels of 255."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network's convolutions and products. The image stays in fp32 between evaluations. bf16 moves a
    pixel by 0.2 grey levels of 255 on average and 2 at most. Use it where it is faster: on a GPU, or on a processor
    with AMX or AVX-512 bf16 (train --dry-run says so) in large batches."""
    overwrite: bool = False
    """Replace samples that are already in the folder."""
    threads: int = 0
    """Number of CPU threads; 0 leaves it to the framework."""
    device: Device = "auto"
    """Where to draw. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        read_numbers(self.param)
        for name, low in (("n", 1), ("first", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {low}")


def read_numbers(words: Sequence[str]) -> dict[str, float]:
    """Values by name, from words NAME=VALUE.

    Raises:
        ValueError: a word of another form, or a name given twice.
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
    """Rewrite `--param A --param=B` as `--param A B`, the parser's form of a list."""
    rest: list[str] = []
    words: list[str] = []
    flags = iter(argv)
    for word in flags:
        if word.partition("=")[0] == "--param":
            words.append(word.partition("=")[2] or next(flags, ""))
        else:
            rest.append(word)
    return [*rest, "--param", *words] if words else rest


@sampling_flags()
def sample(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = _together(name_the_checkpoint(SampleCommand, argv, "sample"))
    command = read_flags(_defaults(argv), twin.package, argv, "sample", flat=True)
    if not command.checkpoint:
        raise ValueError("sample: no run or checkpoint given; for example: sample runs/mine --out images")
    from core.checkpoints.pretrained import results_folder
    from core.diffusion.samplers import make_table
    from core.inference.conditioning import numbers_of
    from core.inference.generator import open_generator
    from core.inference.onnx_runtime import pick_executor
    from core.inference.samples import Film, manifest_of, write_samples
    from core.inference.space import check_sampling, require_images, space_of
    from core.reading import check_memory

    started, sampling = time.monotonic(), command.sampling
    executor = pick_executor(twin, command.runtime, command.device, command.threads)
    options = (command.weights, command.changed_weights, command.precision)
    generator = open_generator(executor, command.checkpoint, *options)
    check_sampling(generator.trained.chart, sampling)
    for name, given_value in (("--gif", command.gif), ("--precision bf16", command.precision == "bf16")):
        if given_value:
            require_images(generator.trained.chart, name)
    table = make_table(generator.process, sampling)
    name = f"samples-{sampling.sampler}-{table.nfe}-seed{command.seed}"
    out = output_folder(command.out or results_folder(command.checkpoint) / name)
    if (out / "samples.npy").exists() and not command.overwrite:
        raise ValueError(f"{out}: already holds samples; name another --out, or give --overwrite")
    height, width, channels = generator.trained.image_shape
    check_memory(f"--n {command.n}", 2 * command.n * height * width * channels * 4)
    samples = range(command.first, command.first + command.n)
    numbers = read_numbers(command.param)
    beside = _beside(command, generator)
    inputs = None if beside is None else beside.images
    condition = generator.condition(samples, command.seed, command.class_name, numbers, inputs)
    if beside is not None and beside.condition and command.class_name is None and not numbers:
        condition = beside.condition
    try:
        guide = open_generator(executor, command.guide, *options) if command.guide else None
    except ValueError as error:
        raise ValueError(f"--guide {error}") from error
    try:
        generator.weak(table, condition, guide)
    except ValueError as error:  # it names the parameter: guide or guidance
        raise ValueError(f"--{error}") from error
    stretch = generator.process.config.stretch
    with Film(table, -(-command.n // sampling.batch_size), command.gif, stretch) as film:
        images = generator.draw(samples, command.seed, condition, sampling, guide, film.after)
    manifest = {
        **manifest_of(generator.trained, sampling, table, started),
        "weights": command.weights,
        "precision": command.precision,
        "seed": command.seed,
        "first": command.first,
        "n": command.n,
        "labels": condition["labels"].tolist() if "labels" in condition else None,
        "parameters": numbers_of(generator.trained.data, condition),
        "beside": None if beside is None else beside.identity,
        "guide": None if guide is None else str(guide.trained.files[0].parent),
        **executor.environment(),
    }
    write_samples(out, images, film.frames, manifest, space=space_of(generator.trained.chart))
    print(f"wrote {out / 'samples.npy'}, {out / 'grid.png'}" + (f", {out / 'denoising.gif'}" if film.frames else ""))
    return 0


def _beside(command: SampleCommand, generator: Generator) -> GivenImages | None:
    """The images that the network is conditioned on; None for a network that is conditioned on none."""
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.inference.given_images import HELD_OUT, given_images

    trained = generator.trained
    if trained.input_shape is None:
        if command.beside != HELD_OUT:
            raise ValueError(f"--beside {command.beside}: must be left out, the network is conditioned on no image")
        return None
    folder = resolve_checkpoint(command.checkpoint)
    return given_images(command.beside, folder, trained, command.first, command.n, inputs=True, cyclic=True)


def _defaults(argv: list[str]) -> SampleCommand:
    """The defaults of the flags: the checkpoint's own sampling options, adapted to --sampler and --steps."""
    checkpoint = given(argv, "--checkpoint")
    if not checkpoint or "--help" in argv or "-h" in argv:
        return SampleCommand()
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.trained import sampling_of
    from core.diffusion.samplers import SAMPLERS, with_options

    sampler = given(argv, "--sampler")
    changed: dict[str, Any] = {"sampler": sampler} if sampler in SAMPLERS else {}
    if given(argv, "--steps"):
        changed["nfe"] = 0
    try:
        own = sampling_of(resolve_checkpoint(checkpoint))
    except ValueError:  # reported when the checkpoint is opened, after errors in the flags
        own = SamplingConfig()
    return SampleCommand(sampling=with_options(own, changed))
