"""Our process and sampler in diffusers' words, and back: `scheduler/scheduler_config.json`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from core.checkpoints.diffusers_config import DIFFUSERS_VERSION
from core.config import ProcessConfig, Sampler, SamplingConfig, Schedule
from core.config.recipes import from_dict
from core.diffusion import schedules
from core.reading import check_kinds, shown

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
"""diffusers' names; any other schedule is written as its betas (trained_betas)."""
PREDICTIONS: dict[str, str] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Scheduler:
    """What diffusers has of a sampler."""

    class_name: str
    fixed: dict[str, Any]
    """Options of it that our sampler has in one way only, and that way, which is diffusers' default."""


SCHEDULERS: dict[Sampler, Scheduler] = {
    "ddpm": Scheduler("DDPMScheduler", {}),
    "ddim": Scheduler("DDIMScheduler", {"set_alpha_to_one": True}),
    "dpmsolver++": Scheduler(
        "DPMSolverMultistepScheduler",
        {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "final_sigmas_type": "zero",
            "lambda_min_clipped": -math.inf,
            "use_karras_sigmas": False,
            "use_exponential_sigmas": False,
            "use_beta_sigmas": False,
            "use_lu_lambdas": False,
            "use_flow_sigmas": False,
        },
    ),
}
"""Samplers that diffusers' pipelines have too; any other is written as ddim, and recipe.json names it."""
_OURS = {scheduler.class_name: name for name, scheduler in SCHEDULERS.items()}
# Schedulers of the same forward processes whose methods are not among ours.
_OTHER_SCHEDULERS = (
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)


def scheduler_to_diffusers(process: ProcessConfig, sampling: SamplingConfig) -> dict[str, Any]:
    """The content of `scheduler/scheduler_config.json`: the scheduler that a recipe's sampler is.

    Args:
        process: the forward process.
        sampling: sampler, spacing, variance and clip are read; diffusers takes steps and eta when it is called. A
            sampler or spacing that its pipelines do not know is written as DDIM or trailing.
    """
    stretch = {"stretch": process.stretch} if process.stretch else {}
    if not process.variance_preserving:
        return _not_preserving(process) | stretch
    learned = process.variance == "learned"  # which DDPMScheduler alone knows
    named: Sampler = "ddpm" if learned else sampling.sampler if sampling.sampler in SCHEDULERS else "ddim"
    betas, solver = None, named == "dpmsolver++"
    if process.schedule == "sigmoid" or process.schedule not in SCHEDULES:  # only DDPMScheduler knows sigmoid by name
        betas = schedules.betas(dataclasses.replace(process, zero_terminal_snr=False)).tolist()
    own = {key: value for key, value in SCHEDULERS[named].fixed.items() if value != -math.inf}
    if named == "ddpm":
        own["variance_type"] = "learned_range" if learned else sampling.variance
    return {
        "_class_name": SCHEDULERS[named].class_name,
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": process.timesteps,
        "beta_schedule": SCHEDULES.get(process.schedule, "linear"),  # not read beside trained_betas
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "trained_betas": betas,
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "prediction_type": PREDICTIONS.get(process.prediction, process.prediction),
        "timestep_spacing": sampling.spacing if sampling.spacing in SPACINGS else "trailing",
        "steps_offset": 0,
        # The solver knows no clip_sample; dynamic thresholding at a maximum of 1 is the same clip.
        "thresholding": solver and sampling.clip,
        "sample_max_value": 1.0,
        "clip_sample": sampling.clip,
        "clip_sample_range": 1.0,
        **own,
        **stretch,
    }


def _not_preserving(process: ProcessConfig) -> dict[str, Any]:
    """The same levels in the scheduler that diffusers has for them; no pipeline of a UNet2DModel takes it."""
    own: dict[str, Any]
    if process.schedule == "flow":
        own = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": process.shift}
    else:
        own = {"_class_name": "EDMEulerScheduler", "sigma_schedule": "exponential", "prediction_type": "epsilon"}
        own |= {key: getattr(process, key) for key in ("sigma_min", "sigma_max", "sigma_data")}
    return {**own, "_diffusers_version": DIFFUSERS_VERSION, "num_train_timesteps": process.timesteps}


_KINDS: dict[str, type] = {
    **dict.fromkeys(("_class_name", "_diffusers_version", "beta_schedule", "prediction_type"), str),
    **dict.fromkeys(("timestep_spacing", "variance_type"), str),
    **dict.fromkeys(("num_train_timesteps", "steps_offset"), int),
    **dict.fromkeys(("beta_start", "beta_end", "clip_sample_range", "sample_max_value", "stretch"), float),
    **dict.fromkeys(("rescale_betas_zero_snr", "clip_sample", "thresholding", "set_alpha_to_one"), bool),
}
"""The type of every value that is read here."""


def process_from_diffusers(values: dict[str, Any], where: str = "scheduler_config.json") -> ProcessConfig:
    """The forward process that a diffusers scheduler's configuration describes.

    Raises:
        ValueError: a value of another type, or a class, schedule or prediction type that is not supported, by name.
    """
    check_kinds(where, values, {key: kind for key, kind in _KINDS.items() if values.get(key) is not None})
    class_name = values.get("_class_name", "DDPMScheduler")
    if class_name not in (*_OURS, *_OTHER_SCHEDULERS):
        raise ValueError(
            f"{where}: _class_name = {shown(class_name)} is not supported (only {', '.join(_OURS)} and others of their "
            "processes)"
        )
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    schedule, prediction = values.get("beta_schedule", "linear"), values.get("prediction_type", "epsilon")
    if schedule not in names:
        raise ValueError(f"{where}: beta_schedule = {shown(schedule)} is not supported (only {', '.join(names)})")
    if prediction not in predictions:
        raise ValueError(
            f"{where}: prediction_type = {shown(prediction)} is not supported (only {', '.join(predictions)})"
        )
    fields = {
        "timesteps": values.get("num_train_timesteps", 1000),
        "beta_start": values.get("beta_start", 1e-4),
        "beta_end": values.get("beta_end", 0.02),
        "stretch": values.get("stretch", 0.0),
        "prediction": predictions[prediction],
        "schedule": names[schedule],
    }
    try:
        process = from_dict(ProcessConfig, fields, "process")
        if values.get("trained_betas") is not None:
            process = _with_betas(process, values["trained_betas"])
        return dataclasses.replace(process, zero_terminal_snr=values.get("rescale_betas_zero_snr", False))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _with_betas(process: ProcessConfig, trained: Any) -> ProcessConfig:
    """The process with the schedule whose betas a file holds; they may have been float32."""
    found = np.asarray(trained, np.float64)
    for name in dict.fromkeys((process.schedule, *schedules.BETAS)):
        candidate = dataclasses.replace(process, schedule=cast(Schedule, name))
        if found.shape == (process.timesteps,) and np.allclose(found, schedules.betas(candidate), rtol=1e-5, atol=0):
            return candidate
    raise ValueError(f"trained_betas is not supported, unless they are those of one of {', '.join(schedules.BETAS)}")


def sampling_from_diffusers(
    values: dict[str, Any], where: str = "scheduler_config.json"
) -> tuple[SamplingConfig, list[str]]:
    """How a diffusers scheduler with a given configuration samples.

    Args:
        values: the parsed file.
        where: the file's name, for messages.
    Returns:
        The configuration, of as many steps as diffusers' pipelines take by themselves (all levels for DDPMScheduler,
        else 50), and one line for everything in the file that our sampler does otherwise.
    Raises:
        ValueError: a variance that the network predicts, or an unknown spacing.
    """
    class_name, levels = values.get("_class_name", "DDPMScheduler"), values.get("num_train_timesteps", 1000)
    sampler = _OURS.get(class_name, "ddim")
    notes = [] if class_name in _OURS else [f"{class_name} is not among our samplers; ddim takes its place"]
    spacing = values.get("timestep_spacing", "linspace" if sampler == "dpmsolver++" else "leading")
    if spacing not in SPACINGS:
        raise ValueError(f"{where}: timestep_spacing = {shown(spacing)} is not supported (only {', '.join(SPACINGS)})")
    thresholding = values.get("thresholding", False)
    clip = thresholding if sampler == "dpmsolver++" else thresholding or values.get("clip_sample", True)
    for key, ours in SCHEDULERS[sampler].fixed.items() if class_name in _OURS else ():
        if values.get(key, ours) != ours:
            notes.append(f"{key} = {shown(values[key])} is not followed; ours is {ours!r}")
    if spacing == "leading" and values.get("steps_offset", 0) != 0:
        notes.append(f"steps_offset = {shown(values['steps_offset'])} is not followed; ours is 0")
    limit = "sample_max_value" if thresholding else "clip_sample_range"
    if clip and values.get(limit, 1.0) != 1:
        notes.append(f"{limit} = {shown(values[limit])} is not followed; the predicted image is clipped to [-1, 1]")
    if sampler == "dpmsolver++" and values.get("rescale_betas_zero_snr", False):
        notes.append("rescale_betas_zero_snr: diffusers leaves 2^-24 of the signal at the last level; ours leaves none")
    if sampler == "ddim" and spacing == "linspace":
        notes.append("timestep_spacing = 'linspace': diffusers' DDIM does not step to the grid's next point; ours does")
    variance = values.get("variance_type") or "fixed_small"
    if variance.startswith("learned"):
        raise ValueError(f"{where}: variance_type = {shown(variance)} is not supported (only fixed_small, fixed_large)")
    large = sampler == "ddpm" and variance.startswith("fixed_large")
    if large and variance != "fixed_large":
        notes.append(
            f"variance_type = {shown(variance)} gives diffusers the root of a negative number; fixed_large is taken"
        )
    if large and spacing == "trailing":
        notes.append(
            "variance_type = 'fixed_large': diffusers adds noise to a final image that is not at t = 0; ours does not"
        )
    config = {"sampler": sampler, "steps": levels if sampler == "ddpm" else min(50, levels), "spacing": spacing}
    config |= {"variance": "fixed_large" if large else "fixed_small", "clip": clip}
    try:
        return from_dict(SamplingConfig, config, "sampling"), [f"{where}: {note}" for note in notes]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
