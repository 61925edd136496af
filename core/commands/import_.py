"""The verb `import`: a network that others saved becomes a checkpoint folder. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.command_line import name_the_checkpoint, read_flags
from core.twin import Twin

if TYPE_CHECKING:
    from core.checkpoints.importing import Network


@dataclass(frozen=True)
class ImportCommand:
    """Make a checkpoint of a network that diffusers saved, or of the baseline network's state_dict.

    Takes the folder of a pipeline (unet/ and scheduler/) or of a UNet2DModel alone; safetensors, shards or (with PyTorch
    only) a pickle; old attention names; half precision, which becomes float32. The result is a pipeline folder of one
    safetensors file that `sample` and diffusers open.
    A file, .safetensors or (with PyTorch only) a pickle such as .pt, is a state_dict of the original of the baseline
    network (dome272/Diffusion-Models-pytorch), trained on 1000 linear levels to predict eps unless --scheduler says else.

    Examples:
      python -m PACKAGE import ddpm-cifar10-32 --out checkpoints/cifar10
      python -m PACKAGE import ddpm-cifar10-32/unet --scheduler scheduler_config.json --out checkpoints/cifar10
      python -m PACKAGE import ckpt.pt --sample-size 64 --out checkpoints/baseline
    """

    checkpoint: str = ""
    """Pipeline or model folder, or the baseline's file; may also be given as the first word after `import`."""
    out: str = ""
    """Folder to write; must not exist."""
    scheduler: str = ""
    """diffusers' scheduler_config.json, for a folder that has none: its noise schedule and what the network predicts."""
    sample_size: int = 0
    """Side of the images in pixels, for the baseline's file, which does not tell it; 64 where not given."""


def import_(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    command = read_flags(ImportCommand(), twin.package, name_the_checkpoint(ImportCommand, argv, "import"), "import")
    if not command.checkpoint or not command.out:
        raise ValueError("import: needs a folder and --out; for example: import ddpm-cifar10-32 --out cifar10")
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
            f"import {command.checkpoint}: a checkpoint of ours, which needs its recipe.json; copy the folder"
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
    """diffusers' network, and the content of its scheduler's file."""
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.importing import read_network
    from core.checkpoints.trained import read_scheduler
    from core.files import read_json

    folder = resolve_checkpoint(command.checkpoint)
    if command.sample_size:
        raise ValueError(f"--sample-size {command.sample_size}: {folder} has its own; leave the option out")
    scheduler = _scheduler(folder, command.scheduler)
    read_scheduler(scheduler)
    return read_network(folder, twin.read_pickle), read_json(scheduler)


def _read_file(command: ImportCommand, twin: Twin) -> tuple[Network, dict[str, Any]]:
    """The baseline network of a state_dict, and a scheduler: the one given, or the process that the original trains."""
    from core.checkpoints.importing import Network, read_weights
    from core.checkpoints.scheduler_config import scheduler_to_diffusers
    from core.checkpoints.trained import read_scheduler
    from core.config import ProcessConfig, SamplingConfig
    from core.files import read_json
    from core.networks.baseline import baseline_from_state_dict

    path, size = Path(command.checkpoint), command.sample_size or 64
    # nn.DataParallel puts `module.` before every name.
    weights = {n.removeprefix("module."): v for n, v in read_weights([path], twin.read_pickle).items()}
    config = baseline_from_state_dict(weights, (size, size), str(path))
    if command.scheduler:
        read_scheduler(Path(command.scheduler))
        return Network(config, weights, (path,)), read_json(Path(command.scheduler))
    return Network(config, weights, (path,)), scheduler_to_diffusers(ProcessConfig(), SamplingConfig())


def _scheduler(folder: Path, given: str) -> Path:
    """The scheduler's file: the folder's own, or the one given for a folder that has none."""
    own = folder / "scheduler" / "scheduler_config.json"
    if own.is_file() and given:
        raise ValueError(f"--scheduler {given}: {folder} has its own; leave the option out")
    if own.is_file() or given:
        return Path(given) if given else own
    raise ValueError(
        f"{folder}: no scheduler/scheduler_config.json, so its noise schedule is unknown; give it with --scheduler FILE "
        '(a file of {"_class_name": "DDPMScheduler"} means 1000 linear levels and eps)'
    )
