"""`eval spd`: a right and wrong sampler beside the floor and the Gaussian, and what the user must change."""

import json

import numpy as np
import pytest

from core.spd.chart import coordinates, from_coordinates
from core.spd.laws import simulate_spd
from eval.__main__ import main
from eval.measure.spd import gaussian_in_chart

LAW = "simulate:spd-mixture"


def measured(capsys, *words):
    """The JSON that the verb prints."""
    assert main(["spd", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def drawn(tmp_path):
    """A file of 400 matrices of the mixture, of a seed of its own."""
    np.save(tmp_path / "drawn.npy", simulate_spd("mixture", 400, seed=9).values)
    return tmp_path / "drawn.npy"


def test_matrices_of_the_same_law_are_at_the_floor(drawn, capsys):
    result = measured(capsys, LAW, drawn)
    assert result["real"]["n"] == 800 and result["half"] == 400 and result["share_spd"] == 1
    energy = result["metrics"]["energy_distance"]
    assert abs(energy["generated"]["mean"]) < energy["gaussian"]["mean"] / 2
    assert energy["floor"]["least"] < 0 < energy["floor"]["greatest"] < energy["gaussian"]["mean"]
    assert 0.9 < result["metrics"]["log_variance_ratio"]["generated"]["mean"] < 1.1
    assert set(result["metrics"]) >= {"mmd_squared", "karcher_squared", "wasserstein_3", "precision", "coverage"}


def test_noise_divided_by_ten_shows(drawn, capsys):
    z = coordinates(np.load(drawn))
    np.save(drawn, from_coordinates(z.mean(axis=0) + (z - z.mean(axis=0)) / 10))
    metrics = measured(capsys, LAW, drawn)["metrics"]
    assert metrics["log_variance_ratio"]["generated"]["mean"] < 0.02
    assert metrics["energy_distance"]["generated"]["mean"] > 10 * metrics["energy_distance"]["gaussian"]["mean"]


def test_what_is_not_positive_definite_is_counted_and_has_no_distance(drawn, capsys):
    values = np.load(drawn)
    values[[3, 7]] = np.diag([1.0, 2.0, -1e-9])
    np.save(drawn, values)
    result = measured(capsys, LAW, drawn)
    assert result["generated"]["not_spd"] == 2 and result["share_spd"] == 398 / 400
    assert all(found["generated"] is None and found["floor"] for found in result["metrics"].values())
    assert main(["spd", LAW, str(drawn)]) == 0
    assert "398 of 400; they have no distance" in capsys.readouterr().out


def test_files_and_pictures(drawn, tmp_path, capsys):
    np.save(tmp_path / "real.npy", simulate_spd("mixture", 90, seed=5).values)
    out = tmp_path / "out"
    assert main(["spd", str(tmp_path / "real.npy"), str(drawn), "--train", str(drawn), "--out", str(out)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert (out / "spd.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "spd.json").read_text())
    assert result["half"] == 45 and result["gaussian"] == {"fitted_to": str(drawn), "n": 400}
    for m in (1, 5):
        np.save(drawn, simulate_spd("lognormal", 50, seed=9, m=m).values)
        assert main(["spd", "simulate:spd-lognormal", str(drawn), "--out", str(out)]) == 0


def test_the_gaussian_has_mean_and_covariance_of_the_training_matrices():
    train = simulate_spd("lognormal", 3000, seed=2).values
    z, drawn = coordinates(train), coordinates(gaussian_in_chart(train, 3000, 4))
    assert np.abs(z.mean(axis=0) - drawn.mean(axis=0)).max() < 0.2
    assert np.abs(np.cov(z.T) - np.cov(drawn.T)).max() < 0.4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:, :2], "must be (N, m, m)"),
        (lambda x: np.where(np.arange(400)[:, None, None] == 17, np.nan, x), "[17]: holds NaN"),
        (lambda x: x + np.triu(np.ones((3, 3)), 1), "asymmetric"),
    ],
)
def test_a_bad_file_is_one_line(drawn, capsys, change, words):
    np.save(drawn, change(np.load(drawn)))
    assert main(["spd", LAW, str(drawn)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(f"error: {drawn}") and words in said[0]


def test_real_matrices_must_be_positive_definite_and_of_the_same_m(drawn, tmp_path, capsys):
    np.save(tmp_path / "real.npy", np.tile(np.diag([1.0, 0.0, 1.0]), (50, 1, 1)))
    assert main(["spd", str(tmp_path / "real.npy"), str(drawn)]) == 2
    assert "real.npy[0]: its least eigenvalue is 0" in capsys.readouterr().err
    np.save(tmp_path / "real.npy", np.tile(np.eye(2), (50, 1, 1)))
    assert main(["spd", str(tmp_path / "real.npy"), str(drawn)]) == 2
    assert "must be 3 x 3" in capsys.readouterr().err
