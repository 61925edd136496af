"""Schedules against diffusers' formulas re-executed in float64, and against diffusers' own float32 values."""

import itertools
import math

import numpy as np
import pytest

from core.config import ProcessConfig
from core.diffusion.schedules import betas

FLOAT64 = 1e-12
FLOAT32 = 1e-5  # what diffusers loses in float32, relative to the largest beta
DIFFUSERS_NAMES = {"cosine": "squaredcos_cap_v2"}
SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid")
CASES = list(itertools.product(SCHEDULES, (False, True), (10, 250, 1000)))


def config(schedule, zero_snr, timesteps, **options):
    return ProcessConfig(
        timesteps=timesteps,
        schedule=schedule,
        zero_terminal_snr=zero_snr,
        prediction="v" if zero_snr else "eps",
        **options,
    )


def diffusers_formula(schedule, zero_snr, timesteps, start=1e-4, end=0.02):
    """diffusers 0.42.1 scheduling_ddpm.py with float64 for float32."""
    if schedule == "linear":
        result = np.linspace(start, end, timesteps)
    elif schedule == "scaled_linear":
        result = np.linspace(start**0.5, end**0.5, timesteps) ** 2
    elif schedule == "sigmoid":
        result = 1 / (1 + np.exp(-np.linspace(-6, 6, timesteps))) * (end - start) + start
    else:

        def alpha_bar(u):
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        ratios = [alpha_bar((i + 1) / timesteps) / alpha_bar(i / timesteps) for i in range(timesteps)]
        result = np.array([min(1 - ratio, 0.999) for ratio in ratios])
    if zero_snr:
        root = np.sqrt(np.cumprod(1 - result))
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alpha_bars = root**2
        result = 1 - np.concatenate([alpha_bars[:1], alpha_bars[1:] / alpha_bars[:-1]])
    return result


@pytest.mark.parametrize(("schedule", "zero_snr", "timesteps"), CASES)
def test_equals_the_formula_in_float64(schedule, zero_snr, timesteps):
    ours = betas(config(schedule, zero_snr, timesteps))
    expected = diffusers_formula(schedule, zero_snr, timesteps)
    assert ours.shape == (timesteps,) and ours.dtype == np.float64
    assert np.max(np.abs(ours - expected)) / np.max(expected) < FLOAT64


@pytest.mark.diffusers
@pytest.mark.parametrize(("schedule", "zero_snr", "timesteps"), CASES)
def test_equals_diffusers_as_shipped_in_float32(schedule, zero_snr, timesteps):
    import diffusers

    scheduler = diffusers.DDPMScheduler(
        timesteps, beta_schedule=DIFFUSERS_NAMES.get(schedule, schedule), rescale_betas_zero_snr=zero_snr
    )
    ours = betas(config(schedule, zero_snr, timesteps))
    assert np.max(np.abs(ours - scheduler.betas.numpy())) / np.max(ours) < FLOAT32


def test_linear_has_the_paper_s_end_points():
    values = betas(ProcessConfig())
    assert values[0] == 1e-4 and values[-1] == 0.02
    assert np.allclose(np.diff(values), (0.02 - 1e-4) / 999, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_beta_start_and_beta_end_are_used(schedule):
    values = betas(config(schedule, False, 100, beta_start=1e-3, beta_end=0.05))
    expected = diffusers_formula(schedule, False, 100, 1e-3, 0.05)
    assert np.max(np.abs(values - expected)) < FLOAT64


def test_cosine_keeps_its_digits_at_the_clean_end():
    """1 - cos^2 b / cos^2 a in 50 digits (mpmath, mp.dps = 50); plain float64 gets it to 1e-11 only."""
    values = betas(config("cosine", False, 1000))
    exact = {0: 4.128422482177780235346443e-05, 1: 4.614175273669450843271755e-05, 10: 8.987136245306476792876514e-05}
    for t, beta in exact.items():
        assert abs(values[t] / beta - 1) < 1e-14


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_level(schedule):
    values = betas(config(schedule, True, 1000))
    assert values[-1] == 1.0
    assert values[0] == betas(config(schedule, False, 1000))[0]
    assert np.all(values > 0) and np.all(values[:-1] < 1)


def test_zero_terminal_snr_refuses_a_schedule_without_signal():
    with pytest.raises(ValueError, match=r"process\.zero_terminal_snr.*beta_end"):
        betas(config("linear", True, 4000, beta_end=0.9))
