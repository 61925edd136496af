"""Solvers of higher order: order of convergence, diffusers' coefficients in float64, identities, grids, churn."""

import dataclasses
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from core.config import ProcessConfig, Sampler, SamplingConfig
from core.diffusion import dpm_solver, unipc
from core.diffusion.grids import Level, level_of, levels_at, sampling_grid
from core.diffusion.process import make_process
from core.diffusion.samplers import SAMPLERS, make_steps, make_table, steps_of, table_of, with_sampler
from core.diffusion.table import Row, SamplingTable, clipped, run
from tests.core.test_diffusion_samplers import (
    CENTRES,
    LOOP,
    PROCESSES,
    WEIGHTS,
    WIDTHS,
    curved_network,
    diffusers_loop,
    float64_copy,
    peer_options,
    relative,
    step_noise,
    x_start,
)
from tests.numpy_impl.sampler import watching

X0 = make_process(ProcessConfig(prediction="x0"))

# --- orders of convergence: uniform log-SNR from -5 to 5, a finite end, exact solution known --------------------------


def uniform_levels(steps):
    """Levels whose t is their own number, so that an analytic network finds them."""
    half = np.linspace(-5, 5, steps + 1)
    return [
        Level(float(i), 1 / math.hypot(1, math.exp(-v)), 1 / math.hypot(1, math.exp(v)), float(v))
        for i, v in enumerate(half)
    ]


def gaussian_image(x, level):
    """E[x_0 | x_t] for data N(0.3, 0.4^2)."""
    variance = (0.4 * level.signal) ** 2 + level.noise**2
    return 0.3 + level.signal * 0.16 / variance * (x - level.signal * 0.3)


def gaussian_flow(x, start, end):
    first, last = (math.hypot(0.4 * level.signal, level.noise) for level in (start, end))
    return end.signal * 0.3 + (x - start.signal * 0.3) * last / first


def mixture_image(x, level):
    variances = (level.signal * WIDTHS) ** 2 + level.noise**2
    residual = x[:, None] - level.signal * CENTRES
    log_density = np.log(WEIGHTS) - 0.5 * np.log(variances) - residual**2 / (2 * variances)
    share = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return np.sum(share * (CENTRES + level.signal * WIDTHS**2 / variances * residual), axis=1)


def mixture_flow(x, start, end):
    """The exact flow keeps every quantile."""
    from scipy import optimize, stats

    def cdf(value, level, upper):
        scale = np.sqrt((level.signal * WIDTHS) ** 2 + level.noise**2)
        tail = stats.norm.sf if upper else stats.norm.cdf
        return float(np.sum(WEIGHTS * tail((value - level.signal * CENTRES) / scale)))

    def follow(value):
        share = cdf(value, start, value > 0)
        return optimize.brentq(lambda y: cdf(y, end, value > 0) - share, -10, 10, xtol=1e-15, rtol=1e-14)

    return np.array([follow(value) for value in x])


DATA = {"gaussian": (gaussian_image, gaussian_flow), "mixture": (mixture_image, mixture_flow)}
STARTS = np.array([-1.7, -0.6, -0.1, 0.4, 1.3])
# Orders on (Gaussian data, a mixture). 3M and UniPC-3 are of a higher order on Gaussian data, which are linear in x.
# iPNDM's weights are those of an even grid in time, which this is not: of order 2 at best, whatever its order.
ORDERS = {
    ("ddim", 0): (1.0, 1.0),
    ("euler", 0): (1.0, 1.0),
    ("dpmsolver++", 0): (2.0, 2.0),
    ("dpmsolver++2s", 0): (2.0, 2.0),
    ("dpmsolver++3m", 0): (None, 3.0),
    ("unipc", 1): (2.0, 2.0),
    ("unipc", 2): (3.0, 3.0),
    ("unipc", 3): (4.0, 4.0),
    ("ipndm", 1): (1.0, 1.0),
    ("ipndm", 2): (2.0, 2.0),
    ("ipndm", 3): (2.0, 2.0),
    ("ipndm", 4): (2.0, 2.0),
    ("heun", 0): (2.0, 2.0),
    ("flow_euler", 0): (1.0, 1.0),
    ("flow_heun", 0): (2.0, 2.0),
}


def slopes(sampler, order, data, variant="bh2"):
    image, flow = DATA[data]
    config = SamplingConfig(sampler, order=order, unipc_variant=variant, clip=False)
    errors = []
    for steps in (80, 160, 320):
        levels = uniform_levels(steps)
        rows, start = make_steps(X0, levels, config)
        table = table_of(X0, rows, config, start)
        found = run(table, lambda x, t, known=levels: image(x, known[int(t)]), STARTS, step_noise)
        errors.append(np.abs(found - flow(STARTS, levels[0], levels[-1])))
    # The median of the starts: one lies near the watershed of the mixture, where the error's first term is small.
    return np.median(np.log2(np.array(errors[:-1]) / errors[1:]), axis=1)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("sampler", "order"), ORDERS)
def test_order_of_convergence(sampler, order, data):
    expected = ORDERS[sampler, order][list(DATA).index(data)]
    found = slopes(sampler, order, data)
    if expected is None:  # 3M: 4.7, an accident of linear data
        assert found[-1] > 2.7
    else:
        assert abs(found[-1] - expected) < 0.3, found


@pytest.mark.parametrize("order", (2, 3))
def test_bh1_is_of_the_same_order(order):
    assert abs(slopes("unipc", order, "mixture", "bh1")[-1] - (order + 1)) < 0.3


def test_half_the_second_difference_is_of_order_2(monkeypatch):
    """Half the second difference, as in diffusers' DPM++ 3M, has a lower order: the test of order sees it."""
    ours = dpm_solver.multistep

    def halved(levels, now, order):
        keep, weights = ours(levels, now, order)
        return keep, weights if order < 3 else theirs_of_3m(levels, now)

    monkeypatch.setattr(dpm_solver, "multistep", halved)
    assert slopes("dpmsolver++3m", 0, "mixture")[-1] < 2.3


# --- diffusers, re-executed in float64 --------------------------------------------------------------------------------


def theirs_of_3m(levels, now):
    """DPM-Solver++ 3M as its authors and diffusers code it: D2 is not doubled."""
    then = levels[now + 1]
    lambdas = [levels[now + k].half_log_snr for k in (1, 0, -1, -2)]
    h, h_0, h_1 = lambdas[0] - lambdas[1], lambdas[1] - lambdas[2], lambdas[2] - lambdas[3]
    r0, r1 = h_0 / h, h_1 / h
    m0, m1, m2 = np.eye(3)
    d1_0, d1_1 = (m0 - m1) / r0, (m1 - m2) / r1
    d1, d2 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1), (d1_0 - d1_1) / (r0 + r1)
    return then.signal * (-np.expm1(-h) * m0 + (np.expm1(-h) / h + 1) * d1 - ((np.expm1(-h) + h) / h**2 - 0.5) * d2)


NO_ZERO_SNR = [name for name in PROCESSES if "zero" not in name]


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("clip", (True, False))
@pytest.mark.parametrize("count", (2, 5, 20))
@pytest.mark.parametrize("name", NO_ZERO_SNR)
def test_2s_equals_diffusers(name, count, clip):
    copy = float64_copy("scheduling_dpmsolver_singlestep")
    options = {
        k: v
        for k, v in peer_options(PROCESSES[name], "linspace").items()
        if k not in ("timestep_spacing", "rescale_betas_zero_snr")
    }
    peer = copy.DPMSolverSinglestepScheduler(
        solver_order=2, lower_order_final=True, thresholding=clip, sample_max_value=1.0, **options
    )
    expected = diffusers_loop(copy, peer, count)
    config = SamplingConfig("dpmsolver++2s", count, "linspace", clip=clip)
    table = make_table(make_process(ProcessConfig(**PROCESSES[name])), config)
    assert relative(run(table, curved_network, x_start(), step_noise), expected) < LOOP


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("spacing", ("trailing", "linspace"))
@pytest.mark.parametrize("count", (2, 8, 30))
@pytest.mark.parametrize("name", NO_ZERO_SNR)
def test_sde_2m_equals_diffusers(name, count, spacing):
    copy = float64_copy("scheduling_dpmsolver_multistep")
    peer = copy.DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="sde-dpmsolver++", **peer_options(PROCESSES[name], spacing)
    )
    expected = diffusers_loop(copy, peer, count)
    table = make_table(
        make_process(ProcessConfig(**PROCESSES[name])), SamplingConfig("sde-dpmsolver++", count, spacing, clip=False)
    )
    assert relative(run(table, curved_network, x_start(), step_noise), expected) < LOOP


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("count", (3, 10, 14))
@pytest.mark.parametrize("name", NO_ZERO_SNR)
def test_3m_equals_diffusers_but_for_the_second_difference(name, count, monkeypatch):
    """With fewer than 15 steps, where diffusers lowers the order towards the end as well."""
    copy = float64_copy("scheduling_dpmsolver_multistep")
    peer = copy.DPMSolverMultistepScheduler(solver_order=3, **peer_options(PROCESSES[name], "trailing"))
    expected = diffusers_loop(copy, peer, count)
    process, config = make_process(ProcessConfig(**PROCESSES[name])), SamplingConfig("dpmsolver++3m", count, clip=False)
    right = run(make_table(process, config), curved_network, x_start(), step_noise)
    ours = dpm_solver.multistep

    def halved(levels, now, order):
        keep, weights = ours(levels, now, order)
        return keep, weights if order < 3 else theirs_of_3m(levels, now)

    monkeypatch.setattr(dpm_solver, "multistep", halved)
    assert relative(run(make_table(process, config), curved_network, x_start(), step_noise), expected) < LOOP
    assert count == 3 or relative(right, expected) > 1e-6


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("clip", (True, False))
@pytest.mark.parametrize("variant", ("bh1", "bh2"))
@pytest.mark.parametrize("order", (1, 2, 3))
@pytest.mark.parametrize("count", (2, 6, 20))
@pytest.mark.parametrize("name", NO_ZERO_SNR)
def test_unipc_equals_diffusers(name, count, order, variant, clip):
    """diffusers' last step of bh1 is NaN, so its last sigma is set to the one before."""
    copy = float64_copy("scheduling_unipc_multistep")
    peer = copy.UniPCMultistepScheduler(
        solver_order=order,
        solver_type=variant,
        thresholding=clip,
        sample_max_value=1.0,
        **peer_options(PROCESSES[name], "trailing"),
    )
    config = SamplingConfig("unipc", count, order=order, unipc_variant=variant, clip=clip)
    table = make_table(make_process(ProcessConfig(**PROCESSES[name])), config)
    if variant == "bh2":
        assert relative(run(table, curved_network, x_start(), step_noise), diffusers_loop(copy, peer, count)) < LOOP
        return
    states, theirs = [], []
    run(table, curved_network, x_start(), step_noise, after=watching(lambda index, x, x_0: states.append(x)))
    step = peer.step

    def noted(*arguments, **options):
        result = step(*arguments, **options)
        theirs.append(result.prev_sample.numpy())
        return result

    peer.step = noted
    diffusers_loop(copy, peer, count)
    assert np.isnan(theirs[-1]).any()
    for ours, expected in zip(states[:-1], theirs[:-1], strict=True):
        assert relative(ours, expected) < LOOP


@pytest.mark.diffusers
@pytest.mark.parametrize("order", (1, 2, 3, 4))
def test_ipndm_equals_diffusers_formulas(order):
    """diffusers' scheduler gets our grid, whose last level is not clean."""
    import torch

    copy = float64_copy("scheduling_ipndm")
    levels = uniform_levels(12)
    peer = copy.IPNDMScheduler()
    peer.set_timesteps(12)
    peer.alphas = torch.tensor([level.signal for level in levels], dtype=torch.float64)
    peer.betas = torch.tensor([level.noise for level in levels], dtype=torch.float64)
    x = torch.from_numpy(x_start())
    full = copy.IPNDMScheduler.step
    for index in range(12):
        level = levels[index]
        image = curved_network(x.numpy(), float(index))
        eps = (x.numpy() - level.signal * image) / level.noise
        if len(peer.ets) >= order:
            peer.ets = peer.ets[len(peer.ets) - order + 1 :]
        # It makes eps of a v-like output.
        output = torch.from_numpy((eps - level.noise * x.numpy()) / level.signal)
        x = full(peer, output, peer.timesteps[index], x).prev_sample
    config = SamplingConfig("ipndm", order=order, clip=False)
    rows, _ = make_steps(X0, levels, config)
    assert relative(run(table_of(X0, rows, config), curved_network, x_start(), step_noise), x.numpy()) < LOOP


@pytest.mark.diffusers
@pytest.mark.parametrize("karras", (False, True))
@pytest.mark.parametrize(("sampler", "clip"), [("heun", True), ("heun", False), ("euler", False)])  # no clip in Euler's
@pytest.mark.parametrize("name", ["linear-eps", "cosine-v"])
def test_heun_and_euler_equal_diffusers(name, sampler, clip, karras):
    """diffusers steps in x / signal; on Karras's grid both interpolate t alike."""
    import torch

    copy = float64_copy(f"scheduling_{sampler}_discrete")
    peer_class = copy.HeunDiscreteScheduler if sampler == "heun" else copy.EulerDiscreteScheduler
    options = {k: v for k, v in peer_options(PROCESSES[name], "leading").items() if k != "rescale_betas_zero_snr"}
    peer = peer_class(
        beta_start=1e-4,
        beta_end=0.02,
        use_karras_sigmas=karras,
        **options,
        **({"clip_sample": clip} if sampler == "heun" else {}),
    )
    peer.set_timesteps(12)
    x = torch.from_numpy(x_start() * np.sqrt(1 + float(peer.sigmas[0]) ** 2))
    for t in peer.timesteps:
        given = peer.scale_model_input(x, t).numpy()
        x = peer.step(torch.from_numpy(curved_network(given, float(t))), t, x).prev_sample
    config = SamplingConfig(sampler, 12, "karras" if karras else "leading", clip=clip)
    process = make_process(ProcessConfig(**PROCESSES[name]))
    if karras:  # theirs starts where the leading grid does
        grid = karras_between(process, *sampling_grid(process, "leading", 12)[::11])
        rows, start = make_steps(process, [*grid, Level(math.nan, 1.0, 0.0, math.inf)], config)
        table = table_of(process, rows, config, start)
    else:
        table = make_table(process, config)
    assert relative(run(table, curved_network, x_start(), step_noise), x.numpy()) < 1e-11


def karras_between(process, first, last, steps=12):
    sigma = np.linspace(first.sigma ** (1 / 7), last.sigma ** (1 / 7), steps) ** 7
    return [level_of(process, -math.log(value)) for value in sigma]


# --- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("other", [dict(sampler="flow_euler"), dict(sampler="ipndm", order=1), dict(sampler="euler")])
def test_ddim_under_other_names(name, other):
    process = make_process(ProcessConfig(**PROCESSES[name]))
    if other["sampler"] == "euler" and process.signal[-1] == 0:
        with pytest.raises(ValueError, match="flow_euler"):
            make_table(process, SamplingConfig(steps=17, **other))
        return
    a, b = (make_table(process, SamplingConfig(steps=17, **options)) for options in (dict(sampler="ddim"), other))
    for one, two in zip(a.rows, b.rows, strict=True):
        assert (one.t, one.p, one.q, one.s) == (two.t, two.p, two.q, two.s)
        np.testing.assert_allclose(two.matrix[0], one.matrix[0], atol=1e-13)


def test_unip_2_is_the_midpoint_form():
    """The predictor of UniPC-2 with bh2 and no corrector is DPM++ 2M; of UniPC-3, 3M."""
    levels = sampling_grid(X0, "log_snr", 9)
    for order in (2, 3):
        ours = dpm_solver.multistep(levels, 4, order)
        theirs = unipc.update(levels, 4, order, "bh2", corrector=False)
        assert ours[0] == pytest.approx(theirs[0], rel=1e-14)
        np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-11)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", (1, 2, 3, 4, 5, 40))
def test_every_table_is_finite_and_ends_at_the_predicted_image(sampler, steps):
    zero = make_process(ProcessConfig(zero_terminal_snr=True, prediction="v"))
    processes = [zero] if sampler not in ("euler", "heun") else []
    for process in [*processes, make_process(ProcessConfig(schedule="cosine"))]:
        for spacing in ("trailing", "linspace", "leading", "quadratic", "log_snr", "karras"):
            if (steps == 1 and spacing in ("linspace", "quadratic")) or (
                process is zero and spacing in ("log_snr", "karras")
            ):
                continue
            if steps == 1 and spacing == "leading" and sampler not in ("dpmsolver++", "unipc"):
                continue
            table = make_table(process, SamplingConfig(sampler, steps, spacing))
            for row in table.rows:
                assert np.all(np.isfinite([row.t, row.p, row.q, row.s])) and np.all(np.isfinite(row.matrix))
            last = table.rows[-1].matrix
            assert table.rows[-1].s == 0 and last.shape[0] == 1 and last[0, -2] == pytest.approx(1, abs=1e-14)
            assert np.all(np.delete(last[0], -2) == 0), (sampler, spacing)
            assert len(table.rows) == (2 * steps - 1 if sampler in ("heun", "flow_heun") else steps)


# --- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("spacing", "option"), [("karras", "use_karras_sigmas"), ("log_snr", "use_lu_lambdas")])
@pytest.mark.parametrize("schedule", ("linear", "cosine"))
def test_continuous_grids_equal_diffusers(spacing, option, schedule):
    copy = float64_copy("scheduling_dpmsolver_multistep")
    peer = copy.DPMSolverMultistepScheduler(
        **peer_options(dict(schedule=schedule, prediction="eps"), "linspace"), **{option: True}
    )
    peer.set_timesteps(15)
    grid = sampling_grid(make_process(ProcessConfig(schedule=schedule)), spacing, 15)
    np.testing.assert_allclose([level.sigma for level in grid], peer.sigmas.numpy()[:-1], rtol=1e-11)
    assert np.max(np.abs(np.array([level.t for level in grid]) - peer.timesteps.numpy())) < 1  # theirs are whole


def test_levels_between_levels_are_exact_in_signal_and_noise():
    process = make_process(ProcessConfig())
    for level in levels_at(process, np.array([3, 500, 999])):
        found = level_of(process, level.half_log_snr)
        assert found.t == pytest.approx(level.t, abs=1e-9)
        assert (found.signal, found.noise) == (
            pytest.approx(level.signal, rel=1e-12),
            pytest.approx(level.noise, rel=1e-12),
        )
    assert level_of(process, 100.0).t == 0 and level_of(process, -100.0).t == 999


@pytest.mark.parametrize("spacing", ("log_snr", "karras"))
def test_a_grid_in_log_snr_needs_signal_everywhere(spacing):
    process = make_process(ProcessConfig(zero_terminal_snr=True, prediction="v"))
    with pytest.raises(ValueError, match=r"t = 999\b.*trailing or linspace"):
        make_table(process, SamplingConfig("ddim", 10, spacing))


def test_quadratic_by_hand():
    from core.diffusion.grids import timesteps

    assert timesteps("quadratic", 4, 10).tolist() == [9, 4, 1, 0]
    for steps in (2, 40, 500, 1000):
        grid = timesteps("quadratic", steps, 1000)
        assert len(grid) == steps and np.all(np.diff(grid) < 0) and grid[0] == 999 and grid[-1] == 0


# --- churn, thresholds, budgets ---------------------------------------------------------------------------------------


def edm_by_hand(process, sigma, config, network, x_T, draws):
    """Karras et al. 2022, algorithm 2, in their x = x_0 + sigma eps, every line written out."""
    N = len(sigma) - 1

    def denoised(x, s):
        level = level_of(process, -math.log(s))
        image = network(x * level.signal, level.t)
        return np.clip(image, -1, 1) if config.clip else image

    def churned(x, s, z):
        limit = config.churn_max or math.inf
        gamma = min(config.churn / N, math.sqrt(2) - 1) if config.churn_min <= s <= limit else 0.0
        higher = s + gamma * s
        return x + math.sqrt(higher**2 - s**2) * config.churn_noise * z, higher

    x = x_T * math.hypot(1, sigma[0])
    for i in range(N):
        x, higher = churned(x, sigma[i], draws[i])
        d = (x - denoised(x, higher)) / higher
        stepped = x + (sigma[i + 1] - higher) * d
        if config.sampler == "heun" and sigma[i + 1] != 0:
            d_after = (stepped - denoised(stepped, sigma[i + 1])) / sigma[i + 1]
            stepped = x + (sigma[i + 1] - higher) * (d + d_after) / 2
        x = stepped
    return x


@pytest.mark.parametrize("sampler", ("heun", "euler"))
@pytest.mark.parametrize(
    "churn", [dict(churn=4.0), dict(churn=40.0, churn_noise=1.1), dict(churn=6.0, churn_min=0.05, churn_max=20.0)]
)
def test_churn_is_edms_algorithm_2(sampler, churn):
    """The noise before the first evaluation is part of x_T's spread, so no draw is made for it here."""
    process = X0
    config = SamplingConfig(sampler, 9, "karras", clip=False, **churn)
    table = make_table(process, config)
    sigma = [*(level.sigma for level in sampling_grid(process, "karras", 9)), 0.0]
    drawn = {}

    def noise(row):
        drawn[row] = step_noise(row)
        return drawn[row]

    found = run(table, curved_network, x_start(), noise)
    # Our noise is that of the row before the evaluation: row 2 i - 1 of Heun, i - 1 of Euler.
    before = [(2 * i - 1 if sampler == "heun" else i - 1) for i in range(9)]
    draws = [np.zeros_like(x_start()), *(drawn.get(row, np.zeros_like(x_start())) for row in before[1:])]
    first = table.start / 1.0
    level = sampling_grid(process, "karras", 9)[0]
    gamma = min(config.churn / 9, math.sqrt(2) - 1) if level.sigma <= (config.churn_max or math.inf) else 0.0
    higher = level_of(process, level.half_log_snr - math.log1p(gamma))
    spread = config.churn_noise * level.sigma * math.sqrt((1 + gamma) ** 2 - 1)
    assert first == pytest.approx(math.hypot(higher.signal / level.signal, higher.signal * spread), rel=1e-13)
    if gamma:  # the folded draw: what it must have been for the state to be start x_T
        wanted = first * x_start() / higher.signal - x_start() / level.signal
        draws[0] = wanted / (spread)
    assert relative(found, edm_by_hand(process, sigma, config, curved_network, x_start(), draws)) < 1e-11


def test_churn_keeps_gaussian_data_gaussian():
    """Mean and variance after the whole loop, exact, for a network that is linear: churn adds what it takes away."""
    table = make_table(X0, SamplingConfig("heun", 300, "karras", clip=False, churn=30.0))

    # The loop is affine in x_T and in each row's noise, so unit draws find its gains.
    def final(x_T, unit_row=None):
        def noise(row):
            return np.ones(1) if row == unit_row else np.zeros(1)

        def network(x, t):
            level = level_of_t(t)
            return gaussian_image(x, level)

        return float(run(table, network, np.array([x_T]), noise)[0])

    known = {}

    def level_of_t(t):
        if t not in known:
            half = float(np.interp(t, X0.time, np.log(X0.signal / X0.noise)))
            known[t] = level_of(X0, half)
        return known[t]

    base = final(0.0)
    variance = (final(1.0) - base) ** 2
    variance += sum((final(0.0, row) - base) ** 2 for row, r in enumerate(table.rows) if r.s != 0)
    assert base == pytest.approx(0.3, abs=0.02) and variance == pytest.approx(0.16, rel=0.05)


@pytest.mark.parametrize("quantile", (0.5, 0.9, 1.0))
def test_dynamic_threshold_by_numpys_quantile(quantile):
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((4, 5, 6, 2)) * np.array([0.2, 1.0, 3.0, 9.0])[:, None, None, None]
    found = clipped(SamplingTable((), True, "", 1.0, quantile), raw)
    for ours, image in zip(found, raw, strict=True):
        limit = max(np.quantile(np.abs(image), quantile), 1.0)
        np.testing.assert_allclose(ours, np.clip(image, -limit, limit) / limit, rtol=1e-13)


def test_learned_variance_interpolates_logarithms():
    row = Row(0.0, 1.0, 0.0, np.array([[0.0, 1.0, 0.0]]), 0.1, 0.4)

    def network(x, t):
        return np.concatenate([x, np.full_like(x, {0.0: 0.5}[t])], axis=-1)

    rows = (row, replace(row, s=0.0, s_large=None))
    x = np.zeros((2, 3, 3, 1))
    seen = []
    run(
        SamplingTable(rows, False, ""),
        network,
        x,
        lambda i: np.ones_like(x),
        after=watching(lambda i, state, x_0: seen.append(state)),
    )
    np.testing.assert_allclose(seen[0], 0.1 * 4 ** ((0.5 + 1) / 2), rtol=1e-14)


def test_an_edit_changes_the_state_after_its_row():
    table = make_table(X0, SamplingConfig("ddim", 3))
    seen = []

    def after(row, x, x_0):
        seen.append(row)
        return np.full_like(x, 0.25) if row == 2 else x

    assert np.all(run(table, curved_network, x_start(), step_noise, after=after) == 0.25) and seen == [0, 1, 2]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("nfe", (1, 5, 10, 21))
def test_a_budget_of_evaluations_is_kept(sampler, nfe):
    process = make_process(ProcessConfig())
    table = make_table(process, SamplingConfig(sampler, 999, nfe=nfe))
    assert nfe - 1 <= table.nfe <= nfe and (table.nfe == nfe or (sampler in ("heun", "flow_heun") and nfe % 2 == 0))
    assert steps_of(SamplingConfig(sampler, 7)) == 7


def test_every_sampler_of_the_configuration_has_a_row_and_owns_fields_of_it():
    assert tuple(SAMPLERS) == get_args(Sampler)
    fields = {field.name for field in dataclasses.fields(SamplingConfig)}
    assert all(set(row.options) <= fields for row in SAMPLERS.values())


@pytest.mark.parametrize("sampler", [name for name, row in SAMPLERS.items() if row.needs_signal])
def test_a_sampler_in_sigma_names_those_that_need_no_signal(sampler):
    with pytest.raises(ValueError, match=rf"'{sampler}'.*flow_euler"):
        make_table(make_process(ProcessConfig(zero_terminal_snr=True, prediction="v")), SamplingConfig(sampler, 5))


def test_another_sampler_starts_from_its_own_defaults():
    churned = SamplingConfig("heun", 9, "karras", churn=3.0, churn_min=0.1, clip=False)
    assert with_sampler(churned, "ddim") == SamplingConfig("ddim", 9, "karras", clip=False)
    assert with_sampler(churned, "euler") == replace(churned, sampler="euler")
    assert with_sampler(SamplingConfig("ddim", eta=0.5), "ddim").eta == 0.5
