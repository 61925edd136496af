"""Recipes: what a run is, as frozen dataclasses, one a table.

Each dataclass validates itself where it is made. Flags of the command line come from these fields; core.config.recipes reads and
writes them as files. This package imports no framework.
"""

from core.config.architectures import ARCHITECTURES, DOWN_BLOCKS, UP_BLOCKS, Architecture
from core.config.data import DataConfig, Fit, Normalise
from core.config.evaluation import EvaluationConfig, ExtractorName, Resize
from core.config.model import ModelConfig
from core.config.process import Loss, LossWeight, Prediction, ProcessConfig, Schedule
from core.config.recipe import Recipe
from core.config.require import require
from core.config.sampling import Sampler, SamplingConfig, Spacing, Variance
from core.config.training import WIDEST_PROFILE, TimestepSampling, TrainingConfig

__all__ = [
    "ARCHITECTURES",
    "DOWN_BLOCKS",
    "UP_BLOCKS",
    "WIDEST_PROFILE",
    "Architecture",
    "DataConfig",
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
