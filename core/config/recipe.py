"""A recipe: its tables together, and what must fit between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from core.config.architectures import ARCHITECTURES
from core.config.data import DEGRADED, DataConfig
from core.config.distillation import DistillationConfig
from core.config.evaluation import EvaluationConfig
from core.config.model import ModelConfig
from core.config.process import ProcessConfig
from core.config.require import requirements
from core.config.sampling import SamplingConfig
from core.config.training import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        need, model, training = requirements(self), self.model, self.training
        learned = self.process.variance == "learned"
        beside = f" - condition_channels {model.condition_channels}" if model.condition_channels else ""
        if model.out_channels != model.image_channels * (1 + learned):
            raise ValueError(
                f"model.out_channels = {model.out_channels}: must equal {'twice ' if learned else ''}in_channels "
                f"{model.in_channels}{beside}{', the second half being the variance' if learned else ''}"
            )
        self.process.check_variance(self.sampling.variance)
        most = self.process.timesteps
        need(self.sampling.steps <= most, "sampling.steps", f"at most process.timesteps {most}")
        if training.gradient_checkpointing:
            key, name = "training.gradient_checkpointing", model.architecture
            need(ARCHITECTURES[name].gradient_checkpointing, key, f"false where model.architecture is {name}")
            drawn = f"false where model.dropout = {model.dropout}, whose masks would be drawn anew"
            need(model.dropout == 0, key, drawn)
        if self.data.augment and self.data.source.startswith("simulate:"):
            raise ValueError(
                f"data.augment = true with {self.data.source}: its shear has a fixed direction, which rotations "
                "change; use false"
            )
        self._check_condition()
        self._check_space()
        if self.distillation.teacher:
            self._check_distillation()

    def _check_space(self) -> None:
        """Matrices are coordinates without bounds, neighbours or symmetries."""
        need, spd = requirements(self), self.data.space == "spd"
        kind = "chart where data.space is spd" if spd else "unet or baseline where data.space is image"
        need((self.model.architecture == "chart") == spd, "model.architecture", kind)
        if not spd:
            return
        root = math.isqrt(8 * self.model.in_channels + 1)
        triangular = "m (m + 1) / 2 where data.space is spd, such as 3, 6, 10 or 36"
        need(root**2 == 8 * self.model.in_channels + 1, "model.in_channels", triangular)
        where = "where data.space is spd"
        need(not self.sampling.clip, "sampling.clip", f"false {where}, since coordinates have no bounds")
        need(not self.data.augment, "data.augment", f"false {where}")
        need(self.data.low_resolution == 0, "data.low_resolution", f"0 {where}")
        need(not self.data.beside, "data.beside", f"empty {where}")
        need(self.data.fit == "exact", "data.fit", f"exact {where}")
        need(self.data.normalise == "none", "data.normalise", f"none {where}")
        need(not self.data.skip_broken, "data.skip_broken", f"false {where}: matrices are counted, never dropped")
        need(self.process.stretch == 0, "process.stretch", f"0 {where}")
        need(self.evaluation.every == 0, "evaluation.every", f"0 {where}; `python -m eval spd` measures matrices")
        need(not self.distillation.teacher, "distillation.teacher", f"empty {where}")

    def _check_distillation(self) -> None:
        """The student's steps must be those of DDIM on levels of the teacher's grid."""
        need, sampling, teacher_nfe = requirements(self), self.sampling, self.distillation.teacher_nfe
        need(sampling.sampler == "ddim" and sampling.eta == 0, "sampling.sampler", "ddim with eta 0, to be distilled")
        need(sampling.spacing == "trailing", "sampling.spacing", "trailing, to be distilled")
        need(sampling.nfe == 0, "sampling.nfe", "0 in a distillation, whose sampling.steps counts")
        multiple = f"a multiple of sampling.steps {sampling.steps}, and at least twice as many"
        need(teacher_nfe % sampling.steps == 0 and teacher_nfe > sampling.steps, "distillation.teacher_nfe", multiple)
        most = f"at most process.timesteps {self.process.timesteps}"
        need(teacher_nfe <= self.process.timesteps, "distillation.teacher_nfe", most)
        need(self.process.variance == "fixed", "process.variance", "fixed, to be distilled")
        uniform = "uniform in a distillation, over the timesteps of sampling.steps"
        need(self.training.timestep_sampling == "uniform", "training.timestep_sampling", uniform)

    def _check_condition(self) -> None:
        need, model, data = requirements(self), self.model, self.data
        drops = self.training.condition_dropout > 0
        numbers = f"as many names as model.vector_channels = {model.vector_channels}"
        need(len(data.condition) == model.vector_channels, "data.condition", numbers)
        if data.low_resolution:
            channels = f"the image's {model.image_channels} with data.low_resolution"
            need(model.condition_channels == model.image_channels, "model.condition_channels", channels)
            divides = not any(side % data.low_resolution for side in model.sample_size)
            need(divides, "data.low_resolution", f"a divisor of model.sample_size {model.sample_size}")
        if data.beside:
            own = data.beside == DEGRADED
            channels = f"the image's {model.image_channels}" if own else "the number of channels of the images"
            fits = model.condition_channels == model.image_channels if own else model.condition_channels > 0
            need(fits, "model.condition_channels", f"{channels} with data.beside = {data.beside!r}")
            parts = zip(model.sample_size, data.beside_size, strict=True)
            whole = f"made of divisors of model.sample_size {model.sample_size} with data.beside = {DEGRADED!r}"
            need(not (own and any(side % small for side, small in parts)), "data.beside_size", whole)
        turned = "false with data.condition, whose values rotations change"
        need(not (data.condition and data.augment), "data.augment", turned)
        conditional = bool(model.num_class_embeds or data.condition)
        nothing = "0 where there are neither classes nor data.condition"
        need(conditional or not drops, "training.condition_dropout", nothing)
        untrained = "1 without training.condition_dropout, since no unconditional output was trained"
        need(drops or self.sampling.guidance == 1, "sampling.guidance", untrained)
        need(drops or self.distillation.guidance == 1, "distillation.guidance", untrained)
        two = "at least 2 with training.condition_dropout, one of them for no class"
        need(self.classes != 0, "model.num_class_embeds", two)

    @property
    def classes(self) -> int | None:
        """Classes that an image can have: not the one that stands for none."""
        embedded = self.model.num_class_embeds
        return None if embedded is None else embedded - (self.training.condition_dropout > 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return (*self.model.sample_size, self.model.image_channels)

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """(h, w, C') of the images that the network is conditioned on, before they are enlarged; None for none."""
        data, channels = self.data, self.model.condition_channels
        if data.low_resolution:
            height, width = (side // data.low_resolution for side in self.model.sample_size)
            return height, width, channels
        return (*data.beside_size, channels) if data.beside else None
