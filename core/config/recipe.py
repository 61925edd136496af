"""A recipe: its tables together, and what must fit between them. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.config.architectures import ARCHITECTURES
from core.config.data import DataConfig
from core.config.evaluation import EvaluationConfig
from core.config.model import ModelConfig
from core.config.process import ProcessConfig
from core.config.require import require
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

    def __post_init__(self) -> None:
        learned = self.process.variance == "learned"
        if self.model.out_channels != self.model.image_channels * (1 + learned):
            beside = f" - condition_channels {self.model.condition_channels}" if self.model.condition_channels else ""
            twice = "twice " if learned else ""
            raise ValueError(
                f"model.out_channels = {self.model.out_channels}: must equal {twice}in_channels {self.model.in_channels}{beside}"
                + (", the second half being the variance" if learned else "")
            )
        self.process.check_variance(self.sampling.variance)
        require(self.sampling.steps <= self.process.timesteps, "sampling.steps", self.sampling.steps, f"at most process.timesteps {self.process.timesteps}")  # fmt: skip
        if self.training.gradient_checkpointing:
            able, name = ARCHITECTURES[self.model.architecture].gradient_checkpointing, self.model.architecture
            require(able, "training.gradient_checkpointing", True, f"false where model.architecture is {name}")
            require(self.model.dropout == 0, "training.gradient_checkpointing", True, f"false where model.dropout = {self.model.dropout}, whose masks would be drawn anew")  # fmt: skip
        if self.data.augment and self.data.source.startswith("simulate:"):
            raise ValueError(
                f"data.augment = true with {self.data.source}: its shear has a fixed direction, which rotations change; use false"
            )
        self._check_condition()

    def _check_condition(self) -> None:
        names, drops = self.data.condition, self.training.condition_dropout > 0
        require(len(names) == self.model.vector_channels, "data.condition", names, f"as many names as model.vector_channels = {self.model.vector_channels}")  # fmt: skip
        factor, beside = self.data.low_resolution, self.model.condition_channels
        require(not factor or beside == self.model.image_channels, "model.condition_channels", beside, f"the image's {self.model.image_channels} with data.low_resolution")  # fmt: skip
        require(not factor or not any(side % factor for side in self.model.sample_size), "data.low_resolution", factor, f"a divisor of model.sample_size {self.model.sample_size}")  # fmt: skip
        require(not (names and self.data.augment), "data.augment", self.data.augment, "false with data.condition, whose values rotations change")  # fmt: skip
        conditional = bool(self.model.num_class_embeds or names)
        require(conditional or not drops, "training.condition_dropout", self.training.condition_dropout, "0 where there are neither classes nor data.condition")  # fmt: skip
        require(drops or self.sampling.guidance == 1, "sampling.guidance", self.sampling.guidance, "1 without training.condition_dropout, since nothing was trained to be weak")  # fmt: skip
        require(self.classes != 0, "model.num_class_embeds", self.model.num_class_embeds, "at least 2 with training.condition_dropout, one of them for no class")  # fmt: skip

    @property
    def classes(self) -> int | None:
        """Classes that an image can have: not the one that stands for none."""
        embedded = self.model.num_class_embeds
        return None if embedded is None else embedded - (self.training.condition_dropout > 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return (*self.model.sample_size, self.model.image_channels)
