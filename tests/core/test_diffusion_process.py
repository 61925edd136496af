"""Process tables against closed forms, exact arithmetic and the statistics of the forward process."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from core.config import ProcessConfig
from core.diffusion.grids import level_of
from core.diffusion.process import (
    Process,
    coefficients,
    from_betas,
    make_process,
    predict_x0,
    q_sample,
)
from core.random import gaussian

TOLERANCE = 1e-12
INVERSION = 1e-10  # an eps-prediction divides by signal, which is 5e-5 where the cosine schedule ends
SIGMAS = 5
TABLES = set(Process.__dataclass_fields__) - {"config"}
PREDICTIONS = ("eps", "x0", "v", "flow", "edm")
CASES = [
    dict(schedule=schedule, zero_terminal_snr=zero, prediction=prediction)
    for schedule, zero, prediction in itertools.product(("linear", "cosine", "sigmoid"), (False, True), PREDICTIONS)
    if not (zero and prediction == "eps")
]
CASES += [dict(schedule="flow", shift=shift, prediction=p) for shift in (1.0, 3.0) for p in ("x0", "flow", "edm")]
CASES += [
    dict(schedule="edm", sigma_data=data, prediction=p) for data in (0.5, 1.0) for p in ("eps", "x0", "flow", "edm")
]


def target(process, x_0, t, eps):
    """By the tables, as a twin gathers them."""
    a, b = (table[t].reshape(-1, 1, 1, 1) for table in (process.target_x0, process.target_eps))
    return a * x_0 + b * eps


def batch(process, seed=0):
    """Every t with its own small image and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(process.timesteps)
    return rng.uniform(-1, 1, (len(t), 2, 3, 1)), t, rng.standard_normal((len(t), 2, 3, 1))


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(map(str, o.values())))
def test_conversions_invert_the_forward_process_at_every_t(options):
    process = make_process(ProcessConfig(**options))
    x_0, t, eps = batch(process)
    x_t, output = q_sample(process, x_0, t, eps), target(process, x_0, t, eps)
    assert np.max(np.abs(predict_x0(process, x_t, t, output) - x_0)) < INVERSION
    p, q = (table[t].reshape(-1, 1, 1, 1) for table in (process.eps_from_xt, process.eps_from_output))
    assert np.max(np.abs(p * x_t + q * output - eps)) < INVERSION


@pytest.mark.parametrize("weight", ("simple", "min_snr", "p2", "edm"))
@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(map(str, o.values())))
def test_every_table_is_float64_finite_and_read_only(options, weight):
    process = make_process(ProcessConfig(**options, loss_weight=weight))
    for name in TABLES:
        table = getattr(process, name)
        assert table.shape == (1000,) and table.dtype == np.float64, name
        assert np.all(np.isfinite(table)), name
        with pytest.raises(ValueError):
            table[0] = 0


def test_targets_are_the_papers_definitions():
    for prediction in PREDICTIONS:
        process = make_process(ProcessConfig(prediction=prediction))
        x_0, t, eps = batch(process)
        alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[:, None, None, None]
        v = np.sqrt(alpha_bar) * eps - np.sqrt(1 - alpha_bar) * x_0
        sigma = np.sqrt(1 / alpha_bar - 1)
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / np.sqrt(sigma**2 + 0.25)  # Karras et al. 2022, table 1
        f = (x_0 - c_skip * (x_0 + sigma * eps)) / c_out  # eq. 8
        expected = {"eps": eps, "x0": x_0, "v": v, "flow": eps - x_0, "edm": f}[prediction]
        assert np.max(np.abs(target(process, x_0, t, eps) - expected)) < TOLERANCE


def test_signal_and_noise_in_exact_arithmetic():
    """1 - alphas_cumprod over rationals: float64's own 1 - cumprod is 1e-12 off at t = 0."""
    values = np.array([1e-4, 2e-4, 3e-3, 0.5])
    process = from_betas(values, ProcessConfig())
    alpha_bar = Fraction(1)
    for t, beta in enumerate(values):
        alpha_bar *= 1 - Fraction(beta)
        assert abs(process.noise[t] ** 2 / float(1 - alpha_bar) - 1) < 1e-15
        assert abs(process.signal[t] ** 2 / float(alpha_bar) - 1) < 1e-15
        assert abs(process.snr[t] / float(alpha_bar / (1 - alpha_bar)) - 1) < 2e-15


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) from the joint Gaussian of x_{t-1} and x_t given x_0, by its covariance."""
    process = make_process(ProcessConfig(schedule="cosine", timesteps=50))
    for t in range(1, 50):
        before, root = process.alphas_cumprod_prev[t], np.sqrt(process.alphas[t])
        variance = 1 - before  # of x_{t-1}; x_t = root x_{t-1} + sqrt(beta) z
        gain = variance * root / (root**2 * variance + process.betas[t])
        assert process.posterior_mean_coef2[t] == pytest.approx(gain, rel=1e-11)
        assert process.posterior_mean_coef1[t] == pytest.approx(np.sqrt(before) * (1 - gain * root), rel=1e-9)
        assert process.posterior_variance[t] == pytest.approx(variance * (1 - gain * root), rel=1e-9)
        assert process.posterior_log_variance_clipped[t] == pytest.approx(np.log(process.posterior_variance[t]))
    assert (process.posterior_variance[0], process.posterior_mean_coef2[0]) == (0, 0)
    assert process.posterior_mean_coef1[0] == pytest.approx(1, abs=1e-15)
    assert process.posterior_log_variance_clipped[0] == process.posterior_log_variance_clipped[1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(prediction):
    """weight * |output error|^2 = min(snr, gamma) * |x_0 error|^2, and x_0 error = q * output error."""
    process = make_process(ProcessConfig(prediction=prediction, loss_weight="min_snr", min_snr_gamma=3.0))
    expected = np.minimum(process.snr, 3.0) * process.x0_from_output**2
    assert np.max(np.abs(process.weight / expected - 1)) < 1e-11
    assert np.all(make_process(ProcessConfig(prediction=prediction)).weight == 1)


# The noise's error is the image's times the signal, which says nothing at a level without: the next test has that one.
WEIGHED = [("edm", o) for o in CASES]
WEIGHED += [("p2", o) for o in CASES if not o.get("zero_terminal_snr") and o["schedule"] != "flow"]


@pytest.mark.parametrize(("weight", "options"), WEIGHED)
def test_p2_and_edm_weigh_every_prediction_s_error_as_their_papers_do(weight, options):
    """On errors of a chosen output: p2 is 1 / (k + SNR)^gamma of the noise's, edm lambda(sigma) of the image's."""
    config = ProcessConfig(**options, loss_weight=weight, p2_k=0.7, p2_gamma=0.5)
    process = make_process(config)
    with np.errstate(divide="ignore"):
        sigma = process.noise / process.signal
        x0_error, eps_error = process.x0_from_output**2, process.eps_from_output**2
        if weight == "p2":
            expected = eps_error / (0.7 + sigma**-2.0) ** 0.5
        else:  # Karras et al. 2022, table 1, divided by sigma^2 so that an infinite one has a value
            expected = (1 + (config.sigma_data / sigma) ** 2) / config.sigma_data**2 * x0_error
    assert np.max(np.abs(process.weight / expected - 1)) < 1e-11


def test_weights_of_the_prediction_that_they_were_made_for():
    snr = make_process(ProcessConfig()).snr
    p2 = make_process(ProcessConfig(loss_weight="p2", p2_k=1.0, p2_gamma=0.5))
    assert np.max(np.abs(p2.weight * np.sqrt(1 + snr) - 1)) < TOLERANCE
    edm = make_process(ProcessConfig(schedule="edm", prediction="edm", loss_weight="edm", sigma_data=0.3))
    assert np.max(np.abs(edm.weight - 1)) < TOLERANCE
    # Without signal the noise's error is none, and lambda(sigma) is 1 / sigma_data^2.
    last = {
        w: make_process(ProcessConfig(schedule="flow", prediction="flow", loss_weight=w)).weight[-1]
        for w in ("p2", "edm")
    }
    assert last == {"p2": 0.0, "edm": 4.0}


@pytest.mark.parametrize("prediction", ("x0", "v"))
def test_zero_terminal_snr_is_exact_at_the_last_level(prediction):
    process = make_process(ProcessConfig(zero_terminal_snr=True, prediction=prediction, loss_weight="min_snr"))
    last = {name: getattr(process, name)[-1] for name in TABLES}
    assert (last["signal"], last["noise"], last["snr"], last["weight"]) == (0, 1, 0, 0)
    expected = {"x0": (1, 0, 0, 1, 1, 0), "v": (-1, 0, 0, -1, 1, 0)}[prediction]
    names = ("target_x0", "target_eps", "x0_from_xt", "x0_from_output", "eps_from_xt", "eps_from_output")
    assert tuple(last[name] for name in names) == expected


def test_forward_noise_statistics_at_every_t():
    """Mean signal x_0 and variance noise^2 of q_sample over 4,000 keyed draws a level, within 5 standard errors."""
    process = make_process(ProcessConfig(timesteps=40, schedule="cosine", zero_terminal_snr=True, prediction="v"))
    draws, x_0 = 4000, 0.7
    for t in range(40):
        eps = gaussian(11, "training_eps", [t], 0, (draws,))[0]
        x_t = q_sample(process, np.full((draws,), x_0), np.full(draws, t), eps)
        deviation = process.noise[t]
        assert abs(x_t.mean() - process.signal[t] * x_0) < SIGMAS * deviation / np.sqrt(draws)
        assert abs(x_t.var(ddof=1) / deviation**2 - 1) < SIGMAS * np.sqrt(2 / (draws - 1))


def test_coefficients_are_gathered_then_cast():
    process = make_process(ProcessConfig(prediction="v", loss_weight="min_snr"))
    t = np.array([999, 0, 0, 500])
    values = coefficients(process, t, np.float32)
    assert list(values) == ["time", "signal", "noise", "target_x0", "target_eps", "weight"]
    for name, value in values.items():
        assert value.dtype == np.float32 and value.shape == (4,)
        assert np.array_equal(value, getattr(process, name)[t].astype(np.float32))


@pytest.mark.parametrize("t", ([-1], [1000], [0.5], [[1]], [1, 2]))
def test_a_wrong_t_is_refused(t):
    process = make_process(ProcessConfig())
    with pytest.raises(ValueError, match=r"^t "):
        q_sample(process, np.zeros((1, 2, 2, 1)), np.array(t), np.zeros((1, 2, 2, 1)))


@pytest.mark.parametrize("values", ([0.1, 0.0], [1.0, 0.5], [0.1, 1.5], [0.1], [0.1, float("nan")]))
def test_wrong_betas_are_refused(values):
    with pytest.raises(ValueError, match="betas"):
        from_betas(np.array(values), ProcessConfig())


def test_flow_levels_and_times_are_those_of_diffusers_flow_matching():
    """By hand; test_diffusion_samplers has diffusers' scheduler itself."""
    process = make_process(ProcessConfig(10, "flow", prediction="flow"))
    assert np.max(np.abs(process.noise - np.arange(1, 11) / 10)) < 1e-16 and process.signal[-1] == 0
    assert np.array_equal(process.time, 10 * process.noise)
    shifted = make_process(ProcessConfig(4, "flow", shift=3.0, prediction="flow"))
    assert shifted.noise.tolist() == [0.5, 0.75, 0.9, 1.0] and shifted.signal.tolist() == [0.5, 0.25, 0.1, 0.0]


def test_edm_levels_are_even_in_log_sigma_and_scaled_by_c_in():
    process = make_process(ProcessConfig(18, "edm", prediction="edm"))
    sigma = process.noise / process.signal
    assert sigma[0] == pytest.approx(0.002, rel=1e-14) and sigma[-1] == pytest.approx(80, rel=1e-14)
    assert np.max(np.abs(np.diff(np.log(sigma)) / np.log(80 / 0.002) * 17 - 1)) < TOLERANCE
    assert np.max(np.abs(process.signal * np.sqrt(sigma**2 + 0.25) - 1)) < TOLERANCE
    c_noise = np.log(sigma) / 4  # the network's time is affine in it
    slope = (process.time[-1] - process.time[0]) / (c_noise[-1] - c_noise[0])
    assert np.max(np.abs((c_noise - c_noise[0]) * slope - process.time)) < 1e-11
    # D = c_skip y + c_out F, table 1, at y = x / c_in.
    c_skip, c_out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / np.sqrt(sigma**2 + 0.25)
    assert np.max(np.abs(process.x0_from_xt * process.signal / c_skip - 1)) < TOLERANCE
    assert np.max(np.abs(process.x0_from_output / c_out - 1)) < TOLERANCE


def test_the_input_and_target_of_edm_have_unit_variance():
    """What c_in, c_skip and c_out were made for (Karras et al. 2022, appendix B.6), on data of deviation sigma_data."""
    process = make_process(ProcessConfig(schedule="edm", prediction="edm", sigma_data=0.3))
    assert np.max(np.abs((0.3 * process.signal) ** 2 + process.noise**2 - 1)) < TOLERANCE
    assert np.max(np.abs((0.3 * process.target_x0) ** 2 + process.target_eps**2 - 1)) < TOLERANCE


def test_edm_of_unit_data_is_minus_v():
    edm, v = (make_process(ProcessConfig(prediction=name, sigma_data=1.0)) for name in ("edm", "v"))
    for a, b in ((edm.target_x0, v.target_x0), (edm.target_eps, v.target_eps), (edm.x0_from_output, v.x0_from_output)):
        assert np.max(np.abs(a + b)) < TOLERANCE


@pytest.mark.parametrize("options", [dict(schedule="flow", shift=2.0, prediction="x0"), dict(schedule="edm")])
def test_the_posterior_of_a_process_that_does_not_preserve_variance_is_bayes_rule(options):
    """x_t = ratio x_{t-1} + sqrt(beta) z with the noise of level t; the rest is the joint Gaussian's."""
    process = make_process(ProcessConfig(timesteps=40, **options))
    for t in range(1, 40):
        ratio, variance = process.signal[t] / process.signal[t - 1], process.noise[t - 1] ** 2
        assert process.betas[t] == pytest.approx(process.noise[t] ** 2 - ratio**2 * variance, rel=1e-11)
        gain = variance * ratio / process.noise[t] ** 2
        assert process.posterior_mean_coef2[t] == pytest.approx(gain, rel=1e-12, abs=1e-300)
        assert process.posterior_mean_coef1[t] == pytest.approx(
            process.signal[t - 1] - gain * process.signal[t], rel=1e-9
        )
        assert process.posterior_variance[t] == pytest.approx(variance * (1 - gain * ratio), rel=1e-9)
    assert process.posterior_variance[0] == process.posterior_mean_coef2[0] == 0
    assert process.posterior_mean_coef1[0] == 1


@pytest.mark.parametrize(
    "options", [dict(prediction="v"), dict(schedule="flow", shift=3.0, prediction="flow"), dict(schedule="edm")]
)
def test_a_level_between_levels_is_of_the_same_process(options):
    """At the levels themselves it is the table's, and in between neither signal nor noise leaves the curve."""
    process = make_process(ProcessConfig(timesteps=30, **options))
    with_signal = process.signal > 0
    half_log_snr = np.log(process.signal[with_signal] / process.noise[with_signal])
    for t, value in enumerate(half_log_snr):
        level = level_of(process, float(value))
        found = (level.t, level.signal, level.noise)
        assert found == pytest.approx((process.time[t], process.signal[t], process.noise[t]), rel=1e-12)
    middle = level_of(process, float(half_log_snr[3:5].mean()))
    assert process.time[3] < middle.t < process.time[4] and process.signal[3] > middle.signal > process.signal[4]
    curve = {
        "linear": middle.signal**2 + middle.noise**2,
        "flow": middle.signal + middle.noise,
        "edm": 0.25 * middle.signal**2 + middle.noise**2,
    }
    assert curve[process.config.schedule] == pytest.approx(1, abs=1e-15)
    assert np.log(middle.signal / middle.noise) == pytest.approx(middle.half_log_snr)


def test_eps_without_signal_is_refused_by_name():
    with pytest.raises(ValueError, match=r"process\.prediction = 'eps'.*t = 1\b.* v or x0"):
        from_betas(np.array([0.1, 1.0]), ProcessConfig())
    with pytest.raises(ValueError, match=r"process\.prediction = 'eps'"):
        make_process(ProcessConfig(timesteps=4000, beta_end=0.9))
