"""The verb `benchmark`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from core.command_line import output_folder
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Benchmark(Interpreters):
    """Time training and sampling in both frameworks, in turn: a table, benchmark.json and report.html.

    Timings on a shared machine are noisy. Only the ratios, taken within each repetition, count.

    Examples:
      python -m eval benchmark
      python -m eval benchmark --config configs/cifar10.toml --batch-size 8 --sampling-steps 10 --samples 8 --peer
      diffusers
    """

    config: str = "configs/demo.toml"
    """Recipe whose network, batch size and sampler are timed. Its data are not read."""
    repetitions: int = 5
    """Interleaved repetitions."""
    steps: int = 10
    """Optimiser steps a repetition."""
    samples: int = 64
    """Images drawn a repetition."""
    batch_size: int = 0
    """Images an optimiser step; 0 for the recipe's."""
    sampling_steps: int = 0
    """Steps of the sampler; 0 for the recipe's."""
    threads: int = 2
    """CPU threads of each framework."""
    peer: Literal["none", "diffusers"] = "none"
    """A third contestant in training, which the PyTorch environment must have installed."""
    out: str = "runs/benchmark"
    """Folder for benchmark.json and report.html."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def execute(self) -> str:
        """Time, and write both files."""
        from core.config.recipes import load_recipe
        from eval.measure.speed import measure
        from eval.pages.benchmark_page import benchmark_text, write_benchmark_page
        from eval.pages.page import write_result

        folder, recipe = output_folder(self.out), load_recipe(self.config)
        training = replace(recipe.training, batch_size=self.batch_size or recipe.training.batch_size)
        sampling = replace(recipe.sampling, steps=self.sampling_steps or recipe.sampling.steps)
        recipe = replace(recipe, training=training, sampling=sampling)
        numbers = {name: getattr(self, name) for name in ("repetitions", "steps", "samples", "threads")}
        result = measure(recipe, **numbers, peer=self.peer)
        sizes = {"batch-size": training.batch_size, "sampling-steps": sampling.steps, "peer": self.peer}
        flags = {"config": self.config, **numbers, **sizes}
        result["command"] = " ".join(["python -m eval benchmark", *(f"--{key} {flags[key]}" for key in flags)])
        text = write_result(folder / "benchmark.json", result)
        write_benchmark_page(folder / "report.html", result)
        return text if self.json else f"{benchmark_text(result)}\n\nreport: {folder / 'report.html'}"
