"""The verb `export`: the network of a run or checkpoint as a file for another runtime.

The twin writes the file and evaluates it. This module checks the options, and keeps the file only where its output
agrees with the network's.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.checkpoints.pretrained import refuse_pretrained
from core.command_line import name_the_checkpoint, read_flags
from core.config import ModelConfig, ProcessConfig
from core.config.recipes import load_recipe, to_dict
from core.exits import RunError
from core.twin import Exported, Twin

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 1e-4
"""Largest max abs(export - network) / max abs(network) in float32: forty convolutions, each with an error of 1.6e-6."""


@dataclass(frozen=True)
class ExportCommand:
    """Write the network of a run, a checkpoint or a diffusers model folder as a file for another runtime.

    The file holds the network alone, with averaged weights in float32. Its inputs are x, t and, for a class-conditional
    network, labels; its output is the network's prediction. Any batch size fits, with images of the checkpoint's size.
    OUT.json (manifest.json in a folder) gives shapes, layout, prediction and noise schedule.
    Before the file takes its name, its own runtime opens it and its output is compared with the network's.
    """

    checkpoint: str = ""
    """Run, checkpoint, pipeline or model folder. The first word after `export` names it too."""
    format: str = ""
    """Format of the file; the formats are listed above."""
    out: str = ""
    """File to write, with its format's suffix; a folder for saved-model."""
    overwrite: bool = False
    """Replace an export that is already there."""
    changed_weights: bool = False
    """Accept weights that were changed after the checkpoint was saved. Default: they are refused as damaged."""


def export(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = name_the_checkpoint(ExportCommand, argv, "export")
    command = read_flags(ExportCommand(), twin.package, argv, "export", _formats_and_examples(twin))
    if not command.checkpoint:
        raise ValueError("export: no run or checkpoint given; for example: export runs/mine --format FORMAT --out FILE")
    out, manifest = _targets(command, {name: suffix for name, (suffix, _) in twin.formats.items()})
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.importing import read_network
    from core.files import file_hash, temporary_beside, write_json

    folder = resolve_checkpoint(command.checkpoint)
    network = read_network(folder, changed_weights=command.changed_weights)
    config, weights = network.config, network.weights
    if config.architecture == "chart":
        raise ValueError(f"export {command.checkpoint}: must be a network of images; a matrix needs its chart, too")
    if config.vector_channels or config.condition_channels:
        raise ValueError(
            f"export {command.checkpoint}: the network is conditioned on parameters or an image; "
            "only a network of x, t and labels can be exported"
        )
    process = _read_process(folder)
    with temporary_beside(out) as temporary:
        temporary.mkdir()
        partial = temporary / out.name
        with _quiet():
            exported = twin.module("export").export(config, weights, command.format, partial, _batch(config, process))
        difference = _difference(exported, out)
        values = {
            "format": command.format,
            **_signature(config, process, exported.details),
            "verified": difference is not None,
            "difference": difference,
            "weights_sha256": file_hash(*network.files),
            **twin.environment(),
        }
        write_json(temporary / manifest.relative_to(out.parent), values)
        _publish(partial, out, manifest)
    says = "not verified: pip install onnxruntime" if difference is None else f"verified: differs by {difference:.1e}"
    print(f"wrote {out}, {manifest} ({says})")
    return 0


def _formats_and_examples(twin: Twin) -> str:
    """The part of --help that differs between the twins: formats and examples."""
    formats = [f"  {name:<13} {suffix or 'a folder'}, {about}" for name, (suffix, about) in twin.formats.items()]
    examples = [
        f"  {twin.prog} export runs/mine --format {name} --out mine{suffix}"
        for name, (suffix, _) in twin.formats.items()
    ]
    return "\n".join(["Formats:", *formats, "", "Examples:", *examples])


def _targets(command: ExportCommand, formats: dict[str, str]) -> tuple[Path, Path]:
    """The paths of the export and of its manifest.

    Raises:
        ValueError: an unknown format, a wrong suffix, or a path whose content must not be replaced.
    """
    if command.format not in formats:
        raise ValueError(f"--format {command.format or '(none)'}: must be one of {', '.join(formats)}")
    if not command.out:
        raise ValueError("--out is missing: give the file to write, for example --out mine" + formats[command.format])
    refuse_pretrained(command.out, "--out")
    out, suffix = Path(command.out), formats[command.format]
    if out.suffix != suffix and suffix:
        raise ValueError(f"--out {out}: must end in {suffix} for --format {command.format}")
    manifest = out.with_name(f"{out.name}.json") if suffix else out / "manifest.json"
    for path in (out, manifest):
        if path.exists() and not command.overwrite:
            raise ValueError(f"{path}: exists already; name another --out, or give --overwrite")
    # A folder is replaced as a whole: it must be an export, not someone's results.
    if out.exists() and (out.is_dir() == bool(suffix) or not (suffix or (out / "saved_model.pb").is_file())):
        raise ValueError(
            f"{out}: is no {command.format} export, so --overwrite does not replace it; name another --out"
        )
    return out, manifest


def _read_process(folder: Path) -> ProcessConfig | None:
    """The noise schedule and prediction type of the network's folder; None for a bare model folder."""
    from core.checkpoints.scheduler_config import process_from_diffusers
    from core.reading import read_json, reading

    if (folder / "recipe.json").is_file():
        return load_recipe(folder / "recipe.json").process
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return None
    with reading(path, "a scheduler's configuration", "save the scheduler again"):
        return process_from_diffusers(read_json(path), str(path))


def _batch(config: ModelConfig, process: ProcessConfig | None) -> dict[str, np.ndarray]:
    """Noise x (3, H, W, C); t (3,), the first, middle and last timestep; labels (3,) where there are classes."""
    import numpy as np

    from core.random import gaussian

    last = (process.timesteps if process else 1000) - 1
    batch = {
        "x": gaussian(0, "x_T", range(3), 0, (*config.sample_size, config.in_channels), np.float32),
        "t": np.array([0, last // 2, last], np.float32),
    }
    if config.num_class_embeds is not None:
        batch["labels"] = np.arange(3, dtype=np.int64) % config.num_class_embeds
    return batch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporters print, warn and log."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _difference(exported: Exported, out: Path) -> float | None:
    """max abs(found - expected) / max abs(expected), or None where the runtime that reads the export is missing.

    Raises:
        RunError: another shape or type, values that are not finite, or a difference beyond TOLERANCE.
    """
    import numpy as np

    found, expected = exported.found, exported.expected
    if not np.isfinite(expected).all():
        raise RunError(f"{out}: not written: the network's own output is not finite; use an earlier checkpoint")
    if found is None:
        return None
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise RunError(f"{out}: not written: the export gives {found.dtype} {found.shape}, not {expected.shape}")
    # An untrained network ends in zeros: its difference is absolute.
    difference = float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))
    if not difference <= TOLERANCE:  # NaN too
        raise RunError(f"{out}: not written: the export differs from the network by {difference:.2g} (> {TOLERANCE})")
    return difference


SCHEDULE_KEYS = (
    *("timesteps", "schedule", "beta_start", "beta_end", "zero_terminal_snr"),
    *("shift", "sigma_min", "sigma_max", "sigma_data"),
)


def _signature(config: ModelConfig, process: ProcessConfig | None, details: dict[str, Any]) -> dict[str, Any]:
    """What a caller must know: inputs and outputs by name, the prediction type and the noise schedule."""
    size = list(config.sample_size) if details["image_size"] == "fixed" else ["height", "width"]
    first = details["layout"] == "NCHW"

    def image(channels: int) -> list[Any]:
        return ["batch", channels, *size] if first else ["batch", *size, channels]

    last = process.timesteps - 1 if process else None
    t_range = "timestep, 0-based" + (f", 0 to {last}" if process else "") + "; may be fractional"
    inputs: dict[str, Any] = {
        "x": {"shape": image(config.in_channels), "dtype": "float32", "range": "image in [-1, 1], plus noise"},
        "t": {"shape": ["batch"], "dtype": "float32", "range": t_range},
    }
    if config.num_class_embeds is not None:
        inputs["labels"] = {"shape": ["batch"], "dtype": "int64", "range": f"class, 0 to {config.num_class_embeds - 1}"}
    said = to_dict(process) if process else {}
    return {
        **details,
        "inputs": inputs,
        "outputs": {"output": {"shape": image(config.out_channels), "dtype": "float32"}},
        "predicts": said.get("prediction"),
        "noise_schedule": {key: said[key] for key in SCHEDULE_KEYS} if process else None,
    }


def _publish(partial: Path, out: Path, manifest: Path) -> None:
    """Give the export and its manifest their names, so that a manifest always describes the file beside it."""
    from core.files import publish

    if partial.is_dir():
        publish(partial, out)
        return
    manifest.unlink(missing_ok=True)
    publish(partial, out)
    publish(partial.with_name(manifest.name), manifest)
