"""The verb `edit`: changes of images, and draws that fit an input; edit_flags.py has the kinds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from core.command_line import name_the_words, output_folder, read_flags, sampling_flags, verb
from core.commands.edit_flags import (
    COMMANDS,
    KINDS,
    EditCommand,
    Img2imgCommand,
    InpaintCommand,
    InterpolateCommand,
    SolveCommand,
    TranslateCommand,
    UpscaleCommand,
)
from core.twin import Twin

if TYPE_CHECKING:
    from core.inference.editing import Edited
    from core.inference.edits import Edits
    from core.inference.generator import Generator
    from core.inference.given_images import GivenImages

SAMPLING_FLAGS = ("sampler", "steps", "spacing", "clip", "batch_size", "variance")


@sampling_flags()
def edit(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    kind = verb(argv, KINDS, f"{twin.prog} edit")
    default, name = COMMANDS[kind](), f"edit {kind}"
    argv = name_the_words(COMMANDS[kind], argv[1:], name, ("checkpoint", "images"), "a run or checkpoint, and images")
    command = read_flags(default, twin.package, argv, name)
    if not command.checkpoint:
        raise ValueError(f"{name}: no run or checkpoint given; for example: {name} runs/mine")
    from tqdm import tqdm

    from core.checkpoints.pretrained import results_folder
    from core.files import write_npy
    from core.inference.generator import open_generator
    from core.inference.samples import manifest_of, write_draws, write_samples
    from core.inference.space import require_images

    draws = kind in ("translate", "solve")
    images_file, picture_file = ("draws.npy", "draws.png") if draws else ("samples.npy", "grid.png")
    out = output_folder(command.out or results_folder(command.checkpoint) / f"edit-{kind}-seed{command.seed}")
    if (out / images_file).exists() and not command.overwrite:
        raise ValueError(f"{out}: already holds samples; name another --out, or give --overwrite")
    twin = twin.on(command.device)
    twin.prepare(command.threads)
    started = time.monotonic()
    generator = open_generator(twin, command.checkpoint, command.weights, command.changed_weights)
    require_images(generator.trained.chart, name)
    given = _given(kind, command, generator)
    with tqdm(desc=name, unit="eval", dynamic_ncols=True) as bar:
        edited = _edit(command, generator.edit, given, {**_options(command), "progress": bar.update})
    condition = edited.editor.network.condition
    manifest = {
        "edit": kind,
        **manifest_of(generator.trained, edited.editor.sampling, edited.table, started),
        **edited.facts,
        "images": given.identity,
        "weights": command.weights,
        "seed": command.seed,
        "first": command.first,
        "n": command.n,
        "labels": condition["labels"][:: edited.editor.draws].tolist() if "labels" in condition else None,
        **twin.environment(),
    }
    if isinstance(command, SolveCommand):
        manifest["operator"] = command.operator
        if given.originals is not None:
            write_npy(out / "measured.npy", given.images.astype("float32"))
            write_npy(out / "truth.npy", given.originals)
    if draws:
        write_draws(out, edited.images, manifest, edited.picture())
    else:
        write_samples(out, edited.images, [], manifest, edited.picture())
    for fact, value in edited.facts.items():
        if fact.startswith(("rms", "residual")):
            print(f"{fact.replace('_', ' ')}: {value:.3f}")
    print(f"wrote {out / images_file}, {out / picture_file}")
    return 0


def _options(command: EditCommand) -> dict[str, Any]:
    """Keywords for the methods of core.inference.edits.Edits: the flags that were given."""
    chosen = {name: getattr(command, name, None) for name in SAMPLING_FLAGS}
    if chosen["sampler"] != "ddpm":
        chosen["variance"] = None  # of ddpm alone
    options = {name: value for name, value in chosen.items() if value is not None}
    return {**options, "seed": command.seed, "first": command.first, "class_name": command.class_name}


def _given(kind: str, command: EditCommand, generator: Generator) -> GivenImages:
    """The images to edit, and what the network is conditioned on for each."""
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.inference.given_images import given_images

    if isinstance(command, SolveCommand):
        return _measured(command, generator)
    trained, folder = generator.trained, resolve_checkpoint(command.checkpoint)
    if kind == "upscale" and not trained.low_resolution:
        raise ValueError(f"{command.checkpoint}: must be trained with data.low_resolution, to upscale images")
    if kind == "translate" and trained.input_shape is None:
        keys = "data.beside or data.low_resolution"
        raise ValueError(f"{command.checkpoint}: must be trained with {keys}, to translate images")
    inputs = kind == "translate" or (kind == "upscale" and command.images != "held-out")
    given = given_images(command.images, folder, trained, command.first, command.n, inputs)
    if given.condition is None and trained.model.condition_channels and not inputs:
        raise ValueError(
            f"--images {command.images}: must be held-out, since the network is conditioned on an image beside each"
        )
    return given


def _measured(command: SolveCommand, generator: Generator) -> GivenImages:
    """The measurements to solve, and the images that were measured where they are the run's held-out ones."""
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.inference.measuring import measured_images, read_operator
    from core.reading import check_memory

    if command.noise <= 0:
        raise ValueError(f"--noise {command.noise:g}: must be given, above 0: the measurement's noise in intensity")
    height, width, channels = generator.trained.image_shape
    operator = read_operator(command.operator, (height, width))
    check_memory(f"--n {command.n} --draws {command.draws}", 16 * command.n * command.draws * height * width * channels)
    folder, trained = resolve_checkpoint(command.checkpoint), generator.trained
    return measured_images(
        command.images, folder, trained, operator, command.noise, command.first, command.n, command.seed
    )


def _edit(command: EditCommand, edits: Edits, given: GivenImages, how: dict[str, Any]) -> Edited:
    """Call the method of `edits` that a command stands for."""
    from core.inference.editing import read_hole
    from core.reading import check_memory

    if isinstance(command, SolveCommand):
        return _solve(command, edits, given, how)
    images, how = given.images.astype(edits.trained.dtype), {**how, "condition": given.condition}
    if isinstance(command, InpaintCommand):
        hole = read_hole(command.mask, command.box, (images.shape[1], images.shape[2]))
        return edits.inpaint(images, hole, command.jump, command.resample, **how)
    if isinstance(command, Img2imgCommand):
        return edits.img2img(images, command.strength, **how)
    if isinstance(command, InterpolateCommand):
        return edits.interpolate(images, command.frames, **how)
    if isinstance(command, UpscaleCommand):
        return edits.upscale(images, **how)
    if isinstance(command, TranslateCommand):
        height, width, channels = edits.trained.image_shape
        check_memory(
            f"--n {command.n} --draws {command.draws}", 16 * command.n * command.draws * height * width * channels
        )
        return edits.translate(images, command.draws, given.originals, **how)
    return edits.reconstruct(images, **how)


def _solve(command: SolveCommand, edits: Edits, given: GivenImages, how: dict[str, Any]) -> Edited:
    from core.inference.measuring import read_operator

    height, width, _ = edits.trained.image_shape
    operator = read_operator(command.operator, (height, width))
    return edits.solve(
        given.images, operator, command.noise, command.method, command.draws, command.step, given.originals, **how
    )
