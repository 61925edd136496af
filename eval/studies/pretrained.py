"""The study `pretrained`: puts a finished run into core/pretrained, with its measured distance on a model card."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.twins.interpreters import PACKAGES, Framework, Interpreters
from eval.verbs import main

if TYPE_CHECKING:
    from core.config import Recipe

SMALL_N = 500
"""Images of the second distance on the card, which tests.eval.test_pretrained measures again."""
IMAGES = "card-samples"
"""Folder of the images, in runs/pretrained-NAME."""


@dataclass(frozen=True, kw_only=True)
class PretrainedStudy(Interpreters):
    """Put a finished run into core/pretrained, where pretrained:NAME opens it.

    The averaged weights of the last checkpoint are rounded to float16. Images are drawn with them, and the distance is
    measured. The model card has the data, the training, the distance and the limits. A network of the same name is
    replaced. Nothing else may run meanwhile, because the speed of the machine is measured.

    Examples:
      python -m eval.studies.pretrained runs/lens-64-pretrained-torch
    """

    WORDS_FIRST: ClassVar = True

    run: str
    """Folder of the run."""
    name: str = "lens-64"
    """Name of the network: pretrained:NAME."""
    config: str = "configs/lens-64-pretrained.toml"
    """Recipe of the run. The card names it in the training's command."""
    command: str = ""
    """Command of the training. Default: `train` with --config and a flag for each value that the run has changed."""
    n: int = 2000
    """Number of images on each side of the distance."""
    speed: float = 0.0
    """Images a second of eval.studies.reference_speed on the machine that trained. 0 measures this machine."""
    framework: Framework = "torch"
    """Framework that draws and takes the features."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"--name {self.name}: must be small letters, digits and hyphens, such as lens-64")
        if self.n < SMALL_N:
            raise ValueError(f"--n {self.n}: must be at least {SMALL_N}")
        if self.speed < 0:
            raise ValueError(f"--speed {self.speed}: must be above 0, or 0 to measure it")

    def execute(self) -> str:
        """Write the folder, draw, measure, and add the card."""
        from core.checkpoints import pretrained
        from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint, save_pretrained
        from core.files import write_json, write_text_atomic
        from core.reading import read_json
        from eval.pages.page import fill_template
        from eval.twins.drawn import draw_from

        checkpoint = load_checkpoint(resolve_checkpoint(self.run))
        recipe, done = checkpoint.recipe, checkpoint.progress["step"]
        if done != recipe.training.steps:
            raise ValueError(f"{self.run}: is at step {done} of {recipe.training.steps}; go on with train --resume")
        environment = read_json(Path(self.run) / "run.json", {"framework": str, "version": str})
        command = self.command or training_command(self.config, recipe, environment["framework"])
        folder = pretrained.FOLDER / self.name
        save_pretrained(folder, checkpoint)
        drawn = draw_from(Path(f"{pretrained.PREFIX}{self.name}"), self.n, self.framework, IMAGES)
        facts = {
            **self._training(checkpoint.progress, environment, command),
            **network_facts(folder),
            "distances": [self._distance(drawn, n) for n in (self.n, SMALL_N)],
            "nearest": self._nearest(drawn),
        }
        write_json(folder / "card.json", facts)
        text = fill_template("card.md", **facts, network=f"pretrained:{self.name}", recipe=recipe, data=checkpoint.data)
        write_text_atomic(folder / "card.md", text + "\n")
        value, small = facts["distances"][0], facts["distances"][1]
        return f"wrote {folder}: distance {value['value']:.3g} at N = {self.n:,}, {small['value']:.3g} at {SMALL_N}"

    def _training(self, progress: Mapping[str, Any], environment: Mapping[str, Any], command: str) -> dict[str, Any]:
        """How the network was trained: command, steps, seconds, machine and versions."""
        from eval.measure.fid import code_version
        from eval.measure.machine import machine
        from eval.studies.reference_speed import REFERENCE, images_per_second

        speed = self.speed or images_per_second()
        return {
            "command": command,
            "steps": progress["step"],
            "seconds": progress["seconds"],
            "images_per_second": round(speed, 1),
            "reference": REFERENCE,
            "reference_minutes": round(progress["seconds"] * speed / REFERENCE / 60, 1),
            "environment": dict(environment),
            "machine": {key: value for key, value in machine().items() if key != "load_before"},
            "code": code_version(),
        }

    def _distance(self, drawn: Path, n: int) -> dict[str, Any]:
        """The lens Fréchet distance of the first n images from as many held-out ones, with interval and floor."""
        from eval.measure.fid import evaluate
        from eval.measure.request import DistanceRequest

        network = f"pretrained:{self.name}"
        result, _ = evaluate(DistanceRequest(real=network, generated=str(drawn), n=n, framework=self.framework))
        frechet, floor = result["frechet"], result["floor"]
        kept = {key: frechet[key] for key in ("value", "low", "high")}
        return {"n": n, **kept, "floor": floor["mean"], "floor_std": floor["std"], "framework": self.framework}

    def _nearest(self, drawn: Path) -> dict[str, float]:
        """How many drawn images are nearer to a training image than 99 % of the held-out ones are."""
        from eval.measure.compare import compare
        from eval.measure.image_sets import read_image_set

        real = read_image_set(f"pretrained:{self.name}", "real", lambda run: run)
        generated = read_image_set(str(drawn), "generated", lambda run: run)
        result = compare(real.all_images()[: self.n], {"drawn": generated.all_images()[: self.n]}, real.others)
        found = result["nearest"]["sets"]["drawn"]
        return {key: found[key] for key in ("count", "share_closer", "copies")}


def training_command(config: str, recipe: Recipe, framework: Framework) -> str:
    """The command that trains a recipe: a file, and a flag for each value in which the recipe differs from it."""
    from core.config.recipes import load_recipe, to_dict

    flags: list[str] = []
    base = to_dict(load_recipe(config))
    for table, values in to_dict(recipe).items():
        for key, value in values.items():
            if value != base.get(table, {}).get(key) and (table, key) != ("data", "cache"):
                words = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
                flags += [f"--{table}.{key.replace('_', '-')}", *map(str, words)]
    return shlex.join(["python", "-m", PACKAGES[framework], "train", "--config", config, *flags])


def network_facts(folder: Path) -> dict[str, Any]:
    """Number of parameters, sum of the weights, and the sampler."""
    from core.checkpoints.trained import open_trained
    from core.diffusion.process import make_process
    from core.diffusion.samplers import make_table
    from core.files import file_hash
    from core.networks.specs import count_parameters

    trained = open_trained(folder)
    table = make_table(make_process(trained.process), trained.sampling)
    return {
        "parameters": count_parameters(trained.model),
        "weights_sha256": file_hash(*trained.files),
        "sampler": trained.sampling.sampler,
        "spacing": trained.sampling.spacing,
        "network_evaluations": table.network_evaluations,
    }


if __name__ == "__main__":
    sys.exit(main(PretrainedStudy, "python -m eval.studies.pretrained"))
