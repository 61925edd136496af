"""Editing tables against closed forms: the flow and the conditional distribution of Gaussian data."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.editing import (
    decode_table,
    encode_table,
    inversion_levels,
    keep_known,
    repaint_table,
    slerp,
    tail_table,
    visits,
)
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import SamplingTable, run

LINSPACE = SamplingConfig("ddim", 50, "linspace", clip=False)
PROCESSES = {
    "eps": ProcessConfig(),
    "x0": ProcessConfig(prediction="x0"),
    "v": ProcessConfig(prediction="v"),
    "flow": ProcessConfig(schedule="flow", prediction="flow"),
    "edm": ProcessConfig(schedule="edm", prediction="edm"),
}


def gaussian_network(process, mean, covariance):
    """The optimal network, a linear one, for data N(mean, covariance) of shape (K, 1, D, 1); `one` has K constants."""

    def network(x, t, one=1.0):
        level = int(np.argmin(np.abs(process.time - t)))
        signal, noise = process.signal[level], process.noise[level]
        gain = signal * covariance @ np.linalg.inv(signal**2 * covariance + noise**2 * np.eye(len(mean)))
        flat = x.reshape(len(x), -1)
        constant = np.multiply.outer(np.ones(len(x)) * one, mean)
        x_0 = (constant + (flat - signal * constant) @ gain.T).reshape(x.shape)
        a, b = process.target_x0[level], process.target_eps[level]
        return a * x_0 + b * (x - signal * x_0) / noise

    return network


def no_noise(index):
    raise AssertionError("no row adds noise")


@pytest.mark.parametrize("name", PROCESSES)
def test_encoding_follows_the_exact_flow_of_gaussian_data_and_decoding_returns(name):
    """x / signal at t = 0 is the image; (x - signal mean) / deviation is constant. Errors fall as 1 / steps."""
    process = make_process(PROCESSES[name])
    mean, deviation = np.array([0.2]), 0.4
    network = gaussian_network(process, mean, np.array([[deviation**2]]))
    image = np.linspace(-0.9, 0.9, 7).reshape(7, 1, 1, 1)
    (first, last), (first_noise, last_noise) = ((table[0], table[-1]) for table in (process.signal, process.noise))
    scale = math.hypot(last * deviation, last_noise) / math.hypot(first * deviation, first_noise)
    exact = last * mean + scale * first * (image - mean)
    errors, returns = [], []
    for steps in (50, 100, 200, 400):
        config = dataclasses.replace(LINSPACE, steps=steps, clip=True)  # the flow is never clipped
        noise = run(encode_table(process, config), network, image, no_noise)
        errors.append(np.max(np.abs(noise - exact)))
        returns.append(np.max(np.abs(run(decode_table(process, config), network, noise, no_noise) - image)))
    print(f"{name}: encoding {errors}, there and back {returns}")
    for values in (errors, returns):
        assert np.log2(values[-2] / values[-1]) == pytest.approx(1, abs=0.15)
        assert values[0] > values[1] > values[2] > values[3]
    assert returns[-1] < 0.03


@pytest.mark.parametrize("spacing", ("trailing", "leading", "linspace", "log_snr"))
def test_the_flow_s_levels_end_at_t_0_and_rows_join(spacing):
    process = make_process(ProcessConfig(prediction="v"))
    config = dataclasses.replace(LINSPACE, spacing=spacing, steps=10)
    levels = inversion_levels(process, config)
    assert levels[-1].t == 0 and all(a.half_log_snr < b.half_log_snr for a, b in itertools.pairwise(levels))
    encode, decode = encode_table(process, config), decode_table(process, config)
    assert encode.nfe == decode.nfe == len(levels) - 1 and not encode.clip and not decode.clip
    assert [row.t for row in encode.rows] == [level.t for level in levels[:0:-1]]
    assert [row.t for row in decode.rows] == [level.t for level in levels[:-1]]
    assert encode.start == process.signal[0] and decode.start == 1


def test_inversion_reaches_a_level_without_signal():
    process = make_process(ProcessConfig(prediction="v", zero_terminal_snr=True))
    network = gaussian_network(process, np.array([0.0]), np.array([[0.25]]))
    image = np.linspace(-0.9, 0.9, 5).reshape(5, 1, 1, 1)
    noise = run(encode_table(process, dataclasses.replace(LINSPACE, steps=500)), network, image, no_noise)
    assert noise == pytest.approx(image / 0.5, abs=0.02)
    back = run(decode_table(process, dataclasses.replace(LINSPACE, steps=500)), network, noise, no_noise)
    assert back == pytest.approx(image, abs=0.02)


def test_slerp_keeps_size_and_angle():
    a, b = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 1))
    assert np.allclose(slerp(a, b, 0.0), a) and np.allclose(slerp(a, b, 1.0), b)
    a, b = (v / np.linalg.norm(v.reshape(3, -1), axis=1)[:, None, None, None] for v in (a, b))
    middle = slerp(a, b, 0.25)
    assert np.linalg.norm(middle.reshape(3, -1), axis=1) == pytest.approx(np.ones(3))
    whole, part = (np.arccos(np.sum((a * v).reshape(3, -1), axis=1)) for v in (b, middle))
    assert part == pytest.approx(0.25 * whole)
    assert (
        slerp(a, a, 0.3) == pytest.approx(a)
        and slerp(a.astype(np.float32), b.astype(np.float32), 0.5).dtype == np.float32
    )


@pytest.mark.parametrize("sampler", ("ddpm", "ddim", "dpmsolver++", "unipc", "euler", "heun"))
def test_a_tail_is_the_end_of_the_table_and_the_whole_at_full_strength(sampler):
    process = make_process(ProcessConfig(prediction="v"))
    config = SamplingConfig(sampler, 20)
    whole, level = tail_table(process, config, 1.0)
    full = make_table(process, config)
    assert [row.t for row in whole.rows] == [row.t for row in full.rows] and level.t == full.rows[0].t
    assert all(np.array_equal(a.matrix, b.matrix) and a.s == b.s for a, b in zip(whole.rows, full.rows, strict=True))
    tail, level = tail_table(process, config, 0.3)
    assert level.t == tail.rows[0].t and tail.start == 1.0
    assert {row.t for row in tail.rows} == set(sorted({row.t for row in full.rows})[:6])
    assert tail_table(process, config, 0.01)[0].nfe == 1


def test_an_image_that_is_noised_and_denoised_keeps_gaussian_data_s_distribution():
    """SDEdit with ancestral steps is a step of a Markov chain whose stationary distribution is the data's."""
    process = make_process(ProcessConfig(prediction="v"))
    config = SamplingConfig("ddpm", 1000, variance="fixed_large", clip=False)
    mean, deviation = 0.3, 1.0  # for which fixed_large is exact
    table, level = tail_table(process, config, 0.4)
    network = gaussian_network(process, np.array([mean]), np.array([[deviation**2]]))
    one, image, start = np.eye(table.nfe + 3)[:3].reshape(3, -1, 1, 1, 1)
    noised = level.signal * (mean * one + deviation * image) + level.noise * start
    basis = np.eye(table.nfe + 3)[3:].reshape(table.nfe, -1, 1, 1, 1)
    found = run(table, lambda x, t: network(x, t, one.ravel()), noised, lambda row: basis[row]).ravel()
    assert found[0] == pytest.approx(mean, abs=1e-3) and np.sum(found[1:] ** 2) == pytest.approx(1, abs=1e-3)
    assert 0.05 < found[1] < 0.95  # what is left of the image


@pytest.mark.parametrize(
    ("change", "strength", "message"),
    [
        ({}, 0.0, "--strength 0.0: must be above 0 and at most 1"),
        ({}, 1.5, "--strength 1.5"),
        ({"sampler": "heun", "churn": 2.0}, 0.5, "sampling.churn = 2.0: must be 0"),
    ],
)
def test_a_tail_that_cannot_be_is_refused(change, strength, message):
    with pytest.raises(ValueError, match=message):
        tail_table(make_process(ProcessConfig()), dataclasses.replace(SamplingConfig(), **change), strength)


# --- inpainting -------------------------------------------------------------------------------------------------------


def test_the_walk_of_resampling_by_hand():
    assert visits(4, 1, 1) == [0, 1, 2, 3, 4]
    # As get_schedule_jump(t_T=5, jump_length=2, jump_n_sample=2): 4 3 2 [3 4] 3 2 1 0 [1 2] 1 0 -1, jumps in brackets.
    assert visits(5, 2, 2) == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5]
    path = visits(250, 10, 10)
    jumps = [a for a, b in itertools.pairwise(path) if b < a + 1]
    assert len(jumps) == 24 * 9 and len(path) - 1 == 250 + 24 * 9 * 10
    assert path[0] == 0 and path[-1] == 250 and path.count(250) == 1


@pytest.mark.parametrize(
    ("steps", "jump", "resample", "message"),
    [
        (10, 0, 2, "--jump 0"),
        (10, 10, 2, "--jump 10: must be in .1, 9."),
        (10, 1, 0, "--resample 0: must be at least 1"),
    ],
)
def test_a_walk_that_cannot_be_is_refused(steps, jump, resample, message):
    with pytest.raises(ValueError, match=message):
        visits(steps, jump, resample)


def test_what_cannot_be_inpainted_with_is_refused():
    process = make_process(ProcessConfig())
    with pytest.raises(ValueError, match=r"--sampler unipc: must be ddpm or ddim"):
        repaint_table(process, SamplingConfig("unipc"))
    learned = SamplingConfig("ddpm", variance="learned")
    with pytest.raises(ValueError, match=r"--variance learned: must be fixed_small or fixed_large"):
        repaint_table(process, learned, 2, 2)
    assert repaint_table(process, learned)[0].rows[0].s_large is not None


@pytest.mark.parametrize("config", [SamplingConfig("ddpm", 20), SamplingConfig("ddim", 20, eta=0.5)])
def test_without_jumps_the_rows_are_the_sampler_s(config):
    process = make_process(ProcessConfig(prediction="v"))
    table, reached = repaint_table(process, config)
    full = make_table(process, config)
    assert [level.t for level in reached[:-1]] == [row.t for row in full.rows[1:]] and reached[-1].noise == 0
    assert all(np.array_equal(a.matrix, b.matrix) and a.s == b.s for a, b in zip(table.rows, full.rows, strict=True))


def test_a_row_with_a_jump_is_the_step_and_the_noise_added_again():
    """Moments of x by hand through DDPM's step from a to b and q(x_a | x_b)."""
    process = make_process(ProcessConfig(prediction="v"))
    config = SamplingConfig("ddpm", 20, "trailing", variance="fixed_large")
    table, reached = repaint_table(process, config, jump=3, resample=2)
    plain = {row.t: row for row in make_table(process, config).rows}
    levels = {level.t: level for level in reached if level.noise}
    found = 0
    for row, level, then in zip(table.rows, reached, [*table.rows[1:], None], strict=True):
        if level.noise == 0:
            continue
        assert then.t == level.t
        below = max((t for t in levels if t < row.t), default=None)
        if below is None or level.t == below:
            continue
        found += 1
        before, ratio = levels[below], level.signal / levels[below].signal
        assert row.matrix == pytest.approx(ratio * plain[row.t].matrix, rel=1e-12)
        added = level.noise**2 - ratio**2 * before.noise**2
        assert row.s**2 == pytest.approx(ratio**2 * plain[row.t].s ** 2 + added, rel=1e-12)
    assert found == 6


def inpainted_moments(process, config, jump, resample, mean, covariance, known_value):
    """Mean and variance of the painted pixel, exactly: every row is linear and has fresh noise."""
    table, reached = repaint_table(process, config, jump, resample)
    network = gaussian_network(process, mean, covariance)
    one = np.array([1.0, 0.0, 0.0])
    known = np.array([known_value, 9.0]).reshape(1, 1, 2, 1)
    hole = np.array([False, True]).reshape(1, 1, 2, 1)
    silent, loud = (
        keep_known(known, hole, reached, lambda row, z=z: z) for z in (np.zeros((1, 1, 2, 1)), np.ones((1, 1, 2, 1)))
    )
    x, spread = np.zeros((1, 1, 2, 1)), np.eye(2)
    for index, row in enumerate(table.rows):
        step = SamplingTable((dataclasses.replace(row, s=0.0),), False, "one row")
        basis = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).reshape(3, 1, 2, 1)
        shift, *columns = run(step, lambda x, t: network(x, t, one), basis, no_noise).reshape(3, 2)
        slope = np.stack(columns, axis=1)
        x = (slope @ x.ravel() + shift).reshape(1, 1, 2, 1)
        spread = slope @ spread @ slope.T + row.s**2 * np.eye(2)
        added = (loud(index, x, x) - silent(index, x, x)).ravel()
        x = silent(index, x, x)
        spread = np.where(np.outer(hole, hole), spread, 0.0) + np.diag(added**2)
    assert x[0, 0, 0, 0] == known_value and spread[0, 0] == 0
    return x[0, 0, 1, 0], spread[1, 1]


def test_resampling_brings_the_painted_pixel_to_its_conditional_distribution():
    """Two correlated pixels, one known: N(m + c / v (a - m), v - c^2 / v)."""
    process = make_process(ProcessConfig(prediction="x0"))
    config = SamplingConfig("ddpm", 250, variance="fixed_small", clip=False)
    mean, variance, shared = np.array([0.1, -0.1]), 0.16, 0.136  # correlation 0.85
    covariance = np.array([[variance, shared], [shared, variance]])
    expected = np.array([-0.1 + shared / variance * (0.6 - 0.1), variance - shared**2 / variance])
    gaps = []
    for resample in (1, 3, 10):
        found = np.array(inpainted_moments(process, config, 10, resample, mean, covariance, 0.6))
        gaps.append(np.abs(found - expected))
        print(f"resample {resample}: mean and variance {found} of {expected}")
    assert np.all(gaps[0] > 5 * gaps[-1]) and gaps[-1][0] < 0.03 and gaps[-1][1] < 0.02 * expected[1]
    assert gaps[0][0] > gaps[1][0] > gaps[2][0]
    finer = dataclasses.replace(config, steps=1000)
    assert abs(inpainted_moments(process, finer, 10, 10, mean, covariance, 0.6)[0] - expected[0]) < 0.5 * gaps[-1][0]


def test_independent_pixels_need_no_resampling():
    process = make_process(ProcessConfig(prediction="v", zero_terminal_snr=True))
    config = SamplingConfig("ddpm", 500, variance="fixed_large", clip=False)
    for resample in (1, 3):
        found = inpainted_moments(process, config, 100, resample, np.array([0.1, -0.1]), np.eye(2), 0.6)
        assert found == pytest.approx((-0.1, 1.0), abs=5e-3)
