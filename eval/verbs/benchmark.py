"""The verb `benchmark`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from core.command_line import output_folder
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Benchmark(Interpreters):
    """Time start, training and sampling of both frameworks and of peers: a table, benchmark.json, ratios.svg and
    report.html.

    Timings on a shared machine are noisy. Only the ratios, taken within each repetition, count. The row "PyTorch again"
    shows the noise, and "PyTorch's products alone" the practical limit. See docs/performance.md.

    Examples:
      python -m eval benchmark
      python -m eval benchmark --peer diffusers --peer denoising-diffusion-pytorch
      python -m eval benchmark --config configs/cifar10.toml --batch-size 8 --steps 3 --sampling-steps 10 --samples 8
    """

    REPEATED: ClassVar[bool] = True

    config: str = "configs/demo.toml"
    """Recipe whose network, batch size and sampler are timed. Its data are not read."""
    repetitions: int = 7
    """Number of interleaved repetitions. More of them narrow the quartiles on a busy machine."""
    steps: int = 10
    """Number of optimiser steps in a repetition."""
    samples: int = 64
    """Number of images drawn at once in the large batch. The small batch is one image."""
    batch_size: int = 0
    """Number of images in an optimiser step. 0 takes the recipe's."""
    sampling_steps: int = 0
    """Number of the sampler's steps. 0 takes the recipe's."""
    starts: int = 1
    """Number of times that each program is started and timed to the end of its first optimiser step."""
    threads: int = 2
    """Number of CPU threads of each program."""
    peer: tuple[Literal["diffusers", "denoising-diffusion-pytorch"], ...] = ()
    """Another software to time, which the PyTorch environment must have installed. May be given several times."""
    out: str = "runs/benchmark"
    """Folder for benchmark.json, ratios.svg and report.html."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def execute(self) -> str:
        """Time, and write the three files."""
        from core.config.recipes import load_recipe
        from core.files import write_text_atomic
        from eval.measure.speed import measure
        from eval.pages.benchmark_page import benchmark_text, ratio_picture, write_benchmark_page
        from eval.pages.page import write_result

        folder, recipe = output_folder(self.out), load_recipe(self.config)
        training = replace(recipe.training, batch_size=self.batch_size or recipe.training.batch_size)
        sampling = replace(recipe.sampling, steps=self.sampling_steps or recipe.sampling.steps)
        recipe = replace(recipe, training=training, sampling=sampling)
        numbers = {name: getattr(self, name) for name in ("repetitions", "steps", "samples", "starts", "threads")}
        result = measure(recipe, **numbers, peers=self.peer)
        sizes = {"batch-size": training.batch_size, "sampling-steps": sampling.steps}
        flags = {"config": self.config, **numbers, **sizes}
        words = [f"--{key} {value}" for key, value in flags.items()] + [f"--peer {peer}" for peer in self.peer]
        result["command"] = " ".join(["python -m eval benchmark", *words])
        text = write_result(folder / "benchmark.json", result)
        write_text_atomic(folder / "ratios.svg", ratio_picture(result))
        write_benchmark_page(folder / "report.html", result)
        return text if self.json else f"{benchmark_text(result)}\n\nwrote {folder / 'report.html'}"
