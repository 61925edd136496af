"""The timesteps that training draws: distributions, low discrepancy, importance by hand, and their checkpoint."""

import numpy as np
import pytest
from scipy import stats

from core.config import ProcessConfig, TrainingConfig
from core.diffusion.process import make_process
from core.training.levels import HISTORY, UNIFORM_SHARE, LevelSampler, log_normal
from eval.parity.tolerances import STATISTICS_SIGMA

EDM = make_process(ProcessConfig(40, "edm", prediction="edm"))
FLOW = make_process(ProcessConfig(40, "flow", prediction="flow"))


def sampler(process=EDM, **options):
    return LevelSampler(TrainingConfig(batch_size=options.pop("batch_size", 64), **options), process)


def losses_of(t):
    return 1.0 + 0.1 * t


def warm(levels, rounds=HISTORY):
    """A sampler that has seen ten losses of every timestep."""
    t = np.repeat(np.arange(levels.count), rounds)
    levels.note({"t": t, "importance": np.ones(len(t))}, {"losses": losses_of(t)})
    return levels


def test_log_normal_is_the_papers_density():
    """Table 1: ln sigma ~ N(-1.2, 1.2^2), by the share of draws below each midpoint."""
    log_sigma = np.log(EDM.noise / EDM.signal)
    p = log_normal(EDM, -1.2, 1.2)
    middles = (log_sigma[1:] + log_sigma[:-1]) / 2
    assert np.max(np.abs(np.cumsum(p)[:-1] - stats.norm.cdf(middles, -1.2, 1.2))) < 1e-12 and p.sum() == pytest.approx(
        1
    )
    drawn = np.random.default_rng(0).normal(-1.2, 1.2, 200_000)
    nearest = np.abs(drawn[:, None] - log_sigma).argmin(axis=1)
    share = np.bincount(nearest, minlength=40) / len(drawn)
    assert np.all(np.abs(share - p) <= STATISTICS_SIGMA * np.sqrt(p * (1 - p) / len(drawn)) + 1 / len(drawn))


def test_log_normal_on_a_flow_is_the_logit_normal_density_and_leaves_pure_noise_out():
    """Esser et al. 2024, eq. 19, integrated between the midpoints in logit(noise)."""
    p = log_normal(FLOW, 0.0, 1.0)
    logit = np.log(np.arange(1, 40) / np.arange(39, 0, -1))
    middles = (logit[1:] + logit[:-1]) / 2
    assert p[-1] == 0 and np.max(np.abs(np.cumsum(p)[: len(middles)] - stats.norm.cdf(middles))) < 1e-12


@pytest.mark.parametrize("stratified", (False, True))
@pytest.mark.parametrize("way", ("uniform", "log_normal", "importance"))
def test_draws_have_their_probabilities(way, stratified):
    levels = sampler(timestep_sampling=way, stratified=stratified, seed=3)
    if way == "importance":
        warm(levels)
    p = {"uniform": np.full(40, 1 / 40), "log_normal": log_normal(EDM, -1.2, 1.2)}.get(way, levels.probabilities())
    t = np.concatenate([levels.draw(step)[0] for step in range(300)])
    assert t.dtype == np.int64 and np.all((t >= 0) & (t < 40))
    error = np.abs(np.bincount(t, minlength=40) - p * len(t))
    assert np.all(error <= STATISTICS_SIGMA * np.sqrt(len(t) * p * (1 - p)) + 1)


@pytest.mark.parametrize("way", ("uniform", "log_normal", "importance"))
def test_a_stratified_batch_has_low_discrepancy(way):
    """Of B evenly spaced points on a circle, an arc of length c holds B c up to one, in every step."""
    levels = sampler(timestep_sampling=way, stratified=True)
    cumulative = np.cumsum(warm(levels).probabilities())
    for step in range(50):
        t, _ = levels.draw(step)
        below = np.cumsum(np.bincount(t, minlength=40))
        assert np.max(np.abs(below - 64 * cumulative)) <= 1 + 1e-9
    assert np.unique([levels.draw(step)[0][0] for step in range(50)]).size > 10


def test_plain_uniform_levels_are_those_that_they_were():
    """Uniform timesteps come from a stream of integers of their own, so that older runs go on exactly."""
    from core.random import integers

    t, factor = sampler().draw(7)
    assert np.array_equal(t, integers(0, "training_t", range(64), 7, 40)) and np.all(factor == 1)


def test_importance_by_hand():
    """Uniform until every level has ten losses; then the root of their mean square; the oldest goes first."""
    levels = LevelSampler(TrainingConfig(timestep_sampling="importance", batch_size=4), make_process(ProcessConfig(2)))
    warm(levels, 9)
    levels.note({"t": np.array([0]), "importance": np.ones(1)}, {"losses": np.array([np.nan])})
    assert levels.counts.tolist() == [9, 9] and np.all(levels.probabilities() == 0.5)
    # A loss comes weighted by its importance.
    levels.note({"t": np.array([0, 1]), "importance": np.array([2.0, 1.0])}, {"losses": np.array([2.0, 1.1])})
    p = np.array([1.0, 1.1]) / 2.1
    assert np.allclose(levels.probabilities(), (1 - UNIFORM_SHARE) * p + UNIFORM_SHARE / 2, rtol=1e-14)
    levels.note({"t": np.array([1, 1]), "importance": np.ones(2)}, {"losses": np.array([5.0, 7.0])})
    root = np.sqrt((8 * 1.1**2 + 25 + 49) / 10)
    assert levels.probabilities()[1] == pytest.approx((1 - UNIFORM_SHARE) * root / (1 + root) + UNIFORM_SHARE / 2)
    assert levels.history[1].tolist() == [1.1] * 8 + [5.0, 7.0]


def test_importance_keeps_the_mean_loss():
    """The sum over levels of p times the weighted loss is the plain mean, exactly; and no weight is above 1 / 0.001."""
    levels = warm(sampler(timestep_sampling="importance", batch_size=2000))
    t, factor = levels.draw(0)
    p = levels.probabilities()
    assert np.allclose(factor, 1 / (40 * p[t]), rtol=1e-14) and factor.max() <= 1 / UNIFORM_SHARE
    every = np.arange(40)
    assert np.sum(p * losses_of(every) / (40 * p)) == pytest.approx(losses_of(every).mean(), rel=1e-12)
    # Weighted losses are all but equal, which is what the method is for.
    assert np.std(losses_of(t) * factor) < 0.01 * np.std(losses_of(t))


def test_all_losses_zero_is_uniform():
    levels = sampler(timestep_sampling="importance")
    t = np.repeat(np.arange(40), HISTORY)
    levels.note({"t": t, "importance": np.ones(len(t))}, {"losses": np.zeros(len(t))})
    assert np.allclose(levels.probabilities(), 1 / 40)


def test_state_there_and_back():
    one, other = (sampler(timestep_sampling="importance", stratified=True) for _ in range(2))
    other.load(warm(one).state())
    for step in range(5):
        (t, factor), (t_other, factor_other) = one.draw(step), other.draw(step)
        assert np.array_equal(t, t_other) and np.array_equal(factor, factor_other)
        for levels in (one, other):
            levels.note({"t": t, "importance": factor}, {"losses": factor * losses_of(t) ** 2})
    assert all(np.array_equal(a, other.state()[n]) for n, a in one.state().items())
    assert sampler().state() == {} and sampler(timestep_sampling="log_normal").state() == {}
    with pytest.raises(ValueError, match=r"timesteps/history: missing; .* \(40, 10\)"):
        one.load({})
    with pytest.raises(ValueError, match=r"timesteps/history: \(2, 10\)"):
        one.load({"timesteps/history": np.zeros((2, 10)), "timesteps/counts": np.zeros(2)})
