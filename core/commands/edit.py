"""The verb `edit`: inpainting, image to image, interpolation, reconstruction, super-resolution. Imports no framework."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.command_line import name_the_words, verb
from core.commands.edit_flags import (
    COMMANDS,
    KINDS,
    STEPS,
    EditCommand,
    Img2imgCommand,
    InpaintCommand,
    InterpolateCommand,
    UpscaleCommand,
)
from core.config import Sampler, SamplingConfig
from core.twin import Twin, environment, read_flags

if TYPE_CHECKING:
    from core.checkpoints.trained import Source
    from core.inference.conditioning import Condition
    from core.inference.editing import Edited, Editor
    from core.inference.given_images import GivenImages


def edit(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    kind = verb(argv, KINDS, f"{twin.prog} edit")
    default, name = COMMANDS[kind](), f"edit {kind}"
    argv = name_the_words(COMMANDS[kind], argv[1:], name, ("checkpoint", "images"), "a run or checkpoint, and images")
    command = read_flags(default, twin, argv, name)
    if not command.checkpoint:
        raise ValueError(f"{name}: no run or checkpoint given; for example: {name} runs/mine")
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.trained import open_source
    from core.diffusion.process import make_process
    from core.inference.editing import Editor
    from core.inference.sampling import sample_manifest, write_samples

    folder = resolve_checkpoint(command.checkpoint)
    source = open_source(folder, command.weights)
    out = Path(command.out or f"{command.checkpoint}/edit-{kind}-seed{command.seed}")
    if (out / "samples.npy").exists() and not command.overwrite:
        raise ValueError(f"{out}: already holds samples; name another --out, or give --overwrite")
    sampling = _sampling(kind, command, source)
    given, condition = _given(kind, command, source, folder)
    twin.set_threads(command.threads)
    started = time.monotonic()
    from tqdm import tqdm

    with tqdm(desc=name, unit="eval", dynamic_ncols=True) as bar:
        editor = Editor(
            twin.make_sampler(source.model, source.weights, source.dtype), make_process(source.process), sampling,
            source.dtype, command.seed, command.first, lambda table, count: bar.update(count),
        )  # fmt: skip
        edited = _edit(command, editor, given, condition)
    manifest = {
        "edit": kind,
        **sample_manifest(source, sampling, edited.table, started),
        **edited.facts,
        "images": given.identity,
        "weights": command.weights,
        "seed": command.seed,
        "first": command.first,
        "n": command.n,
        "labels": condition["labels"].tolist() if "labels" in condition else None,
        **environment(twin),
    }
    write_samples(out, edited.images, [], manifest, edited.picture())
    for fact, value in edited.facts.items():
        if fact.startswith("rms"):
            print(f"{fact.replace('_', ' ')}: {value:.3f}")
    print(f"wrote {out / 'samples.npy'}, {out / 'grid.png'}")
    return 0


def _sampling(kind: str, command: EditCommand, source: Source) -> SamplingConfig:
    """The recipe's sampling options with the flags that were given; guidance is left out."""
    from core.diffusion.samplers import with_sampler

    sampler: Sampler = getattr(command, "sampler", "ddim") or source.sampling.sampler
    base = with_sampler(source.sampling, sampler) if sampler != source.sampling.sampler else source.sampling
    given: dict[str, Any] = {"guidance": 1.0}
    if kind in STEPS:
        given |= {"nfe": 0, "steps": min(STEPS[kind], source.process.timesteps)}
    if command.steps is not None:
        given |= {"nfe": 0}
    for name in ("steps", "spacing", "clip", "batch_size", "variance"):
        if getattr(command, name, None) is not None and not (name == "variance" and sampler == "ddim"):
            given[name] = getattr(command, name)
    return dataclasses.replace(base, **given)


def _given(kind: str, command: EditCommand, source: Source, folder: Path) -> tuple[GivenImages, Condition]:
    """The images, and what the network is told of them."""
    from core.config.recipes import load_recipe
    from core.inference.conditioning import asked_condition, image_beside
    from core.inference.given_images import given_images

    factor = load_recipe(folder / "recipe.json").data.low_resolution if (folder / "recipe.json").is_file() else 0
    if kind == "upscale" and not factor:
        raise ValueError(f"{command.checkpoint}: must be trained with data.low_resolution, to upscale images")
    small = kind == "upscale" and command.images != "held-out"
    given = given_images(command.images, folder, source.model, command.first, command.n, factor if small else 1)
    if given.condition is not None and command.class_name is None:
        return given, given.condition
    samples = range(command.first, command.first + command.n)
    asked = dict(asked_condition(source.classes, source.data, samples, command.seed, source.dtype, command.class_name))
    if given.condition is not None:
        asked = {**given.condition, **asked}
    elif small:
        asked["image"] = image_beside(given.images, source.model.sample_size, source.dtype)
    elif source.model.condition_channels:
        raise ValueError(
            f"--images {command.images}: must be held-out, since the network is given a small image of each"
        )
    return given, asked


def _edit(command: EditCommand, editor: Editor, given: GivenImages, condition: Condition) -> Edited:
    from core.images import to_unit
    from core.inference import editing

    images = given.images.astype(editor.dtype)
    if isinstance(command, InpaintCommand):
        hole = editing.read_hole(command.mask, command.box, (images.shape[1], images.shape[2]))
        return editing.inpaint(editor, images, condition, hole, command.jump, command.resample)
    if isinstance(command, Img2imgCommand):
        return editing.img2img(editor, images, condition, command.strength)
    if isinstance(command, InterpolateCommand):
        return editing.interpolate(editor, images, condition, command.frames)
    if isinstance(command, UpscaleCommand):
        shown = to_unit(condition["image"])
        return editing.upscale(editor, shown, images if images.shape == shown.shape else None, condition)
    return editing.reconstruct(editor, images, condition)
