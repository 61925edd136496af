"""Recipes: what a run is, as frozen dataclasses, one file for each table.

Each dataclass checks its own values where it is made. The command line's flags and their help are its fields;
core.config.recipes reads and writes recipes as files. This room imports core.reading,
no framework and no other room.
"""

from core.config.architectures import ARCHITECTURES, DOWN_BLOCKS, UP_BLOCKS, Architecture
from core.config.data import DEGRADED, DataConfig, Fit, Normalise
from core.config.distillation import DistillationConfig
from core.config.evaluation import EvaluationConfig, ExtractorName, Resize
from core.config.model import ModelConfig
from core.config.process import Loss, LossWeight, Prediction, ProcessConfig, Schedule
from core.config.recipe import Recipe
from core.config.require import require
from core.config.sampling import Sampler, SamplingConfig, Spacing, Variance
from core.config.training import WIDEST_PROFILE, Autocast, TimestepSampling, TrainingConfig

__all__ = [
    "ARCHITECTURES",
    "DEGRADED",
    "DOWN_BLOCKS",
    "UP_BLOCKS",
    "WIDEST_PROFILE",
    "Architecture",
    "Autocast",
    "DataConfig",
    "DistillationConfig",
    "EvaluationConfig",
    "ExtractorName",
    "Fit",
    "Loss",
    "LossWeight",
    "ModelConfig",
    "Normalise",
    "Prediction",
    "ProcessConfig",
    "Recipe",
    "Resize",
    "Sampler",
    "SamplingConfig",
    "Schedule",
    "Spacing",
    "TimestepSampling",
    "TrainingConfig",
    "Variance",
    "require",
]
