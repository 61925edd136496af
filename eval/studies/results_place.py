"""The options of the study of results, and of each network its folder, its files and the commands that make them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.config import Recipe
from core.config.recipes import load_recipe
from eval.twins.client import run_verb
from eval.twins.drawn import weights_hash
from eval.twins.features import FeatureName
from eval.twins.interpreters import PACKAGES, Framework

SetName = Literal["lens-64-5", "lens-64-30", "lens-64-120", "fashion-mnist"]


@dataclass(frozen=True)
class Way:
    """How a set is trained on, measured and shown."""

    recipe: str
    """Name of the recipe in configs/."""
    extractor: FeatureName
    eight_bit: bool
    """Round both sides to 256 grey levels: the real images are stored so."""
    colours: str
    """Of the picture: a map of matplotlib's."""
    minutes: int = 0
    """Reference minutes within which each framework trains; 0 for no such limit."""
    steps: int = 0
    """Number of optimiser steps; 0 takes the recipe's."""


# Clothes are nothing that the lens extractor has seen.
WAYS: dict[SetName, Way] = {
    "lens-64-5": Way("lens-64-fast", "lens", False, "inferno", 5),
    "lens-64-30": Way("lens-64-fast", "lens", False, "inferno", 30, 5_400),
    "lens-64-120": Way("lens-64-fast", "lens", False, "inferno", 120, 21_600),
    "fashion-mnist": Way("results-fashion-mnist", "pixels", True, "gray"),
}


@dataclass(frozen=True, kw_only=True)
class ResultsOptions:
    """What the study measures, and where."""

    out: Path = Path("runs/results")
    """Folder of runs, images and result files."""
    page: Path | None = None
    """File of the page, with its pictures beside it; OUT/results.md where not given."""
    sets: tuple[SetName, ...] = tuple(WAYS)
    """Sets of images."""
    n: int = 2000
    """Images to draw from every network, and real ones that they are measured against."""

    def __post_init__(self) -> None:
        if self.n < 20:
            raise ValueError(f"--n {self.n}: must be at least 20")


@dataclass(frozen=True)
class Place:
    """One network of the study: a set in a framework."""

    study: ResultsOptions
    name: SetName
    framework: Framework
    root: Path

    @property
    def way(self) -> Way:
        """How the set is measured."""
        return WAYS[self.name]

    @property
    def config(self) -> Path:
        """The recipe's file."""
        return self.root / "configs" / f"{self.way.recipe}.toml"

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the set's number of steps."""
        recipe = load_recipe(self.config)
        steps = self.way.steps or recipe.training.steps
        return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, steps=steps))

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.study.out / self.name / self.framework

    @property
    def samples(self) -> Path:
        """What is drawn from it."""
        return self.run / "samples-fid"

    @property
    def result(self) -> Path:
        """What `eval fid` finds."""
        return self.study.out / self.name / f"fid-{self.framework}.json"

    @property
    def speeds(self) -> Path:
        """The machine's speed before and after the training."""
        return self.study.out / self.name / f"speed-{self.framework}.json"

    def weights(self) -> str:
        """SHA-256 of the trained weights."""
        return weights_hash(self.run)

    def verb(self, *words: str | Path) -> None:
        """Run a verb of the twin."""
        run_verb(self.framework, [str(w) for w in words], root=self.root)

    def training(self) -> list[str | Path]:
        """The words of its training."""
        steps = ["--training.steps", str(self.way.steps)] if self.way.steps else []
        return ["train", "--config", self.config, "--run", self.run, *steps]

    def drawing(self) -> list[str | Path]:
        """The words of its drawing."""
        return ["sample", self.run, "--n", str(self.study.n), "--seed", "0", "--out", self.samples]

    def commands(self) -> list[str]:
        """What was run, as a reader would type it in the checkout."""
        twin, way, n = f"python -m {PACKAGES[self.framework]}", self.way, str(self.study.n)
        fid: list[str | Path] = ["python -m eval fid", self.run, self.samples, "--extractor", way.extractor, "--n", n]
        fid += [*(["--eight-bit"] if way.eight_bit else []), "--framework", self.framework, "--out", self.result]
        return [self._line(words) for words in ([twin, *self.training()], [twin, *self.drawing()], fid)]

    def brief(self, path: Path) -> Path:
        """A path as seen from the checkout."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def _line(self, words: Sequence[str | Path]) -> str:
        return " ".join(shlex.quote(str(self.brief(w))) if isinstance(w, Path) else w for w in words)
