"""Posterior sampling against the exact posterior of Gaussian images, by chi-squared tests; and the study's tables."""

import json

import numpy as np
import pytest

from core.config import SamplingConfig
from core.diffusion.samplers import grid_of
from eval.studies import posterior
from eval.studies.gaussian_posterior import (
    COVARIANCE,
    MEAN,
    MEASUREMENTS,
    PIXELS,
    PROCESS,
    SHAPE,
    Problem,
    compare,
    exact_covariance,
    network,
)

DRAWS = 2000
SAMPLINGS = {"ddim, 1,000": posterior.DDIM, "dpmsolver++, 50": posterior.FEW}


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_pigdm_with_the_exact_covariance_draws_from_the_posterior(name, sampling):
    problem = Problem(MEASUREMENTS[name])
    found = compare(problem.draw(problem.observed(exact=True), SAMPLINGS[sampling], DRAWS), *problem.posterior)
    print(name, sampling, found)
    assert found["p_mean"] > 1e-3 and found["p_covariance"] > 1e-3
    assert found["error"] < 0.05 and abs(found["variance"] - 1) < 0.05


@pytest.mark.parametrize("how", [{}, {"method": "dps", "step": 0.3}])
def test_the_approximations_are_found_to_be_biased(how):
    problem, sampling = Problem(MEASUREMENTS["mask"]), SamplingConfig("ddim", 200, "log_snr", clip=False)
    found = compare(problem.draw(problem.observed(**how), sampling, DRAWS), *problem.posterior)
    assert found["p_mean"] < 1e-6 and found["p_covariance"] < 1e-6


def test_the_tests_accept_exact_draws_at_their_rate_and_refuse_small_errors():
    rng, problem = np.random.default_rng(0), Problem(MEASUREMENTS["blur"])
    mean, covariance = problem.posterior
    found = [compare(rng.multivariate_normal(mean, covariance, DRAWS), mean, covariance) for _ in range(200)]
    for key in ("p_mean", "p_covariance"):
        values = np.sort([result[key] for result in found])
        assert np.abs(values - (np.arange(200) + 0.5) / 200).max() < 0.12  # Kolmogorov and Smirnov, p = 0.006
    draws = rng.multivariate_normal(mean, covariance, DRAWS)
    shift = np.linalg.cholesky(covariance) @ np.full(PIXELS, 0.06)
    assert compare(draws + shift, mean, covariance)["p_mean"] < 1e-3
    assert compare(mean + 1.05 * (draws - mean), mean, covariance)["p_covariance"] < 1e-3


def test_the_network_and_the_exact_posterior_are_those_of_the_gaussian():
    """By regression on many draws of (x_0, x_t), and of (x_0, y)."""
    rng, levels = np.random.default_rng(0), grid_of(PROCESS, posterior.FEW)
    level = levels[25]
    x_0 = rng.multivariate_normal(MEAN, COVARIANCE, 200_000)
    eps = rng.standard_normal(x_0.shape)
    x_t = (level.signal * x_0 + level.noise * eps).reshape(-1, *SHAPE)
    output, _ = network(levels)(x_t, level.t, np.zeros_like)
    error = x_0 - (level.signal * x_t - level.noise * output).reshape(len(x_0), -1)
    assert np.cov(error.T) == pytest.approx(exact_covariance(level), abs=3e-3)
    assert np.abs(np.mean(error[:, :, None] * x_t.reshape(len(x_t), 1, -1)[:, :, :4], axis=0)).max() < 3e-3
    problem = Problem(MEASUREMENTS["downscale"])
    measured = problem.operator.forward((x_0.reshape(-1, *SHAPE) + 1) / 2).reshape(len(x_0), -1)
    near = np.linalg.norm(measured - problem.y.ravel(), axis=1)
    weights = np.exp(-0.5 * (near / problem.noise) ** 2)
    weights /= weights.sum()
    deviation = np.sqrt(np.diag(problem.posterior[1]))
    assert 1 / np.sum(weights**2) > 300  # effective number of draws
    assert np.abs(weights @ x_0 - problem.posterior[0]).max() < 0.25 * deviation.min()


def test_the_gaussian_table_is_written_into_its_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("".join(["a\n", *posterior.GAUSSIAN, "b\n", *posterior.IMAGES, "c\n"]))
    assert posterior.PosteriorStudy(n=100, page=page).execute() == f"wrote {page}"
    lines = page.read_text().splitlines()
    assert len(lines) == 7 + 2 + len(MEASUREMENTS) * len(posterior.ROWS) and lines[-1] == "c"
    with pytest.raises(ValueError, match="--n 10: must be at least 100"):
        posterior.PosteriorStudy(n=10, page=page).execute()


def test_folders_of_edit_solve_are_a_table_s_rows(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.random((5, 4, 4, 1))
    np.save(tmp_path / "truth.npy", truth)
    np.save(tmp_path / "draws.npy", (truth[:, None] + 0.1 * rng.standard_normal((5, 4, 4, 4, 1))).astype(np.float32))
    manifest = {"nfe": 50, "residual_chi_squared": 1.01, "residual_chi_squared_of_truth": 0.99}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    page = tmp_path / "page.md"
    page.write_text("".join(posterior.IMAGES))
    posterior.PosteriorStudy(folders=(f"blur, PiGDM={tmp_path}",), page=page).execute()
    row = page.read_text().splitlines()[3].split(" | ")
    assert row[:4] == ["| blur, PiGDM", "50", "1.010", "0.990"]
    assert [float(value.strip(" |")) for value in row[4:]] == pytest.approx([0.1, 0.05, 0.112], rel=0.1)
    with pytest.raises(ValueError, match="--folders: must be NAME=FOLDER"):
        posterior.PosteriorStudy(folders=("blur",), page=page).execute()
