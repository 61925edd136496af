"""The worker's tasks that need no tensors: training, sampling, tables, likelihood and features.

A task takes arrays by name and options; it returns arrays by name and `info`. core.worker.timing has the tasks that
measure time and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.trained import of_recipe
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.config.recipes import from_dict
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import Row, SamplingTable
from core.extractors.features import EXTRACTORS, Extractor, extract
from core.inference.generator import Generator
from core.inference.likelihood import BoundOptions, FlowOptions, bound, flow_bits
from core.inference.sampling import Conditioned, KeyedNoise, Network, Part
from core.random import gaussian
from core.reading import read_tensors
from core.spd.chart import Chart
from core.training.levels import LevelSampler
from core.training.training import Trainer, Training
from core.worker.protocol import Arrays, Task, with_prefix


def as_dataset(arrays: Arrays) -> Dataset:
    """A data set without held-out images.

    Args:
        arrays: `images` (N, H, W, C) in [0, 1]; optionally `labels` (N,), `parameters/NAME` (N,) and the images
            `beside` (N, h, w, C').
    """
    images, labels, parameters = arrays["images"], arrays.get("labels"), with_prefix(arrays, "parameters/")
    return Dataset(images, labels, (), parameters, np.arange(len(images)), np.arange(0), {}, arrays.get("beside"))


class TrainingTask:
    """`train`: optimiser steps `first` to `first + steps` of options.recipe, from a given state or from the seed.

    Arrays in: those of as_dataset(). A given state adds `ema/NAME`, `params/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`,
    and with importance sampling `timesteps/NAME`. Arrays out: the state, and `loss` and `grad_norm` (steps,).
    options.counters and info.counters: the number of Adam's steps and of skipped steps.
    options.watch = k adds to the output `watched` (K, parameters), all weights as one vector after every k-th step, and
    `watched_steps` (K,).
    The trainer is kept while the recipe stays the same, since compiling takes longer than some steps. A call with
    `first` above 0 and no state continues from the last call, without loading a state.
    """

    def __init__(
        self,
        make_trainer: Callable[[Recipe], Trainer],
        make_training: Callable[[Recipe, Dataset], Training] = Training,
    ) -> None:
        self.make_trainer, self.make_training = make_trainer, make_training
        self.recipe: Recipe | None = None
        self.next_step = 0
        self.levels: LevelSampler

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Train; info: counters."""
        recipe, first = from_dict(Recipe, options["recipe"]), options.get("first", 0)
        training, fresh = self.make_training(recipe, as_dataset(arrays)), recipe != self.recipe
        if fresh:
            self.trainer = self.make_trainer(recipe)
            training.begin(self.trainer)
            self.recipe, self.start, self.next_step = recipe, self.trainer.state(), 0
        if given := with_prefix(arrays, "ema/"):
            self.trainer.load(given, arrays, options["counters"])
            training.levels.load(arrays)
        elif first:
            if first != self.next_step:
                raise ValueError(f"first = {first}: no state is given, and the trainer is at step {self.next_step}")
            training.levels = self.levels
        elif not fresh:
            self.trainer.load(*self.start)
        self.levels = training.levels
        steps = range(first, first + options["steps"])
        self.next_step = steps.stop
        out = self._steps(training, steps, options.get("watch", 0))
        averaged, state, counters = self.trainer.state()
        averages = {f"ema/{name}": value for name, value in averaged.items()}
        return {**out, **averages, **state, **self.levels.state()}, {"counters": counters}

    def _steps(self, training: Training, steps: range, watch: int) -> Arrays:
        """Take the steps; returns losses, gradient norms and watched weights."""
        losses, norms, watched = [], [], {}
        for step in steps:
            metrics = training.advance(self.trainer, step)
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
            if watch and (step + 1) % watch == 0:
                weights = with_prefix(self.trainer.state()[1], "params/")
                watched[step + 1] = np.concatenate([value.ravel() for value in weights.values()])
        out = {"loss": np.array(losses), "grad_norm": np.array(norms)}
        more = {"watched": np.stack([*watched.values()]), "watched_steps": np.array([*watched])} if watched else {}
        return out | more


MakeNetwork = Callable[[ModelConfig, Arrays, str], Network]


class Networks:
    """A twin's network with given weights, kept while its configuration and weights stay the same."""

    def __init__(self, make_network: MakeNetwork) -> None:
        self.make_network = make_network
        self.made: tuple[ModelConfig, str, Arrays] | None = None

    def get(self, config: ModelConfig, weights: Arrays, dtype: str) -> Network:
        """The network with these weights, made anew only where something changed."""
        if not (self.made and self.made[:2] == (config, dtype) and _equal(self.made[2], weights)):
            self.network, self.made = self.make_network(config, weights, dtype), (config, dtype, weights)
        return self.network


class SamplingTask(Networks):
    """`sample`: draw images `first` to `first + n` of a seed.

    options: recipe, whose sampling table is read, seed, first, n. Arrays in: `weights/NAME`, `condition/NAME`, and of a
    network of matrices `chart/NAME`. Arrays out: `images` (n, H, W, C) in [0, 1], or with a chart matrices (n, m, m);
    and `x_T` (n, H, W, C), the noise that the sampler started from.
    """

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Draw; info: nfe, the number of network evaluations of an image."""
        recipe, first = from_dict(Recipe, options["recipe"]), options["first"]
        network = self.get(recipe.model, with_prefix(arrays, "weights/"), recipe.training.dtype)
        tensors = with_prefix(arrays, "chart/")
        chart = Chart(recipe.data.whiten, **tensors) if tensors else None
        generator, starts = Generator(network, of_recipe(recipe, {}, chart)), []

        def noted(noise: KeyedNoise, part: Part) -> np.ndarray:
            starts.append(noise("x_T", part))
            return starts[-1]

        samples, condition = range(first, first + options["n"]), with_prefix(arrays, "condition/")
        images = generator.draw(samples, options["seed"], condition, start=noted)
        nfe = make_table(generator.process, recipe.sampling).nfe
        return {"images": images, "x_T": np.concatenate(starts)}, {"nfe": nfe}


class TableTask(Networks):
    """`run_table`: run R rows of a sampling table whose state is the image alone.

    options: model; clip; seed and first, the index of the first image, for the noise; and first_row, the number of the
    first row in its table, since the noise depends on it too. Arrays in: `weights/NAME`; `x` (n, H, W, C); the rows as
    `t`, `p`, `q`, `s` (R,) and `matrix` (R, 1, 3). Arrays out: `x` after the last row, in [-1, 1] and not clipped.
    """

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Run the rows."""
        x, first_row = arrays["x"], options["first_row"]
        samples = range(options["first"], options["first"] + len(x))
        columns = (*(arrays[name].tolist() for name in ("t", "p", "q")), arrays["matrix"], arrays["s"].tolist())
        table = SamplingTable(tuple(Row(*values) for values in zip(*columns, strict=True)), options["clip"], "rows")

        def noise(row: int) -> np.ndarray:
            return gaussian(options["seed"], "sampler", samples, first_row + row, x.shape[1:], x.dtype)

        network = self.get(from_dict(ModelConfig, options["model"]), with_prefix(arrays, "weights/"), x.dtype.name)
        return {"x": network.bind().run(table, x, noise)}, {}


def _equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def affine_task(make_network: Callable[[np.ndarray, np.ndarray, np.ndarray], Network]) -> Task:
    """`sample_affine`: run a sampler on a network in closed form, output = slope[t] x + offset[t].

    t is the timestep whose time is nearest. options: process, sampling, seed. Arrays in: `slope`, `offset` (T,),
    `x_T` (B, H, W, C). Arrays out: `x_0` (B, H, W, C).
    """

    def task(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        process = make_process(from_dict(ProcessConfig, options["process"]))
        table, x_T = make_table(process, from_dict(SamplingConfig, options["sampling"])), arrays["x_T"]
        samples, shape = range(len(x_T)), x_T.shape[1:]

        def noise(row: int) -> np.ndarray:
            return gaussian(options["seed"], "sampler", samples, row, shape, x_T.dtype)

        network = make_network(arrays["slope"], arrays["offset"], process.time.astype(x_T.dtype))
        return {"x_0": network.bind().run(table, x_T, noise)}, {}

    return task


class LikelihoodTask:
    """`likelihood`: bits per dimension of images under a network.

    options: model, process, dtype, method (vlb or ode), batch_size, and `how`, the method's options. Arrays in:
    `weights/NAME`, `images` (N, H, W, C) in [0, 1], `condition/NAME`. Arrays out: those of bound() or flow_bits().
    """

    def __init__(self, make_network: MakeNetwork) -> None:
        self.make_network = make_network

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Compute the bits per dimension."""
        model, process = from_dict(ModelConfig, options["model"]), from_dict(ProcessConfig, options["process"])
        weights, images = with_prefix(arrays, "weights/"), arrays["images"]
        network = Conditioned(self.make_network(model, weights, options["dtype"]), with_prefix(arrays, "condition/"))
        size, dtype, tables = options["batch_size"], options["dtype"], make_process(process)
        if options["method"] == "vlb":
            how = from_dict(BoundOptions, options["how"])
            return bound(network, tables, images, how, size, dtype), {}
        flow = from_dict(FlowOptions, options["how"])
        return flow_bits(network, tables, images, model.out_channels, flow, size, dtype), {}


class FeaturesTask:
    """`features`: an extractor's features of `images` (N, H, W, C) in [0, 1].

    options: extractor, weights (path of a safetensors file), resize, dtype, taps (a list), batch_size. Arrays out:
    features (N, d) of options.dtype, by tap. The extractor is kept while its own options stay the same.
    """

    def __init__(self, make_extractor: Callable[[str, Arrays, str, str], Extractor]) -> None:
        self.make_extractor = make_extractor
        self.made: tuple[Any, ...] = ()

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Compute the features."""
        key = tuple(options[name] for name in ("extractor", "weights", "resize", "dtype"))
        if key != self.made:
            name, path, resize, dtype = key
            weights = read_tensors(Path(path))
            EXTRACTORS[name].check(weights, path)
            self.extractor, self.made = self.make_extractor(name, weights, resize, dtype), key
        images = arrays["images"]
        return extract(
            self.extractor, lambda start, stop: images[start:stop], len(images), options["batch_size"], options["taps"]
        ), {}
