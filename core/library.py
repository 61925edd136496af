"""The Python library of a twin: what `import torch_impl` and `import tf_impl` give, written once for both.

What a function needs is imported when it is called, so that importing a twin takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.twin import Device, Twin

if TYPE_CHECKING:
    from core.config import Recipe
    from core.inference.generator import Generator
    from core.training.loop import TrainingRun


@dataclass(frozen=True)
class Library:
    """The functions of a twin's package."""

    twin: Twin

    def load(
        self,
        path: str | Path,
        weights: Literal["ema", "raw"] = "ema",
        changed_weights: bool = False,
        device: Device = "auto",
        runtime: Literal["framework", "onnx"] = "framework",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> Generator:
        """Open a trained network, to draw and edit images and to measure their likelihood.

        Args:
            path: a run, a checkpoint, a diffusers pipeline folder, or pretrained:NAME.
            weights: ema, the weights averaged over training; or raw, those of the last step.
            changed_weights: whether to accept weights that were changed after the checkpoint was saved.
            device: cuda, mps, cpu, or auto, which is cuda where there is one and otherwise cpu.
            runtime: framework; or onnx, which evaluates the network with ONNX Runtime on the CPU.
            precision: fp32, the network's own; or bf16 for its convolutions and products.
        Returns:
            A generator of images; see core.inference.generator.Generator.
        Raises:
            ValueError: there is no such folder, its weights were changed, its network is not supported, the device or
                ONNX Runtime is not there, or the network has no such precision.
        """
        from core.inference.generator import open_generator
        from core.inference.onnx_runtime import pick_executor

        return open_generator(pick_executor(self.twin, runtime, device), path, weights, changed_weights, precision)

    def load_recipe(self, path: str | Path) -> Recipe:
        """Read a recipe from a .toml file or a run's recipe.json."""
        from core.config.recipes import load_recipe

        return load_recipe(path)

    def load_unet(self, folder: str | Path, dtype: str = "float32") -> Any:
        """Open a network alone, as a torch.nn.Module or a Keras layer; see load_unet in the twin's weights.py."""
        return self.twin.module("weights").load_unet(folder, dtype)

    def training(self, recipe: Recipe, device: Device = "auto") -> TrainingRun:
        """Start a training in memory: `for step, metrics in training(recipe): ...`. Nothing is written to disk.

        Args:
            recipe: the recipe to train.
            device: as in load().
        Returns:
            The training. Iterating over it trains; its generator() draws from the averaged weights as they are now.
        """
        from core.training.loop import start_training

        return start_training(self.twin.on(device), recipe)

    def train(self, recipe: Recipe, run: str | Path, resume: bool = False, device: Device = "auto") -> bool:
        """Train in a run's folder, with checkpoints, as the verb `train` does, also in several processes.

        Args:
            recipe: the recipe to train.
            run: folder of the run; a new folder unless `resume`.
            resume: whether to continue from the run's last whole checkpoint.
            device: as in load().
        Returns:
            Whether the last step was reached; False after a signal such as Ctrl-C, with everything saved.
        """
        from core.training.run import train_in

        twin = self.twin.on(device)
        twin.prepare(recipe.training.threads)
        return train_in(twin, recipe, Path(run), resume, ranks=twin.join()) == 0
