"""The use of a trained network: drawing images, editing them, and measuring their likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import Trained, open_trained
from core.config import ModelConfig, SamplingConfig
from core.diffusion.process import Process, make_process
from core.diffusion.samplers import make_table, with_options
from core.diffusion.table import After, SamplingTable
from core.inference.conditioning import Condition, asked_condition, no_condition
from core.inference.edits import Edits
from core.inference.images_beside import beside_of
from core.inference.likelihood import BoundOptions, FlowOptions, Progress, bound, flow_bits
from core.inference.sampling import Conditioned, Executor, KeyedNoise, Network, Part, run_table
from core.inference.space import check_sampling, require_images, space_of

SAMPLING_OPTIONS = frozenset(field.name for field in dataclasses.fields(SamplingConfig))


@dataclass(frozen=True)
class Generator:
    """Draws images from a trained network; `torch_impl.load` and `tf_impl.load` make one.

    Image i of a seed is the same image in both frameworks, for every batch size and range of images.
    """

    twin_network: Network
    """The twin's network, which core binds to a condition."""
    trained: Trained
    """The network's configuration, weights, recipe and data record."""

    @property
    def network(self) -> Any:
        """The framework's own network, in evaluation mode: a torch.nn.Module, or a Keras layer."""
        return self.twin_network.module

    @property
    def model(self) -> ModelConfig:
        """The network's configuration."""
        return self.trained.model

    @cached_property
    def process(self) -> Process:
        """The forward process: its tables over the timesteps."""
        return make_process(self.trained.process)

    @property
    def edit(self) -> Edits:
        """Edits of given images: img2img, inpaint, interpolate, reconstruct, upscale."""
        require_images(self.trained.chart, "edit")
        return Edits(self.twin_network, self.trained, self.process)

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        class_name: str | None = None,
        beside: np.ndarray | None = None,
        guide: Generator | None = None,
        after: After | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Draw n images.

        Args:
            n: number of images.
            seed: seed of the noise, and of parameters that are not given.
            first: index of the first image; images 40 to 49 of a seed are the same drawn alone or among 64.
            class_name: class of all images, by name or number; None takes the classes in turn.
            beside: images (N, h, w, C') that the network is conditioned on, taken in turn, for a network trained with
                data.beside or data.low_resolution.
            guide: a weaker network that guidance moves away from; None takes the network's unconditional prediction.
            after: called after each evaluation as after(row, x, x_0) with arrays (B, H, W, C); it returns the next x.
            options: options of SamplingConfig by name, such as sampler, nfe, steps, guidance or eta; the default is the
                recipe's. Also parameters that the network is conditioned on, such as theta_e=1.2.
        Returns:
            (n, H, W, C) in [0, 1], of the network's dtype; of a network of matrices, (n, m, m) in float64.
        Raises:
            ValueError: an unknown option, or a class or parameter that the network is not conditioned on.
            RunError: the weights have diverged.
        """
        given = {name: value for name, value in options.items() if name in SAMPLING_OPTIONS}
        numbers = {name: value for name, value in options.items() if name not in SAMPLING_OPTIONS}
        known = (self.trained.data.get("condition") or {"names": []})["names"]
        for name in numbers:
            if name not in known:
                taken = ", ".join([*known, *sorted(SAMPLING_OPTIONS)])
                raise ValueError(f"{name}: neither an option of sampling nor a condition; must be one of {taken}")
        samples = range(first, first + n)
        condition = self.condition(samples, seed, class_name, numbers, beside)
        sampling = with_options(self.trained.sampling, given)
        return self.draw(samples, seed, condition, sampling, guide, after)

    def condition(
        self,
        samples: Sequence[int],
        seed: int,
        class_name: str | None = None,
        numbers: dict[str, float] | None = None,
        beside: np.ndarray | None = None,
    ) -> Condition:
        """The condition of images to draw; see core.inference.conditioning.asked_condition().

        Args:
            samples, seed, class_name, numbers: as there.
            beside: (N, h, w, C'); image i is conditioned on image i of these, and begins again after the last.
        Raises:
            ValueError: images beside are missing, or given to a network that is conditioned on none.
        """
        trained = self.trained
        found = asked_condition(trained.classes, trained.data, samples, seed, trained.dtype, class_name, numbers)
        if beside is None:
            if trained.model.condition_channels:
                raise ValueError("beside: missing, and the network is conditioned on an image beside each")
            return found
        return {**found, "image": beside_of(trained, beside)[np.arange(len(samples)) % len(beside)]}

    def draw(
        self,
        samples: Sequence[int],
        seed: int,
        condition: Condition,
        sampling: SamplingConfig | None = None,
        guide: Generator | None = None,
        after: After | None = None,
        start: Callable[[KeyedNoise, Part], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Draw images under a given condition.

        Args:
            samples: indices of the images.
            seed: seed of the noise.
            condition: arrays of len(samples) rows, by the network's keyword.
            sampling: sampler, its options and batch size; None takes the recipe's.
            guide, after: as in sample().
            start: makes the first state of a batch from the keyed noise and the batch's positions; None takes x_T.
        Returns:
            (len(samples), H, W, C) in [0, 1], clipped; of a network of matrices, (len(samples), m, m) in float64.
        """
        trained = self.trained
        sampling = sampling or trained.sampling
        check_sampling(trained.chart, sampling)
        table = make_table(self.process, sampling)
        noise = KeyedNoise(seed, samples, trained.image_shape, trained.dtype, sampling.noise == "device")
        images = run_table(
            table,
            Conditioned(self.twin_network, condition),
            noise,
            sampling.batch_size,
            weak=self.weak(table, condition, guide),
            start=None if start is None else lambda part: start(noise, part),
            after=None if after is None else lambda part: after,
        )
        return space_of(trained.chart).decode(images, trained.process.stretch, trained.chart)

    def weak(self, table: SamplingTable, condition: Condition, guide: Generator | None) -> Conditioned | None:
        """The weaker network for guidance: the network without its condition, or the guide with the same condition.

        Raises:
            ValueError: a guide without guided rows or of other images, or a network that was always conditioned.
        """
        if table.network_evaluations == table.nfe:
            if guide is not None:
                raise ValueError("guide: no noise level is guided; give a guidance scale, such as 2")
            return None
        if guide is None:
            if not self.trained.drops:
                raise ValueError(
                    "guidance: must be 1, since the network was trained with training.condition_dropout = 0 and has no "
                    "unconditional prediction; or give a weaker network (guide, --guide)"
                )
            return Conditioned(self.twin_network, no_condition(condition, self.trained.classes))
        own, other = self.trained, guide.trained
        if other.process != own.process:
            raise ValueError("guide: must be trained with the same process")
        same = ("sample_size", "in_channels", "num_class_embeds", "vector_channels")
        alike = other.classes == own.classes and other.data.get("condition") == own.data.get("condition")
        if not alike or any(getattr(other.model, name) != getattr(own.model, name) for name in same):
            raise ValueError("guide: must take the same images and conditions")
        return Conditioned(guide.twin_network, condition)

    def likelihood(
        self,
        images: np.ndarray,
        method: Literal["vlb", "ode"] = "vlb",
        *,
        condition: Condition | None = None,
        batch_size: int = 64,
        progress: Progress = lambda count: None,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Bits per dimension of images; fewer is better.

        Args:
            images: (N, H, W, C) in [0, 1].
            method: vlb, the variational bound of DDPM; or ode, the density of the probability-flow ODE.
            condition: arrays of N rows by the network's keyword, for a conditional network.
            batch_size: number of images evaluated at a time; the results do not depend on it.
            progress: called with the number of evaluations done.
            options: options of core.inference.likelihood.BoundOptions or FlowOptions, by name.
        Returns:
            `total` (N,), in bits per dimension; for vlb also `prior`, `decoder` (N,) and `divergences` (N, levels).
        """
        require_images(self.trained.chart, "likelihood")
        if condition is None and self.model.conditional:
            raise ValueError("condition: missing, and the network is conditional")
        if self.trained.process.stretch:
            raise ValueError(
                f"process.stretch = {self.trained.process.stretch}: must be 0, since the likelihood is that of 256 "
                "even grey levels; use a network trained without a stretch"
            )
        given = Conditioned(self.twin_network, condition or {})
        if method == "vlb":
            learned = self.model.out_channels == 2 * images.shape[-1]
            how = BoundOptions(**{"variance": "learned" if learned else "fixed_small", **options})
            return bound(given, self.process, images, how, batch_size, self.trained.dtype, progress)
        flow = FlowOptions(**options)
        outputs = self.model.out_channels
        return flow_bits(given, self.process, images, outputs, flow, batch_size, self.trained.dtype, progress)


def open_generator(
    executor: Executor,
    path: str | Path,
    weights: Literal["ema", "raw"] = "ema",
    changed_weights: bool = False,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Generator:
    """Open the network of a run, a checkpoint or a diffusers pipeline folder as a generator.

    Args:
        executor: evaluates the network: a twin, or ONNX Runtime.
        path: the folder.
        weights, changed_weights: as in open_trained().
        precision: fp32 takes the network's own dtype; bf16 takes bfloat16 for its convolutions and products.
    Raises:
        ValueError: the network cannot be opened, an unknown precision, or bf16 for a float64 network.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision {precision}: must be fp32 or bf16")
    trained = open_trained(resolve_checkpoint(path), weights, changed_weights)
    if precision == "bf16" and trained.dtype != "float32":
        raise ValueError(f"precision bf16: must be fp32, since the network is of {trained.dtype}")
    dtype = trained.dtype if precision == "fp32" else precision
    return Generator(executor.make_network(trained.model, trained.weights, dtype), trained)
