"""Likelihoods against closed forms: Gaussian pixels, whose optimal network, entropy and flow are known."""

import math

import numpy as np
import pytest
from scipy import special, stats

from core.config import ProcessConfig
from core.diffusion.bound import decoder, log_interval, prior, quantised, reverse_log_variance, term
from core.diffusion.flow_density import exact_probes, log_density
from core.diffusion.predictions import conversions
from core.diffusion.process import from_betas, make_process

MEAN, DEVIATION = 0.1, 0.25
LEVELS = np.arange(256) / 127.5 - 1
LEARNED = {"variance": "learned", "loss": "hybrid"}
CLOSE = 1e-3
"""Bits per dimension."""


def optimal(process, x, t, mean=MEAN, deviation=DEVIATION):
    """The output of the optimal network for pixels N(mean, deviation^2), at any level."""
    signal, noise = process.signal[t], process.noise[t]
    eps = noise * (x - signal * mean) / (signal**2 * deviation**2 + noise**2)
    return (eps - process.eps_from_xt[t] * x) / process.eps_from_output[t] if signal else eps - mean


def optimal_fraction(process, t):
    """Where the variance of x_{t-1} given x_t lies between the two bounds, as the network's output in [-1, 1]."""
    # The posterior's variance, and that of its mean: coefficient of x_0 times the variance of x_0 given x_t.
    signal, noise = process.signal[t], process.noise[t]
    spread = DEVIATION**2 * noise**2 / (signal**2 * DEVIATION**2 + noise**2)
    variance = process.posterior_variance[t] + process.posterior_mean_coef1[t] ** 2 * spread
    low, high = process.posterior_log_variance_clipped[t], np.log(process.betas[t])
    return 2 * (np.log(variance) - low) / (high - low) - 1, variance


def probabilities():
    return np.exp(log_interval(*edges(LEVELS, MEAN, DEVIATION)))


def edges(x, mean, deviation):
    low, high = (x - 1 / 255 - mean) / deviation, (x + 1 / 255 - mean) / deviation
    return np.where(x < -0.999, -np.inf, low), np.where(x > 0.999, np.inf, high)


def expected_bound(process, variance):
    """The bound's expectation over the 256 grey levels, and over noise by Gauss-Hermite points."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = np.outer(probabilities(), weights / weights.sum()).ravel()
    x_0 = np.repeat(LEVELS, len(nodes)).reshape(-1, 1, 1, 1)
    eps = np.tile(nodes, 256).reshape(-1, 1, 1, 1)
    total = [weights @ prior(process, x_0)]
    for t in range(process.timesteps):  # of a flow's last level the network knows the mean alone
        x_t = process.signal[t] * x_0 + process.noise[t] * eps
        output = optimal(process, x_t, t)
        if variance == "learned":
            output = np.concatenate([output, np.full_like(output, optimal_fraction(process, t)[0])], axis=-1)
        total.append(weights @ term(process, x_0, x_t, np.full(len(x_0), t), output, variance, clip=False))
    return np.array(total)


def entropy():
    p = probabilities()
    return -np.sum(p * np.log2(p))


def test_the_interval_s_probability_is_exact_in_both_tails():
    low = np.array([-60.0, -38.5, -30.0, -3.0, -0.1, 0.0, 2.0, 24.99, 25.0, 30.0, 70.0, -np.inf, 1.0, -np.inf])
    high = np.array([-59.9, -38.0, -29.0, 4.0, 0.2, 0.1, 2.1, 25.2, 26.0, 30.01, 71.0, -2.0, np.inf, 3.0])
    expected = []
    for a, b in zip(low, high, strict=True):
        a, b = (-b, -a) if a + b > 0 else (a, b)  # so that log_ndtr keeps its digits
        above, below = special.log_ndtr(b), special.log_ndtr(a) if np.isfinite(a) else -np.inf
        expected.append(above + math.log1p(-math.exp(below - above)))
    assert log_interval(low, high) == pytest.approx(np.array(expected), rel=1e-9)


def test_the_decoder_s_bins_share_out_the_whole_probability():
    for mean, deviation in ((0.3, 0.01), (-1.2, 0.3), (0.999, 1e-3)):
        nats = decoder(LEVELS, np.full(256, mean), np.full(256, 2 * math.log(deviation)))
        assert np.exp(-nats).sum() == pytest.approx(1, rel=1e-9)
    inner = decoder(LEVELS[100:101], np.array([0.0]), np.array([2 * math.log(0.2)]))
    low, high = stats.norm.cdf([(LEVELS[100] - 1 / 255) / 0.2, (LEVELS[100] + 1 / 255) / 0.2])
    assert inner[0] == pytest.approx(-math.log(high - low), rel=1e-10)


def test_images_are_rounded_to_the_256_levels():
    assert quantised(np.array([0.0, 1.0, 0.4999 / 255, 0.5001 / 255, 1.5])).tolist() == [-1, 1, -1, 1 / 127.5 - 1, 1]
    assert np.max(np.abs(quantised(np.arange(256) / 255) - LEVELS)) < 1e-15


@pytest.mark.parametrize(("steps", "prediction"), [(1000, "eps"), (100, "v"), (40, "x0")])
def test_with_the_optimal_variance_the_bound_is_the_entropy_at_any_number_of_levels(steps, prediction):
    """The reverse process is exact: only p(x_T) against N(0, 1) is left, and bins narrow beside the first noise."""
    process = make_process(
        ProcessConfig(steps, prediction=prediction, beta_start=1e-3, beta_end=0.02 * 1000 / steps, **LEARNED)
    )
    terms = expected_bound(process, "learned")
    # p(x_T) is N(signal mean, signal^2 deviation^2 + noise^2), not N(0, 1).
    variance = process.signal[-1] ** 2 * DEVIATION**2 + process.noise[-1] ** 2
    gap = 0.5 * (variance + (process.signal[-1] * MEAN) ** 2 - 1 - math.log(variance)) / math.log(2)
    print(f"{steps} levels: bound {terms.sum():.6f}, entropy {entropy():.6f}, of which x_T {gap:.1e}")
    assert terms.sum() - gap == pytest.approx(entropy(), abs=CLOSE)


@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large"))
def test_with_a_fixed_variance_the_bound_comes_down_to_the_entropy_as_levels_are_added(variance):
    """Even steps in log-SNR; the gap falls as their size. The decoder, of Ho et al.'s variance, is left out."""
    gaps = []
    for steps in (500, 1000, 2000):
        alpha_bar = 1 / (1 + np.exp(-2 * np.linspace(4.6, -4.6, steps)))
        process = from_betas(
            1 - alpha_bar / np.append(1.0, alpha_bar[:-1]), ProcessConfig(steps, prediction="v", **LEARNED)
        )
        gaps.append((expected_bound(process, variance) - expected_bound(process, "learned"))[2:].sum())
    print(f"{variance}: {gaps[0]:.5f}, {gaps[1]:.5f}, {gaps[2]:.5f} bits above the exact reverse process")
    assert min(gaps) > 0 and gaps[-1] < gaps[-2] < gaps[-3]
    assert gaps[-3] / gaps[-1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(
    ("options", "variance"),
    [
        ({"prediction": "v", "schedule": "cosine"}, "fixed_small"),
        ({"prediction": "v", "schedule": "cosine"}, "fixed_large"),
        ({"prediction": "v", "schedule": "cosine", **LEARNED}, "learned"),
        ({"prediction": "flow", "schedule": "flow"}, "fixed_small"),
        ({"prediction": "edm", "schedule": "edm"}, "fixed_small"),
    ],
)
def test_every_level_s_divergence_has_its_closed_form(options, variance):
    """E KL = (log(v / q) + (q + E (mean difference)^2) / v - 1) / 2, the difference's mean square in closed form."""
    process = make_process(ProcessConfig(50, **options))
    terms = expected_bound(process, variance)
    signal, noise = process.signal[-1], process.noise[-1]
    start = 1.0 if process.config.variance_preserving else noise  # sampling starts from noise alone
    square = probabilities() @ LEVELS**2
    nats = 0.5 * ((noise**2 + signal**2 * square) / start**2 - 1 - 2 * math.log(noise / start))
    assert terms[0] == pytest.approx(nats / math.log(2), rel=1e-9, abs=1e-15)
    terms = terms[1:]
    p = probabilities()
    mean = p @ LEVELS
    spread = p @ (LEVELS - mean) ** 2  # of the grey levels; the network takes them for DEVIATION^2
    for t in range(1, 50):
        signal, noise = process.signal[t], process.noise[t]
        total = signal**2 * DEVIATION**2 + noise**2
        # x_0 - x0_hat = (1 - k signal) (x_0 - MEAN) - k noise eps
        k = signal * DEVIATION**2 / total
        error = (1 - k * signal) ** 2 * (spread + (mean - MEAN) ** 2) + (k * noise) ** 2
        q = process.posterior_variance[t]
        v = {"fixed_small": q, "fixed_large": process.betas[t], "learned": optimal_fraction(process, t)[1]}[variance]
        nats = 0.5 * (math.log(v / q) + (q + process.posterior_mean_coef1[t] ** 2 * error) / v - 1)
        assert terms[t] == pytest.approx(nats / math.log(2), rel=1e-9)


def test_the_variance_at_t_0_is_the_paper_s_and_a_learned_one_spans_the_two():
    process = make_process(ProcessConfig(10, **LEARNED))
    like, t = np.zeros((10, 1, 1, 2)), np.arange(10)
    small, large = (
        reverse_log_variance(process, t, name, like, like)[:, 0, 0, 0] for name in ("fixed_small", "fixed_large")
    )
    assert np.exp(small[1:]) == pytest.approx(process.posterior_variance[1:]) and small[0] == small[1] == large[0]
    assert np.exp(large[1:]) == pytest.approx(process.betas[1:])
    for fraction, expected in ((-1.0, small), (1.0, np.log(process.betas)), (0.0, (small + np.log(process.betas)) / 2)):
        learned = reverse_log_variance(process, t, "learned", like + fraction, like)
        assert learned[:, 0, 0, 1] == pytest.approx(expected)
    flow = make_process(ProcessConfig(10, schedule="flow", prediction="flow"))
    with pytest.raises(
        ValueError, match=r"variance = 'fixed_large' with process.schedule = 'flow': must be fixed_small"
    ):
        reverse_log_variance(flow, t, "fixed_large", like, like)
    with pytest.raises(ValueError, match=r"variance = 'learned': must be fixed_small or fixed_large"):
        reverse_log_variance(make_process(ProcessConfig(10)), t, "learned", like, like)


def test_clipping_the_predicted_image_lowers_the_bound_where_it_is_wrong():
    process = make_process(ProcessConfig(10, prediction="x0"))
    x_0, t = np.ones((1, 2, 2, 1)), np.array([4])
    x_t = process.signal[4] * x_0
    free, clipped = (term(process, x_0, x_t, t, 3 * x_0, "fixed_small", clip)[0] for clip in (False, True))
    assert clipped == pytest.approx(0, abs=1e-12) and free > 1


# --- the flow ---------------------------------------------------------------------------------------------------------


class GaussianFlow:
    """Optimal network for correlated Gaussian pixels, with its product from the left, at any noise level."""

    def __init__(self, process, mean, covariance):
        self.process, self.mean, self.covariance, self.calls = process, mean, covariance, 0

    def gain(self, t):
        """Signal, noise, and the matrix of eps_hat = (x - signal mean) gain."""
        config = self.process.config
        if config.schedule == "flow":
            signal, noise = 1 - t / config.timesteps, t / config.timesteps
        else:
            known = np.log(self.process.signal / self.process.noise)
            signal, noise = config.signal_and_noise(float(np.interp(t, self.process.time, known)))
        return signal, noise, noise * np.linalg.inv(signal**2 * self.covariance + noise**2 * np.eye(len(self.mean)))

    def __call__(self, x, t, v):
        self.calls += 1
        signal, noise, gain = self.gain(t)
        given = conversions(np.array([signal]), np.array([noise]), self.process.config)
        p, q = given["eps_from_xt"][0], given["eps_from_output"][0]
        flat = x.reshape(len(x), -1)
        output = ((flat - signal * self.mean) @ gain - p * flat) / q
        return output.reshape(x.shape), (v.reshape(len(x), -1) @ (gain - p * np.eye(len(gain))) / q).reshape(x.shape)


SHAPE = (2, 2, 1)


def gaussian_case():
    rng = np.random.default_rng(0)
    root = 0.3 * rng.standard_normal((4, 4))
    return rng.uniform(-0.3, 0.3, 4), root @ root.T + 0.01 * np.eye(4)


def exact_log_density(process, mean, covariance, x):
    """The flow keeps each direction's standard score, from x / signal at t = 0 to N(0, 1) at the last level."""
    values, vectors = np.linalg.eigh(covariance)
    last = np.flatnonzero(process.signal)[-1]
    (signal, end), (noise, end_noise) = ((table[0], table[last]) for table in (process.signal, process.noise))
    end, end_noise = np.array([end, end_noise]) / np.hypot(end, end_noise)
    scale = np.sqrt((signal**2 * values + noise**2) / (end**2 * values + end_noise**2)) / signal
    centre = vectors.T @ mean
    z = ((x.reshape(len(x), -1) @ vectors) - centre) / scale + end * centre
    return np.sum(stats.norm.logpdf(z) - np.log(scale), axis=1), z @ vectors.T


PROCESSES = {
    "eps": ProcessConfig(),
    "v": ProcessConfig(schedule="cosine", prediction="v"),
    "flow": ProcessConfig(schedule="flow", prediction="flow"),
    "edm": ProcessConfig(schedule="edm", prediction="edm"),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_flow_s_density_of_gaussian_data_is_exact_and_converges_at_fourth_order(name):
    process, (mean, covariance) = make_process(PROCESSES[name]), gaussian_case()
    x = np.random.default_rng(1).multivariate_normal(mean, covariance, 7).reshape(7, *SHAPE)
    expected, end = exact_log_density(process, mean, covariance, x)
    errors = []
    for steps in (16, 32, 64):
        network = GaussianFlow(process, mean, covariance)
        found, z = log_density(process, network, x, exact_probes(SHAPE), steps)
        assert network.calls == 4 * steps * 4 and z.shape == x.shape
        errors.append(np.max(np.abs(found - expected)) / 4 / math.log(2))
    print(f"{name}: bits per dimension off by {errors[0]:.1e}, {errors[1]:.1e}, {errors[2]:.1e}")
    assert errors[-1] < CLOSE and np.max(np.abs(z.reshape(7, -1) - end)) < 1e-3
    assert np.log2(errors[0] / errors[-1]) / 2 > 3.5


def test_the_flow_s_density_has_the_entropy_of_gaussian_data_for_its_mean():
    """Cross-entropy of N(m, s^2) with the flow's Gaussian, whose variance is s^2 + sigma_0^2, in closed form."""
    process = make_process(ProcessConfig())
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    network = GaussianFlow(process, np.array([MEAN]), np.array([[DEVIATION**2]]))
    x = (MEAN + DEVIATION * nodes).reshape(-1, 1, 1, 1)
    found, _ = log_density(process, network, x, exact_probes((1, 1, 1)), 64)
    bits = -(weights / weights.sum()) @ found / math.log(2)
    variance = DEVIATION**2 + (process.noise[0] / process.signal[0]) ** 2
    expected = 0.5 * (math.log(2 * math.pi * variance) + DEVIATION**2 / variance) / math.log(2)
    assert bits == pytest.approx(expected, abs=CLOSE)
    assert bits == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * DEVIATION**2), abs=2e-3)


@pytest.mark.parametrize("kind", ("rademacher", "normal"))
def test_hutchinson_s_estimate_agrees_with_the_exact_trace(kind):
    process, (mean, covariance) = make_process(ProcessConfig()), gaussian_case()
    rng, count = np.random.default_rng(2), 400
    x = np.repeat(rng.multivariate_normal(mean, covariance, 1).reshape(1, *SHAPE), count, axis=0)
    probes = (
        rng.choice([-1.0, 1.0], (1, count, *SHAPE)) if kind == "rademacher" else rng.standard_normal((1, count, *SHAPE))
    )
    network = GaussianFlow(process, mean, covariance)
    estimates, _ = log_density(process, network, x, probes, 16)
    exact, _ = log_density(process, network, x[:1], exact_probes(SHAPE), 16)
    error = estimates.std(ddof=1) / math.sqrt(count)
    assert error > 0 and abs(estimates.mean() - exact[0]) < 5 * error
    half = np.concatenate([probes[:, ::2], probes[:, 1::2]]) / math.sqrt(2)
    two, _ = log_density(process, network, x[::2], half, 16)
    assert two.std() < 0.85 * estimates.std()  # two probes: 1 / sqrt(2)


def test_a_process_without_signal_at_its_end_has_no_flow_in_log_snr():
    process = make_process(ProcessConfig(zero_terminal_snr=True, prediction="v"))
    with pytest.raises(ValueError, match="holds no signal"):
        log_density(process, None, np.zeros((1, *SHAPE)), exact_probes(SHAPE), 4)
