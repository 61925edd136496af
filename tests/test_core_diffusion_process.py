"""Process tables against closed forms, exact arithmetic and the statistics of the forward process."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from core.config import ProcessConfig
from core.diffusion.noise import gaussian
from core.diffusion.process import (
    Process,
    coefficients,
    from_betas,
    make_process,
    predict_eps,
    predict_x0,
    q_sample,
    target,
)

TOLERANCE = 1e-12
INVERSION = 1e-10  # an eps-prediction divides by signal, which is 5e-5 where the cosine schedule ends
SIGMAS = 5
TABLES = set(Process.__dataclass_fields__) - {"config"}
PREDICTIONS = ("eps", "x0", "v")
CASES = [
    dict(schedule=schedule, zero_terminal_snr=zero, prediction=prediction)
    for schedule, zero, prediction in itertools.product(("linear", "cosine", "sigmoid"), (False, True), PREDICTIONS)
    if not (zero and prediction == "eps")
]


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
    assert np.max(np.abs(predict_eps(process, x_t, t, output) - eps)) < INVERSION


@pytest.mark.parametrize("weight", ("simple", "min_snr"))
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
        expected = {"eps": eps, "x0": x_0, "v": v}[prediction]
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
    assert list(values) == ["signal", "noise", "target_x0", "target_eps", "weight"]
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


def test_eps_without_signal_is_refused_by_name():
    with pytest.raises(ValueError, match=r"process\.prediction = 'eps'.*t = 1 .*prediction v or x0"):
        from_betas(np.array([0.1, 1.0]), ProcessConfig())
    with pytest.raises(ValueError, match=r"process\.prediction = 'eps'"):
        make_process(ProcessConfig(timesteps=4000, beta_end=0.9))
