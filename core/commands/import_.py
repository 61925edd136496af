"""The verb `import`: makes a checkpoint folder of a network that other software saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.checkpoints.pretrained import refuse_pretrained
from core.command_line import name_the_checkpoint, read_flags
from core.twin import Twin

if TYPE_CHECKING:
    from core.checkpoints.importing import Network


@dataclass(frozen=True)
class ImportCommand:
    """Make a checkpoint of a network that diffusers saved, or of the baseline network's state_dict.

    A folder is a diffusers pipeline (unet/ and scheduler/) or a UNet2DModel alone. Its weights are safetensors, shards
    or, with PyTorch only, a pickle. Old attention names are accepted; half precision becomes float32.
    A file is a state_dict of the baseline network's original (dome272/Diffusion-Models-pytorch): .safetensors or, with
    PyTorch only, a pickle such as .pt. Without --scheduler it is taken to predict eps over 1000 timesteps with linear
    betas.
    The result is a pipeline folder with one safetensors file, which `sample` and diffusers open.

    Examples:
      python -m PACKAGE import ddpm-cifar10-32 --out checkpoints/cifar10
      python -m PACKAGE import ddpm-cifar10-32/unet --scheduler scheduler_config.json --out checkpoints/cifar10
      python -m PACKAGE import ckpt.pt --sample-size 64 --out checkpoints/baseline
    """

    checkpoint: str = ""
    """Pipeline or model folder, or the baseline network's file. The first word after `import` names it too."""
    out: str = ""
    """Folder to write. It must not exist."""
    scheduler: str = ""
    """diffusers' scheduler_config.json, for a folder or file without one. It gives the noise schedule and the
    prediction type."""
    sample_size: int = 0
    """Side of the images in pixels, for the baseline network's file, which does not record it; 0 means 64."""


def import_(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    command = read_flags(ImportCommand(), twin.package, name_the_checkpoint(ImportCommand, argv, "import"), "import")
    if not command.checkpoint or not command.out:
        raise ValueError("import: needs a folder and --out; for example: import ddpm-cifar10-32 --out cifar10")
    refuse_pretrained(command.out, "--out")
    out = Path(command.out)
    if out.exists():
        raise ValueError(f"--out {out}: exists already; name another")
    from core.checkpoints.checkpoint import write_pipeline
    from core.files import atomic_folder
    from core.networks.specs import count_parameters

    read = _read_file if Path(command.checkpoint).is_file() else _read_folder
    network, scheduler = read(command, twin)
    if network.config.vector_channels or network.config.condition_channels:
        raise ValueError(
            f"import {command.checkpoint}: a checkpoint of this project, which needs its recipe.json; copy the folder"
        )
    with atomic_folder(out) as partial:
        write_pipeline(partial, network.config, network.weights, scheduler)
    height, width = network.config.sample_size
    print(
        f"wrote {out}: {count_parameters(network.config):,} parameters, "
        f"{height} x {width} images of {network.config.in_channels} channels"
    )
    return 0


def _read_folder(command: ImportCommand, twin: Twin) -> tuple[Network, dict[str, Any]]:
    """The network of a diffusers folder, and the content of its scheduler's file."""
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.importing import read_network
    from core.checkpoints.trained import read_scheduler
    from core.reading import read_json

    folder = resolve_checkpoint(command.checkpoint)
    if command.sample_size:
        raise ValueError(f"--sample-size {command.sample_size}: {folder} has its own; leave the option out")
    scheduler = _scheduler(folder, command.scheduler)
    read_scheduler(scheduler)
    return read_network(folder, twin.read_pickle, changed_weights=True), read_json(scheduler)


def _read_file(command: ImportCommand, twin: Twin) -> tuple[Network, dict[str, Any]]:
    """The baseline network of a state_dict, and a scheduler: the given one, or that of the original's training."""
    from core.checkpoints.importing import Network, read_weights
    from core.checkpoints.scheduler_config import scheduler_to_diffusers
    from core.checkpoints.trained import read_scheduler
    from core.config import ProcessConfig, SamplingConfig
    from core.networks.baseline import baseline_from_state_dict
    from core.reading import read_json

    path, size = Path(command.checkpoint), command.sample_size or 64
    # nn.DataParallel puts `module.` before every name.
    weights = {n.removeprefix("module."): v for n, v in read_weights([path], twin.read_pickle).items()}
    config = baseline_from_state_dict(weights, (size, size), str(path))
    if command.scheduler:
        read_scheduler(Path(command.scheduler))
        return Network(config, weights, (path,)), read_json(Path(command.scheduler))
    return Network(config, weights, (path,)), scheduler_to_diffusers(ProcessConfig(), SamplingConfig())


def _scheduler(folder: Path, given: str) -> Path:
    """The scheduler's file: the folder's own, or the given one where the folder has none."""
    own = folder / "scheduler" / "scheduler_config.json"
    if own.is_file() and given:
        raise ValueError(f"--scheduler {given}: {folder} has its own; leave the option out")
    if own.is_file() or given:
        return Path(given) if given else own
    raise ValueError(
        f"{folder}: no scheduler/scheduler_config.json, so its noise schedule is unknown; "
        "give it with --scheduler FILE "
        '(a file of {"_class_name": "DDPMScheduler"} means 1000 timesteps with linear betas, and eps)'
    )
