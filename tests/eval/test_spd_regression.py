"""`eval spd-regression` over a pretended twin: right and wrong draws, and the ways beside them."""

import json

import numpy as np
import pytest

from core.spd.chart import from_coordinates
from core.spd.laws import regression_moments, simulate_spd
from eval.__main__ import main
from tests.command_line import run
from tests.core.test_spd_space import TEXT

CONDITIONED = TEXT.replace("layers_per_block = 1", "layers_per_block = 1\nvector_channels = 2").replace(
    'source = "simulate:spd-mixture"', 'source = "simulate:spd-regression"\ncondition = ["y1", "y2"]'
)


class PretendedWorker:
    """Draws from the true law, whose noise it multiplies."""

    noise = 1.0

    def __init__(self, framework):
        self.known = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def call(self, task, arrays, **options):
        assert task == "sample" and arrays["condition/keep"].all() and arrays["chart/mean"].shape == (6,)
        y = arrays["condition/vector"] * PretendedWorker.std + PretendedWorker.mean
        mean, deviation = regression_moments(y, 3)
        noise = np.random.default_rng(options["first"]).standard_normal(mean.shape)
        return {"images": from_coordinates(mean + self.noise * deviation[:, None] * noise)}, {}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    (tmp_path / "spd.toml").write_text(CONDITIONED.replace("CACHE", str(tmp_path / "cache")))
    assert run("train", "--config", tmp_path / "spd.toml", "--run", tmp_path / "run")[0] == 0
    data = json.loads((tmp_path / "run" / "checkpoints" / "step-00000004" / "data.json").read_text())["condition"]
    monkeypatch.setattr(PretendedWorker, "mean", np.array(data["mean"]), raising=False)
    monkeypatch.setattr(PretendedWorker, "std", np.array(data["std"]), raising=False)
    monkeypatch.setattr("eval.twins.client.Worker", PretendedWorker)
    monkeypatch.setattr("eval.twins.interpreters.first_framework", lambda chosen: "torch")
    return tmp_path / "run"


def measured(capsys, *words):
    assert main(["spd-regression", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_draws_of_the_true_law_are_at_the_floor(trained, capsys):
    result = measured(capsys, trained, "--n", 150, "--draws", 60)
    errors = {name: found["log_euclidean_squared"]["mean"] for name, found in result["errors"].items()}
    assert errors["network"] < 1.5 * errors["true_draws"] < errors["least_squares"] / 3 < errors["constant"] / 3
    assert abs(errors["network_karcher"] - errors["network"]) < errors["network"]
    assert 0.9 < result["log_variance_ratio"]["mean"] < 1.1
    assert 0.8 < result["coverage"]["found"] < 0.97 and result["not_spd"] == 0


def test_noise_divided_by_thirty_predicts_well_and_covers_nothing(trained, capsys, monkeypatch):
    monkeypatch.setattr(PretendedWorker, "noise", 1 / 30)
    result = measured(capsys, trained, "--n", 100, "--draws", 30)
    assert result["errors"]["network"]["log_euclidean_squared"]["mean"] < 0.01
    assert result["log_variance_ratio"]["mean"] < 0.01 and result["coverage"]["found"] < 0.05


def test_a_file_of_matrices_and_the_picture(trained, tmp_path, capsys):
    drawn = simulate_spd("regression", 80, 5)
    np.savez(tmp_path / "new.npz", matrices=drawn.values, **drawn.parameters)
    out = tmp_path / "out"
    words = ["spd-regression", str(trained), "--real", str(tmp_path / "new.npz"), "--draws", "20", "--out", str(out)]
    assert main(words) == 0
    assert "least squares in the chart" in capsys.readouterr().out
    assert (out / "regression.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "regression.json").read_text())
    assert result["n"] == 80 and "log_variance_ratio" not in result and result["against"].startswith("one matrix")
    np.savez(tmp_path / "bare.npz", matrices=drawn.values)
    for real, said in ((tmp_path / "bare.npz", "has no covariate y1"), ("simulate:spd-mixture", "the one law with")):
        assert main(["spd-regression", str(trained), "--real", str(real)]) == 2
        assert said in capsys.readouterr().err


def test_a_run_without_covariates_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("eval.twins.client.Worker", PretendedWorker)
    monkeypatch.setattr("eval.twins.interpreters.first_framework", lambda chosen: "torch")
    (tmp_path / "spd.toml").write_text(TEXT.replace("CACHE", str(tmp_path / "cache")))
    assert run("train", "--config", tmp_path / "spd.toml", "--run", tmp_path / "run")[0] == 0
    assert main(["spd-regression", str(tmp_path / "run")]) == 2
    assert "with data.condition" in capsys.readouterr().err
    assert main(["spd-regression", str(tmp_path / "run"), "--n", "1"]) == 2
    assert "--n 1: must be at least 2" in capsys.readouterr().err


def test_parts_of_a_file(tmp_path, capsys):
    values = simulate_spd("lognormal", 200, 4).values
    held_out, labels = np.arange(200) % 2, np.arange(200) // 100
    names = np.array(["rest", "rock"])
    np.savez(tmp_path / "a.npz", matrices=values, held_out=held_out, labels=labels, class_names=names)
    np.save(tmp_path / "drawn.npy", simulate_spd("lognormal", 100, 9).values)
    words = ["spd", str(tmp_path / "a.npz"), str(tmp_path / "drawn.npy")]
    assert main([*words, "--split", "held-out", "--class-name", "rock", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["real"] == {"source": words[1], "n": 50, "split": "held-out", "class_name": "rock"}
    assert result["gaussian"] == {"fitted_to": f"{words[1]}, train", "n": 50}
    assert main([*words, "--class-name", "paper"]) == 2
    assert "must be a class of" in capsys.readouterr().err
    assert main(["spd", "simulate:spd-lognormal", words[2], "--split", "train"]) == 2
    assert "has no parts" in capsys.readouterr().err
