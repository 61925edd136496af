"""Averages after training against averages tracked while it ran, on trajectories that are known."""

import numpy as np
import pytest
from scipy import integrate

from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.run_folder import RunFolder
from core.checkpoints.trained import open_trained
from core.commands.main import main
from core.config import WIDEST_PROFILE, ModelConfig, Recipe, TrainingConfig
from core.config.recipes import load_recipe
from core.networks.specs import initial_weights
from core.training.posthoc_ema import coefficients, gamma_of, inner_products, profile_decay, synthesise


def tracked(trajectory, sigma_rel):
    """The average after every step, by the update itself."""
    average, found = np.zeros_like(trajectory[0]), []
    for step, weights in enumerate(trajectory):
        decay = profile_decay(sigma_rel, step)
        average = decay * average + (1 - decay) * weights
        found.append(average)
    return found


def trajectory(steps=400):
    """Weights that move smoothly and at random."""
    rng, t = np.random.default_rng(0), np.arange(1, steps + 1)[:, None]
    return np.exp(-t / 90) * np.array([1.0, -2.0, 0.5]) + 0.02 * np.cumsum(rng.standard_normal((steps, 3)), axis=0)


@pytest.mark.parametrize("sigma_rel", (0.01, 0.05, 0.1, 0.2, 0.28))
def test_sigma_rel_is_the_deviation_of_the_profile(sigma_rel):
    gamma = gamma_of(sigma_rel)
    moments = [integrate.quad(lambda x, k=k: (gamma + 1) * x ** (gamma + k), 0, 1, epsabs=1e-13)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1) and np.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(
        sigma_rel, rel=1e-7
    )


def test_the_papers_values():
    """Karras et al. 2024, section 3.1: gamma = 6.94 and 16.97 for sigma_rel = 0.10 and 0.05."""
    assert gamma_of(0.10) == pytest.approx(6.94, abs=5e-3) and gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)


def test_the_update_is_the_profile_s_mass_between_steps():
    """The weight of step tau at t is the integral of the density from tau - 1 to tau."""
    steps, gamma = 30, gamma_of(0.1)
    mass = np.diff((np.arange(steps + 1) / steps) ** (gamma + 1))
    assert np.max(np.abs(tracked(np.eye(steps), 0.1)[-1] - mass)) < 1e-14


def test_inner_products_are_integrals():
    given = [(7.0, 2.5), (10.0, 16.97), (10.0, 0.3)]
    for i, (ta, ga) in enumerate(given):
        for j, (tb, gb) in enumerate(given):
            value = integrate.quad(
                lambda x: (ga + 1) * x**ga / ta ** (ga + 1) * (gb + 1) * x**gb / tb ** (gb + 1),  # noqa: B023
                0,
                min(ta, tb),
                epsabs=1e-13,
            )[0]
            assert inner_products(given, given)[i, j] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", (0.05, 0.1))
@pytest.mark.parametrize("step", (240, 400))
def test_a_tracked_profile_is_its_own_snapshot(sigma_rel, step):
    path = trajectory()
    averages = {s: tracked(path, s) for s in (0.05, 0.1)}
    snapshots = [(t, s, {"w": averages[s][t - 1]}) for t in range(40, 401, 40) for s in averages]
    found = synthesise(snapshots, step, sigma_rel)["w"]
    assert np.max(np.abs(found - averages[sigma_rel][step - 1])) < 1e-9


@pytest.mark.parametrize("sigma_rel", (0.06, 0.08, 0.12, 0.15))
def test_a_profile_that_was_not_tracked_comes_near_and_nearer_with_more_snapshots(sigma_rel):
    path = trajectory()
    averages, exact = {s: tracked(path, s) for s in (0.05, 0.1)}, tracked(path, sigma_rel)[-1]
    errors = []
    for every in (100, 20):
        snapshots = [(t, s, {"w": averages[s][t - 1]}) for t in range(every, 401, every) for s in averages]
        found = synthesise(snapshots, 400, sigma_rel)["w"]
        errors.append(np.max(np.abs(found - exact)) / np.max(np.abs(exact)))
    assert abs(coefficients([s[:2] for s in snapshots], 400, sigma_rel).sum() - 1) < 0.01
    nearest = min(np.max(np.abs(averages[s][-1] - exact)) / np.max(np.abs(exact)) for s in averages)
    assert errors[1] < 2e-3 and errors[1] < errors[0] and errors[1] < nearest / 20, (errors, nearest)


def test_what_cannot_be_synthesised_is_refused():
    for value in (0.0, WIDEST_PROFILE, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"sigma_rel = .*: must be above 0 and below"):
            gamma_of(value)
    with pytest.raises(ValueError, match="step = 500: must be at most 400"):
        coefficients([(400, 0.05)], 500, 0.1)
    with pytest.raises(ValueError, match="step = 5: must be at most 0"):
        coefficients([], 5, 0.1)


MODEL = ModelConfig(
    (4, 4),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(4,),
    layers_per_block=1,
    norm_num_groups=2,
    mid_block_type=None,
)
START, PATH = initial_weights(MODEL, 0), trajectory()[:, 0]
"""Weights are the initial ones plus a number that moves."""


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run of 400 steps with two profiles and ten checkpoints, of which the last one is left."""
    recipe = Recipe(MODEL, training=TrainingConfig(steps=400, ema_profiles=(0.05, 0.1), keep_checkpoints=1))
    folder, averages = RunFolder(tmp_path / "run"), [tracked(PATH, s) for s in (0.05, 0.1)]
    folder.create(recipe)
    state = {f"{part}/{n}": w for part in ("params", "exp_avg", "exp_avg_sq") for n, w in START.items()}
    for step in range(40, 401, 40):
        for i, average in enumerate(averages):
            state |= {f"profile_{i}/{n}": (w + average[step - 1]).astype(np.float64) for n, w in START.items()}
        folder.save(Checkpoint(recipe, START, dict(state), {"step": step}, {}), keep=1)
    return folder


def call(run: RunFolder, step: int, out: str = "out") -> int:
    """The exit code of the verb."""
    words = ["synthesise-ema", run.path, "--sigma-rel", "0.08", "--step", step, "--out", run.path.parent / out]
    return main("tests.numpy_impl", [str(word) for word in words])


def test_a_run_s_snapshots_become_a_checkpoint(run, capsys):
    """The checkpoints that held them are gone, the snapshots are not."""
    assert len(list((run.path / "checkpoints").iterdir())) == 1
    assert call(run, 240) == 0 and "20 snapshots" in capsys.readouterr().out
    found, exact = open_trained(run.path.parent / "out", "ema"), tracked(PATH, 0.08)[239]
    for name, weights in found.weights.items():
        error = np.max(np.abs(weights - START[name] - exact))
        assert error < 5e-3 * np.abs(exact) + 1e-2 * np.abs(START[name]).max()


def test_a_folder_that_exists_is_not_overwritten(run, capsys):
    assert call(run, 240) == 0
    assert call(run, 240) == 2 and str(run.path.parent / "out") in capsys.readouterr().err


def test_snapshots_after_the_step_that_a_run_goes_on_from_are_gone(run, capsys):
    run.recover(240)
    assert {step for step, _, _ in run.averages(load_recipe(run.path / "recipe.json"))} == set(range(40, 241, 40))
    assert call(run, 400) == 2 and "step = 400: must be at most 240" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert call(RunFolder(tmp_path / "nothing"), 240) == 2 and "nothing" in capsys.readouterr().err
