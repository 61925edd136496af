"""Sampling tables against diffusers in float64, closed forms for Gaussian and mixture data, and identities."""

import dataclasses
import importlib
import inspect
import itertools
import json
import types

import numpy as np
import pytest
from scipy import optimize, stats

from core.checkpoints.scheduler_config import process_from_diffusers, sampling_from_diffusers, scheduler_to_diffusers
from core.config import ProcessConfig, SamplingConfig
from core.diffusion.grids import timesteps
from core.diffusion.process import from_betas, make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import Row, SamplingTable, run
from tests.numpy_impl.sampler import watching

LOOP = 1e-12  # a whole loop, max abs difference / max abs
SHAPE = (3, 4, 5, 2)


def curved_network(x, t):
    """Nonlinear in x and dependent on t, so that a wrong t, order or coefficient shows."""
    return np.tanh(1.3 * x + np.cos(0.01 * t)) + 0.2 * np.sin(3 * x)


def step_noise(index):
    return np.random.default_rng([5, index]).standard_normal(SHAPE)


def x_start():
    return np.random.default_rng(4).standard_normal(SHAPE)


def relative(a, b):
    assert a.shape == b.shape and np.all(np.isfinite(a)) and np.all(np.isfinite(b))
    return np.max(np.abs(a - b)) / np.max(np.abs(b))


def float64_copy(name):
    """A module of diffusers.schedulers re-executed in float64, with its noise taken from a list."""
    module = importlib.import_module(f"diffusers.schedulers.{name}")
    copy = types.ModuleType(f"diffusers.schedulers.{name}_float64")
    copy.__package__ = "diffusers.schedulers"
    exec(compile(inspect.getsource(module).replace("float32", "float64"), name, "exec"), copy.__dict__)
    return copy


def diffusers_loop(copy, scheduler, count, last_noise=True, **step_options):
    import torch

    draws = (step_noise(i) for i in itertools.count())
    count_drawn = itertools.count()

    def keyed(*_, **__):
        draw = next(draws)
        keep = last_noise or next(count_drawn) < count - 1
        return torch.from_numpy(draw if keep else np.zeros(SHAPE))

    copy.randn_tensor = keyed
    scheduler.set_timesteps(count)
    x = torch.from_numpy(x_start())
    for t in scheduler.timesteps:
        output = torch.from_numpy(curved_network(x.numpy(), float(t)))
        x = scheduler.step(output, t, x, **step_options).prev_sample
    assert x.dtype == torch.float64
    return x.numpy()


PROCESSES = {
    "linear-eps": dict(schedule="linear", prediction="eps"),
    "linear-x0": dict(schedule="linear", prediction="x0"),
    "cosine-v": dict(schedule="cosine", prediction="v"),
    "scaled-zero-v": dict(schedule="scaled_linear", prediction="v", zero_terminal_snr=True),
}
PEER_NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "cosine": "squaredcos_cap_v2"}


def peer_options(options, spacing):
    return dict(
        beta_schedule=PEER_NAMES.get(options["schedule"], options["schedule"]),
        prediction_type=PEER_NAMES[options["prediction"]],
        rescale_betas_zero_snr=options.get("zero_terminal_snr", False),
        timestep_spacing=spacing,
    )


@pytest.mark.diffusers
@pytest.mark.parametrize("clip", (True, False))
@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large"))
@pytest.mark.parametrize(("spacing", "count"), [("leading", 20), ("trailing", 20), ("trailing", 30), ("linspace", 30)])
@pytest.mark.parametrize("name", PROCESSES)
def test_ddpm_equals_diffusers(name, spacing, count, variance, clip):
    """diffusers adds noise to the final image where the grid does not end at t = 0; the test sets that draw to 0."""
    copy = float64_copy("scheduling_ddpm")
    options = PROCESSES[name]
    peer = copy.DDPMScheduler(variance_type=variance, clip_sample=clip, **peer_options(options, spacing))
    expected = diffusers_loop(copy, peer, count, last_noise=False)
    config = SamplingConfig("ddpm", count, spacing, variance=variance, clip=clip)
    ours = run(make_table(make_process(ProcessConfig(**options)), config), curved_network, x_start(), step_noise)
    assert relative(ours, expected) < LOOP


@pytest.mark.diffusers
@pytest.mark.parametrize("clip", (True, False))
@pytest.mark.parametrize("eta", (0.0, 0.4, 1.0))
@pytest.mark.parametrize(("spacing", "count"), [("leading", 20), ("trailing", 20), ("trailing", 50)])
@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_equals_diffusers_with_eps_from_the_clipped_image(name, spacing, count, eta, clip):
    copy = float64_copy("scheduling_ddim")
    options = PROCESSES[name]
    peer = copy.DDIMScheduler(clip_sample=clip, **peer_options(options, spacing))
    expected = diffusers_loop(copy, peer, count, eta=eta, use_clipped_model_output=True)
    config = SamplingConfig("ddim", count, spacing, eta=eta, clip=clip)
    ours = run(make_table(make_process(ProcessConfig(**options)), config), curved_network, x_start(), step_noise)
    assert relative(ours, expected) < LOOP


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, of NumPy 2
@pytest.mark.parametrize("clip", (True, False))
@pytest.mark.parametrize("spacing", ("trailing", "leading", "linspace"))
@pytest.mark.parametrize("count", (1, 2, 8, 20, 30))
@pytest.mark.parametrize("name", ["linear-eps", "linear-x0", "cosine-v"])
def test_dpmsolver_plus_plus_equals_diffusers(name, count, spacing, clip):
    """Dynamic thresholding with a maximum of 1 is the static clip, which diffusers does not have by itself here."""
    copy = float64_copy("scheduling_dpmsolver_multistep")
    options = PROCESSES[name]
    peer = copy.DPMSolverMultistepScheduler(
        solver_order=2, thresholding=clip, sample_max_value=1.0, **peer_options(options, spacing)
    )
    expected = diffusers_loop(copy, peer, count)
    config = SamplingConfig("dpmsolver++", count, spacing, clip=clip)
    ours = run(make_table(make_process(ProcessConfig(**options)), config), curved_network, x_start(), step_noise)
    assert relative(ours, expected) < LOOP


CLASSES = {"ddpm": "scheduling_ddpm", "ddim": "scheduling_ddim", "dpmsolver++": "scheduling_dpmsolver_multistep"}
WRITTEN = [
    SamplingConfig("ddpm", 20, "leading", variance="fixed_large"),
    SamplingConfig("ddpm", 20, "trailing", clip=False),
    SamplingConfig("ddpm", 30, "linspace"),
    SamplingConfig("ddim", 20, "leading", clip=False),
    SamplingConfig("ddim", 20, "trailing"),
    SamplingConfig("dpmsolver++", 20, "trailing"),
    SamplingConfig("dpmsolver++", 20, "linspace", clip=False),
    SamplingConfig("dpmsolver++", 20, "leading"),
]


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, of NumPy 2
@pytest.mark.parametrize(
    ("options", "config"),
    [
        pytest.param(options, config, id=f"{name}-{config.sampler}-{config.spacing}-{config.clip}")
        for name, options in {**PROCESSES, "sigmoid-v": dict(schedule="sigmoid", prediction="v")}.items()
        for config in WRITTEN
        # diffusers leaves 2^-24 of the signal there; it is said where such a file is read.
        if not (config.sampler == "dpmsolver++" and options.get("zero_terminal_snr"))
    ],
)
def test_a_scheduler_of_the_configuration_that_we_write_samples_what_we_sample(options, config):
    """Filled up with diffusers' defaults, the configuration still means the same process and sampler."""
    process = ProcessConfig(**options)
    written = json.loads(json.dumps(scheduler_to_diffusers(process, config)))
    copy = float64_copy(CLASSES[config.sampler])
    peer = getattr(copy, written["_class_name"]).from_config(written)
    step_options = {"use_clipped_model_output": True} if config.sampler == "ddim" else {}
    expected = diffusers_loop(copy, peer, config.steps, last_noise=False, **step_options)
    ours = run(make_table(make_process(process), config), curved_network, x_start(), step_noise)
    assert relative(ours, expected) < LOOP
    filled = dict(peer.config)
    assert process_from_diffusers(filled) == process
    found, notes = sampling_from_diffusers(filled)
    assert dataclasses.replace(found, steps=config.steps) == config and notes == []


DDIM, DPM_SOLVER = "DDIMScheduler", "DPMSolverMultistepScheduler"
NOT_FOLLOWED = [
    (dict(), "ddpm", []),
    (dict(steps_offset=1), "ddpm", ["steps_offset = 1"]),
    (dict(steps_offset=1, timestep_spacing="trailing"), "ddpm", []),
    (dict(clip_sample_range=2.0), "ddpm", ["clip_sample_range = 2.0"]),
    (dict(clip_sample_range=2.0, clip_sample=False), "ddpm", []),
    (dict(thresholding=True, sample_max_value=3.0), "ddpm", ["sample_max_value = 3.0"]),
    (dict(thresholding=True, clip_sample_range=2.0), "ddpm", []),
    (dict(variance_type="fixed_large"), "ddpm", []),
    (dict(variance_type="fixed_small_log"), "ddpm", []),
    (dict(variance_type="fixed_large", timestep_spacing="trailing"), "ddpm", ["adds noise to a final image"]),
    (dict(variance_type="fixed_large_log"), "ddpm", ["the root of a negative number"]),
    (dict(_class_name=DDIM, variance_type="fixed_large"), "ddim", []),
    (dict(_class_name=DDIM, set_alpha_to_one=False), "ddim", ["set_alpha_to_one = False"]),
    (dict(_class_name=DDIM, timestep_spacing="linspace"), "ddim", ["does not step to the grid's next point"]),
    (dict(_class_name=DPM_SOLVER, set_alpha_to_one=False), "dpmsolver++", []),
    (
        dict(_class_name=DPM_SOLVER, solver_order=3, use_karras_sigmas=True),
        "dpmsolver++",
        ["solver_order = 3", "use_karras_sigmas = True"],
    ),
    (
        dict(_class_name=DPM_SOLVER, algorithm_type="sde-dpmsolver++"),
        "dpmsolver++",
        ["algorithm_type = 'sde-dpmsolver++'"],
    ),
    (dict(_class_name=DPM_SOLVER, final_sigmas_type="sigma_min"), "dpmsolver++", ["final_sigmas_type = 'sigma_min'"]),
    (dict(_class_name=DPM_SOLVER, lambda_min_clipped=-5.1), "dpmsolver++", ["lambda_min_clipped = -5.1"]),
    (dict(_class_name=DPM_SOLVER, rescale_betas_zero_snr=True), "dpmsolver++", ["2^-24"]),
    (dict(_class_name="PNDMScheduler", set_alpha_to_one=False), "ddim", ["PNDMScheduler is not among our samplers"]),
]


@pytest.mark.parametrize(("values", "sampler", "expected"), NOT_FOLLOWED)
def test_what_a_scheduler_s_configuration_asks_and_we_do_otherwise_is_said_by_name(values, sampler, expected):
    config, notes = sampling_from_diffusers(values, "s.json")
    assert config.sampler == sampler and len(notes) == len(expected)
    for note, words in zip(notes, expected, strict=True):
        assert note.startswith("s.json: ") and words in note


def test_a_scheduler_s_defaults_are_those_of_its_class():
    def read(**values):
        return sampling_from_diffusers(values)[0]

    assert read(num_train_timesteps=250) == SamplingConfig("ddpm", 250, "leading")
    assert read(variance_type="fixed_large").variance == "fixed_large"
    assert read(_class_name=DDIM) == SamplingConfig("ddim", 50, "leading")
    assert read(_class_name=DDIM, num_train_timesteps=20).steps == 20
    assert read(_class_name=DPM_SOLVER, clip_sample=True) == SamplingConfig("dpmsolver++", 50, "linspace", clip=False)
    assert read(_class_name=DPM_SOLVER, thresholding=True).clip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(variance_type="learned_range"), "s.json: variance_type = 'learned_range' is not supported"),
        (dict(timestep_spacing="karras"), "s.json: timestep_spacing = 'karras' is not supported"),
    ],
)
def test_a_scheduler_that_cannot_be_sampled_is_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        sampling_from_diffusers(values, "s.json")
    assert message in str(error.value)


@pytest.mark.diffusers
def test_what_is_not_followed_changes_diffusers_samples():
    """Each option that is only noted changes diffusers' samples by far more than rounding."""
    copy = float64_copy("scheduling_ddim")
    for values, least in (
        (dict(steps_offset=1), 1e-4),
        (dict(set_alpha_to_one=False), 1e-4),
        (dict(clip_sample_range=2.0), 1e-2),
        (dict(timestep_spacing="linspace"), 1e-2),
    ):
        options = {"timestep_spacing": "leading", **values}
        peer = copy.DDIMScheduler(**options)
        expected = diffusers_loop(copy, peer, 20, use_clipped_model_output=True)
        config, notes = sampling_from_diffusers({"_class_name": DDIM, **options})
        table = make_table(make_process(ProcessConfig()), dataclasses.replace(config, steps=20))
        assert len(notes) == 1 and relative(run(table, curved_network, x_start(), step_noise), expected) > least


@pytest.mark.diffusers
@pytest.mark.parametrize("steps", (1, 2, 7, 30, 333, 1000))
def test_grids_equal_diffusers(steps):
    import diffusers

    for spacing in ("trailing", "leading", "linspace"):
        if steps == 1 and spacing != "trailing":
            continue
        peer = diffusers.DDPMScheduler(timestep_spacing=spacing)
        peer.set_timesteps(steps)
        assert timesteps(spacing, steps, 1000).tolist() == peer.timesteps.tolist()[:steps]


def gaussian_network(process, prediction, mean, deviation):
    """The optimal network for data N(mean, deviation^2): the exact posterior mean of x_0, as the output asked for."""

    def network(x, t, one=1.0):
        signal, noise = process.signal[int(t)], process.noise[int(t)]
        gain = signal * deviation**2 / (signal**2 * deviation**2 + noise**2)
        x_0 = mean * one + gain * (x - signal * mean * one)
        eps = (x - signal * x_0) / noise
        return {"x0": x_0, "eps": eps, "v": signal * eps - noise * x_0}[prediction]

    return network


def moments_through(table, network):
    """Mean and variance of the result, exactly: a state is its coefficients on (1, x_T, z_0, z_1, ...)."""
    basis = np.eye(table.nfe + 2)
    history = []
    run(
        table,
        lambda x, t: network(x, t, basis[0]),
        basis[1],
        lambda index: basis[index + 2],
        after=watching(lambda index, x, x_0: history.append((x[0], np.sum(x[1:] ** 2)))),
    )
    return np.array(history)


@pytest.mark.parametrize("prediction", ("eps", "x0", "v"))
@pytest.mark.parametrize("steps", (10, 250, 1000))
def test_ddpm_fixed_large_is_exact_for_unit_gaussian_data(steps, prediction):
    """For data N(0, 1) the reverse variance is beta itself (Ho et al. 2020, section 3.2): every x_t is N(0, 1)."""
    process = make_process(ProcessConfig(prediction=prediction))
    config = SamplingConfig("ddpm", steps, "trailing", variance="fixed_large", clip=False)
    history = moments_through(make_table(process, config), gaussian_network(process, prediction, 0.0, 1.0))
    assert np.max(np.abs(history[:-1, 1] - 1)) < 1e-11
    last = timesteps("trailing", steps, 1000)[-1]
    assert history[-1, 1] == pytest.approx(process.alphas_cumprod[last], rel=1e-11)


@pytest.mark.parametrize("prediction", ("x0", "v"))
@pytest.mark.parametrize("steps", (10, 250, 1000))
def test_ddpm_fixed_small_is_exact_for_a_single_image(steps, prediction):
    """For data that are one point the reverse variance is the posterior's: x_t ~ N(signal x_0, noise^2)."""
    process = make_process(ProcessConfig(prediction=prediction, zero_terminal_snr=True))
    config = SamplingConfig("ddpm", steps, "trailing", clip=False)
    history = moments_through(make_table(process, config), gaussian_network(process, prediction, 0.3, 0.0))
    reached = timesteps("trailing", steps, 1000)[1:]
    assert np.max(np.abs(history[:-1, 0] - 0.3 * process.signal[reached])) < 1e-12
    assert np.max(np.abs(history[:-1, 1] / process.noise[reached] ** 2 - 1)) < 1e-11
    assert history[-1] == pytest.approx([0.3, 0.0], abs=1e-12)


@pytest.mark.parametrize("eta", (0.0, 0.5, 1.0))
@pytest.mark.parametrize("spacing", ("leading", "trailing", "linspace"))
def test_ddim_moments_follow_the_linear_recursion(spacing, eta):
    """Song et al. 2021, eq. 12 and 16 with a linear network, mean and variance carried by hand."""
    process = make_process(ProcessConfig(prediction="v"))
    mean, deviation, steps = 0.3, 0.4, 37
    table = make_table(process, SamplingConfig("ddim", steps, spacing, eta=eta, clip=False))
    history = moments_through(table, gaussian_network(process, "v", mean, deviation))
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    grid = timesteps(spacing, steps, 1000)
    now_mean, now_variance = 0.0, 1.0
    for index, t in enumerate(grid):
        a, a_next = alpha_bar[t], alpha_bar[grid[index + 1]] if index + 1 < steps else 1.0
        sigma2 = eta**2 * (1 - a_next) / (1 - a) * (1 - a / a_next)
        gain = np.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        direction = np.sqrt(1 - a_next - sigma2) / np.sqrt(1 - a)
        slope = np.sqrt(a_next) * gain + direction * (1 - np.sqrt(a) * gain)
        shift = (np.sqrt(a_next) - direction * np.sqrt(a)) * mean * (1 - np.sqrt(a) * gain)
        now_mean, now_variance = slope * now_mean + shift, slope**2 * now_variance + sigma2
        assert history[index] == pytest.approx([now_mean, now_variance], rel=1e-10)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig("ddpm", 1000, "trailing", clip=False),
        SamplingConfig("ddpm", 1000, "trailing", variance="fixed_large", clip=False),
        SamplingConfig("ddim", 1000, "trailing", eta=1.0, clip=False),
        SamplingConfig("ddim", 200, "trailing", clip=False),
        SamplingConfig("dpmsolver++", 50, "trailing", clip=False),
    ],
    ids=lambda c: f"{c.sampler}-{c.variance}-{c.eta}",
)
def test_every_sampler_reproduces_gaussian_data(config):
    process = make_process(ProcessConfig(prediction="v", zero_terminal_snr=True))
    mean, variance = moments_through(make_table(process, config), gaussian_network(process, "v", -0.2, 0.5))[-1]
    assert mean == pytest.approx(-0.2, abs=3e-3) and variance == pytest.approx(0.25, rel=0.03)


# --- orders of convergence on a mixture -------------------------------------------------------------------------------

WEIGHTS, CENTRES, WIDTHS = np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.25, 0.15])


def mixture_network(process):
    def network(x, t):
        signal, noise = process.signal[int(t)], process.noise[int(t)]
        variances = (signal * WIDTHS) ** 2 + noise**2
        residual = x[:, None] - signal * CENTRES
        log_density = np.log(WEIGHTS) - 0.5 * np.log(variances) - residual**2 / (2 * variances)
        share = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        return np.sum(share * (CENTRES + signal * WIDTHS**2 / variances * residual), axis=1)

    return network


def quantile_flow(process, start, t_from, t_to):
    """The exact flow: in one dimension it keeps every quantile of the marginal distribution."""

    def cdf(x, t, upper):
        scale = np.sqrt((process.signal[t] * WIDTHS) ** 2 + process.noise[t] ** 2)
        tail = stats.norm.sf if upper else stats.norm.cdf
        return float(np.sum(WEIGHTS * tail((x - process.signal[t] * CENTRES) / scale)))

    def follow(x):
        upper = x > 0  # the smaller tail keeps its digits
        level = cdf(x, t_from, upper)
        return optimize.brentq(lambda y: cdf(y, t_to, upper) - level, -10, 10, xtol=1e-15, rtol=1e-14)

    return np.array([follow(x) for x in start])


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1.0), ("dpmsolver++", 2.0)])
def test_order_of_convergence(sampler, order):
    """Local slopes at 80, 160 and 320 steps, uniform in log-SNR from -5 to 5, before the step to the clean image."""
    fine = 320 * 4
    alpha_bar = 1 / (1 + np.exp(-2 * np.linspace(5, -5, fine)))
    process = from_betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]), ProcessConfig(prediction="x0"))
    start = np.array([-1.7, -0.6, -0.1, 0.4, 1.3])
    errors = []
    for steps in (80, 160, 320):
        table = make_table(process, SamplingConfig(sampler, steps, "trailing", clip=False))
        exact = quantile_flow(process, start, fine - 1, int(table.rows[-1].t))
        states = []
        run(
            table,
            mixture_network(process),
            start,
            step_noise,
            after=watching(lambda index, x, x_0, kept=states: kept.append(x)),
        )
        errors.append(np.max(np.abs(states[-2] - exact)))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.max(np.abs(slopes - order)) < 0.15, (errors, slopes)


@pytest.mark.parametrize("spacing", ("leading", "trailing", "linspace"))
@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_with_eta_1_is_ddpm_fixed_small(name, spacing):
    process = make_process(ProcessConfig(**PROCESSES[name]))
    ddim = make_table(process, SamplingConfig("ddim", 33, spacing, eta=1.0))
    ddpm = make_table(process, SamplingConfig("ddpm", 33, spacing))
    for a, b in zip(ddim.rows, ddpm.rows, strict=True):
        assert (a.t, a.p, a.q) == (b.t, b.p, b.q)
        assert np.max(np.abs(a.matrix - b.matrix)) < 1e-13 and abs(a.s - b.s) < 1e-14


@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_is_dpmsolver_plus_plus_of_order_1(name):
    """Equal in the first and last row; between them the two weights of the history add up to the order-1 weight."""
    process = make_process(ProcessConfig(**PROCESSES[name]))
    ddim = make_table(process, SamplingConfig("ddim", 33, "trailing"))
    second = make_table(process, SamplingConfig("dpmsolver++", 33, "trailing"))
    for index, (a, b) in enumerate(zip(ddim.rows, second.rows, strict=True)):
        line = b.matrix[0]
        history = line[1] if len(line) == 4 else 0.0
        assert abs(line[0] - a.matrix[0, 0]) < 1e-14 and abs(line[-2] + history - a.matrix[0, 1]) < 1e-13
        assert b.s == 0 and (history == 0) == (index in (0, 32) or (index == 1 and process.signal[-1] == 0))
        assert b.matrix.shape == (1 if index >= 31 else 2, 4 if 1 <= index <= 31 else 3)


def test_full_grid_ddpm_rows_are_the_process_s_posterior():
    process = make_process(ProcessConfig(timesteps=50, schedule="cosine", prediction="v"))
    for variance, expected in (("fixed_small", process.posterior_variance), ("fixed_large", process.betas)):
        for row in make_table(process, SamplingConfig("ddpm", 50, variance=variance)).rows:
            t = int(row.t)
            wanted = [process.posterior_mean_coef2[t], process.posterior_mean_coef1[t], 0.0]
            assert np.max(np.abs(row.matrix - wanted)) < 1e-13
            assert row.s**2 == pytest.approx(expected[t] if t > 0 else 0.0, rel=1e-11)


def test_grids_by_hand():
    assert timesteps("leading", 4, 10).tolist() == [6, 4, 2, 0]
    assert timesteps("trailing", 4, 10).tolist() == [9, 7, 4, 1]  # round(7.5) = 8, round(2.5) = 2
    assert timesteps("linspace", 4, 10).tolist() == [9, 6, 3, 0]
    assert timesteps("trailing", 1, 10).tolist() == [9]


@pytest.mark.parametrize("spacing", ("leading", "trailing", "linspace"))
def test_grids_are_descending_and_distinct_for_every_count(spacing):
    for T in (2, 7, 100):
        for steps in range(2, T + 1):
            grid = timesteps(spacing, steps, T)
            assert grid.dtype == np.int64 and len(grid) == steps
            assert np.all(np.diff(grid) < 0) and grid[-1] >= 0 and grid[0] <= T - 1
            assert spacing == "leading" or grid[0] == T - 1


@pytest.mark.parametrize("sampler", ("ddpm", "ddim", "dpmsolver++"))
def test_tables_are_finite_from_a_level_without_signal_to_the_clean_image(sampler):
    process = make_process(ProcessConfig(zero_terminal_snr=True, prediction="v"))
    for steps in (1, 2, 3, 50, 1000):
        table = make_table(process, SamplingConfig(sampler, steps))
        assert table.nfe == steps and table.name == sampler
        for row in table.rows:
            assert np.all(np.isfinite([row.t, row.p, row.q, row.s])) and np.all(np.isfinite(row.matrix))
        assert table.rows[-1].s == 0
        x_0 = run(table, curved_network, 3 * x_start(), step_noise)
        assert np.max(np.abs(x_0)) <= 1


def test_the_executor_on_a_table_by_hand():
    """Two rows with a growing history, a raw column, a clip that bites and noise on the first row only."""
    rows = (
        Row(7.0, 2.0, 1.0, np.array([[1.0, 10.0, 100.0], [0.0, 1.0, 0.0]]), 0.5),
        Row(3.0, 0.0, 1.0, np.array([[1.0, 1.0, 2.0, 0.0]]), 0.0),
    )
    seen, drawn = [], []

    def noise(index):
        drawn.append(index)
        return np.array([4.0])

    def network(x, t):
        seen.append((float(x[0]), t))
        return np.array([0.25])

    kept = []
    result = run(
        SamplingTable(rows, True, "by hand"),
        network,
        np.array([1.0]),
        noise,
        after=watching(lambda index, x, x_0: kept.append((index, float(x[0]), float(x_0[0])))),
    )
    # Row 0: raw 2.25, x0 1, x = 1 + 10 + 225 + 0.5 * 4 = 238. Row 1: raw = x0 = 0.25, x = 238 + 1 + 0.5.
    assert seen == [(1.0, 7.0), (238.0, 3.0)] and drawn == [0]
    assert kept == [(0, 238.0, 1.0), (1, 239.5, 0.25)] and result.tolist() == [239.5]
    free = run(SamplingTable(rows, False, "by hand"), network, np.array([1.0]), noise)
    assert free.tolist() == [1 + 22.5 + 225 + 2 + 2.25 + 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sampler="ddpm", eta=0.5), r"sampling\.eta = 0\.5.*ddpm"),
        (dict(sampler="dpmsolver++", eta=1.0), r"sampling\.eta = 1\.0.*dpmsolver"),
        (dict(sampler="ddim", variance="fixed_large"), r"sampling\.variance = 'fixed_large'.*ddim"),
        (
            dict(sampler="ddpm", variance="learned"),
            r"sampling\.variance = 'learned': must be fixed_small or fixed_large where process\.variance is fixed",
        ),
        (
            dict(sampler="dpmsolver++", steps=1000, spacing="linspace"),
            r"sampling\.steps = 1000 with spacing linspace: must be below",
        ),
        (dict(steps=1001), r"sampling\.steps = 1001.*1000"),
        (dict(steps=1, spacing="linspace"), r"sampling\.spacing = 'linspace'.*trailing"),
        (dict(steps=1, spacing="leading"), r"sampling\.spacing = 'leading'.*trailing"),
        (dict(sampler="plms"), r"sampling\.sampler = 'plms'.*ddpm, ddim"),
        (dict(spacing="even"), r"sampling\.spacing = 'even'.*leading, trailing"),
        (dict(sampler="unipc", order=4), r"sampling\.order = 4: must be at most 3 with sampler unipc"),
        (dict(sampler="dpmsolver++", order=2), r"sampling\.order = 2: must be 0 .* only unipc and ipndm have it"),
        (dict(sampler="ddim", churn=2.0), r"sampling\.churn = 2\.0.*only euler and heun have it"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_table(make_process(ProcessConfig()), SamplingConfig(**options))


# --- processes that do not preserve variance --------------------------------------------------------------------------

FLOW = ProcessConfig(schedule="flow", prediction="flow")
EDM = ProcessConfig(schedule="edm", prediction="edm")
SOLVERS = ("dpmsolver++", "dpmsolver++2s", "dpmsolver++3m", "sde-dpmsolver++", "unipc", "ipndm")
ANY = ("ddpm", "ddim", *SOLVERS, "flow_euler", "flow_heun")


def exact_network(process, mean, deviation):
    """The optimal network for N(mean, deviation^2) at any real t, in the process's prediction."""
    sigma_range = np.log(process.config.sigma_max / process.config.sigma_min)

    def network(x, t, one=1.0):
        if process.config.schedule == "flow":
            noise = t / process.timesteps
            signal = 1 - noise
        else:
            sigma = process.config.sigma_min * np.exp(sigma_range * t / (process.timesteps - 1))
            signal = 1 / np.hypot(sigma, process.config.sigma_data)
            noise = sigma * signal
        gain = signal * deviation**2 / (signal**2 * deviation**2 + noise**2)
        x_0 = mean * one + gain * (x - signal * mean * one)
        eps = (x - signal * x_0) / noise
        if process.config.prediction == "flow":
            return eps - x_0
        data = process.config.sigma_data
        return (noise / data * x_0 - data * signal * eps) / np.hypot(noise, data * signal)

    return network


@pytest.mark.parametrize("sampler", (*ANY, "euler", "heun"))
@pytest.mark.parametrize("config", (FLOW, EDM), ids=lambda c: c.schedule)
def test_every_sampler_reproduces_gaussian_data_on_flow_and_edm(config, sampler):
    if config is FLOW and sampler in ("euler", "heun"):
        with pytest.raises(ValueError, match=rf"use one of .*flow_{sampler}"):
            make_table(make_process(config), SamplingConfig(sampler, 100, clip=False))
        return
    process = make_process(config)
    count = 1000 if sampler in ("ddpm", "sde-dpmsolver++") else 200
    table = make_table(process, SamplingConfig(sampler, count, clip=False))
    assert table.start == process.noise[-1]
    mean, variance = moments_through(table, exact_network(process, -0.2, 0.5))[-1]
    assert mean == pytest.approx(-0.2, abs=4e-3) and variance == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize(
    ("config", "sampler", "order"),
    [
        (FLOW, "ddim", 1),
        (FLOW, "flow_euler", 1),
        (FLOW, "flow_heun", 2),
        (dataclasses.replace(FLOW, shift=3.0), "flow_euler", 1),
        (EDM, "ddim", 1),
        (EDM, "euler", 1),
        (EDM, "dpmsolver++", 2),
        (EDM, "heun", 2),
        (EDM, "flow_heun", 2),
    ],
)
def test_order_of_convergence_on_flow_and_edm(config, sampler, order):
    """Local slopes of the deviation before the last step against the exact flow, which keeps quantiles."""
    process, errors = make_process(dataclasses.replace(config, timesteps=8000)), []
    deviation = np.hypot(0.5 * process.signal, process.noise)  # of x_t, for data of deviation 1/2
    spread = dict(zip(process.time, deviation, strict=True))
    for steps in (100, 200, 400):
        table = make_table(process, SamplingConfig(sampler, steps, "trailing", clip=False))
        history = []
        network = exact_network(process, 0.0, 0.5)
        run(
            table,
            network,
            np.ones(1),
            step_noise,
            after=watching(lambda index, x, x_0, kept=history: kept.append(x[0])),
        )
        exact = table.start * spread[table.rows[-1].t] / spread[table.rows[0].t]
        errors.append(abs(history[-2] - exact) / exact)
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.max(np.abs(slopes - order)) < 0.3, (errors, slopes)


@pytest.mark.diffusers
@pytest.mark.parametrize("shift", (1.0, 3.0))
@pytest.mark.parametrize("count", (1, 7, 20))
def test_flow_euler_equals_diffusers(count, shift):
    """diffusers shifts the sigmas that it is given, so it gets ours before the shift."""
    import torch

    copy = float64_copy("scheduling_flow_match_euler_discrete")
    peer = copy.FlowMatchEulerDiscreteScheduler(shift=shift)
    x = torch.from_numpy(x_start())
    process = make_process(dataclasses.replace(FLOW, timesteps=1000, shift=shift))
    config = SamplingConfig("flow_euler", count, clip=False)
    grid = np.round(np.arange(count, 0, -1) * 1000 / count) / 1000  # of trailing
    peer.set_timesteps(sigmas=grid.tolist())
    table = make_table(process, config)
    assert np.max(np.abs(np.array([row.t for row in table.rows]) - peer.timesteps.numpy())) < 1e-10
    for t in peer.timesteps:
        x = peer.step(torch.from_numpy(curved_network(x.numpy(), float(t))), t, x).prev_sample
    assert x.dtype == torch.float64
    assert relative(run(table, curved_network, x_start(), step_noise), x.numpy()) < LOOP


def denoiser(network, config, x, sigma):
    """Karras et al. 2022, eq. 7: D(x; sigma) of a raw network F, whose time is c_noise stretched to [0, T - 1]."""
    data = config.sigma_data
    c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / np.sqrt(sigma**2 + data**2)
    c_in, c_noise = 1 / np.sqrt(sigma**2 + data**2), np.log(sigma) / 4
    low, high = np.log(config.sigma_min) / 4, np.log(config.sigma_max) / 4
    t = (c_noise - low) / (high - low) * (config.timesteps - 1)
    return c_skip * x + c_out * network(c_in * x, min(t, config.timesteps - 1.0))


@pytest.mark.parametrize(
    "churn", ({}, dict(churn=10.0, churn_noise=1.007, churn_min=0.05, churn_max=50.0), dict(churn=5.0))
)
@pytest.mark.parametrize("spacing", ("karras", "trailing"))
def test_heun_on_edm_is_the_papers_algorithm_2(spacing, churn):
    """Algorithm 2 in sigma and unscaled x, on the grid of eq. 5 with 18 steps and on a part of the training grid."""
    config = EDM
    n, process = 18, make_process(config)
    if spacing == "karras":
        ends = config.sigma_max ** (1 / 7), config.sigma_min ** (1 / 7)
        sigmas = [*((ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** 7 for i in range(n)), 0.0]
    else:
        sigmas = [*(process.noise / process.signal)[timesteps("trailing", n, 1000)], 0.0]
    options = SamplingConfig("heun", n, spacing, clip=False, **churn)
    x = x_T = x_start()
    rows, last = iter(range(2 * n)), 0
    # A draw is keyed by the row before the evaluation that it precedes; the first one is part of the first state.
    for i in range(n):
        sigma, after = sigmas[i], sigmas[i + 1]
        churned = options.churn and options.churn_min <= sigma <= (options.churn_max or np.inf)
        gamma = min(options.churn / n, np.sqrt(2) - 1) if churned else 0.0
        higher = sigma * (1 + gamma)
        added = np.sqrt(higher**2 - sigma**2) * options.churn_noise
        # The first state is one draw of the variance of both.
        x = np.hypot(sigma, added) * x_T if i == 0 else x + added * step_noise(last)
        slope = (x - denoiser(curved_network, config, x, higher)) / higher
        euler = x + (after - higher) * slope
        last = next(rows)
        if after:
            again = (euler - denoiser(curved_network, config, euler, after)) / after
            euler = x + (after - higher) * (slope + again) / 2
            last = next(rows)
        x = euler
    table = make_table(process, options)
    assert table.nfe == 2 * n - 1
    assert relative(run(table, curved_network, x_T, step_noise), x) < 1e-11


@pytest.mark.parametrize(
    ("process", "options", "message"),
    [
        (FLOW, dict(spacing="log_snr"), r"sampling\.spacing = 'log_snr': level t = 999 holds no signal"),
        (FLOW, dict(spacing="karras"), r"sampling\.spacing = 'karras': level t = 999 holds no signal"),
        (FLOW, dict(sampler="heun"), r"use one of .*flow_heun"),
        (
            FLOW,
            dict(sampler="ddpm", variance="fixed_large"),
            r"sampling\.variance = 'fixed_large' with process\.schedule = 'flow'",
        ),
        (
            EDM,
            dict(sampler="ddpm", variance="fixed_large"),
            r"sampling\.variance = 'fixed_large' with process\.schedule = 'edm'",
        ),
    ],
)
def test_what_flow_and_edm_cannot_do_is_refused(process, options, message):
    with pytest.raises(ValueError, match=message):
        make_table(make_process(process), SamplingConfig(**options))


def test_equal_neighbouring_levels_are_refused():
    """A schedule so steep that its last levels are all pure noise in float64."""
    process = make_process(ProcessConfig(timesteps=4000, beta_end=0.9, prediction="v"))
    for sampler in ("ddpm", "ddim", "dpmsolver++"):
        with pytest.raises(ValueError, match="t = 3999"):
            make_table(process, SamplingConfig(sampler, 4000))
