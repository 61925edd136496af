"""Matrices as a data space: their recipe, cache, split, chart in the checkpoint, samples, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from core.checkpoints.chart import chart_tensors, read_chart, write_chart
from core.checkpoints.checkpoint import load_checkpoint
from core.checkpoints.trained import open_trained
from core.config import DataConfig, ProcessConfig, Recipe, SamplingConfig
from core.config.recipes import from_dict, to_dict
from core.data.dataset import open_dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run as run_table
from core.exits import RunError
from core.files import write_tensors
from core.inference.space import SPACES
from core.networks.specs import count_parameters, initial_weights, time_frequencies
from core.reading import read_tensors
from core.spd.chart import coordinates, fit_chart
from core.spd.laws import simulate_spd
from eval.__main__ import main as eval_main
from tests.command_line import refused, run

CHART = {"architecture": "chart", "sample_size": 1, "in_channels": 6, "out_channels": 6, "block_out_channels": [16]}
VALUES = {"model": CHART, "data": {"space": "spd", "source": "simulate:spd-mixture"}, "sampling": {"clip": False}}
TEXT = """
[model]
architecture = "chart"
sample_size = 1
in_channels = 6
out_channels = 6
block_out_channels = [8]
layers_per_block = 1
[process]
timesteps = 50
[data]
space = "spd"
source = "simulate:spd-mixture"
simulate_count = 200
cache = "CACHE"
[training]
steps = 4
batch_size = 4
warmup_steps = 2
checkpoint_every = 2
sample_count = 3
[sampling]
steps = 3
clip = false
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "spd.toml").write_text(TEXT.replace("CACHE", str(tmp_path / "cache")))
    return tmp_path / "spd.toml"


@pytest.fixture
def trained(recipe, tmp_path):
    assert run("train", "--config", recipe, "--run", tmp_path / "run")[0] == 0
    return tmp_path / "run"


def changed(**tables):
    """VALUES with other keys in some tables."""
    return {name: {**VALUES.get(name, {}), **tables.get(name, {})} for name in {*VALUES, *tables}}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"architecture": "unet", "block_out_channels": [32, 64, 64], "sample_size": 32}}, "must be chart"),
        ({"data": {"space": "image"}}, "must be unet or baseline where data.space is image"),
        ({"model": {"in_channels": 5, "out_channels": 5}}, "model.in_channels = 5: must be m (m + 1) / 2"),
        ({"model": {"sample_size": 4}}, "model.sample_size = (4, 4): must be 1"),
        ({"model": {"block_out_channels": [8, 8]}}, "model.block_out_channels = (8, 8): must be one width"),
        ({"model": {"layers_per_block": 0}}, "model.layers_per_block = 0"),
        ({"model": {"dropout": 0.1}}, "model.dropout = 0.1: must be left out where architecture is chart"),
        ({"model": {"patch_size": 2}}, "model.patch_size = 2: must be left out"),
        ({"sampling": {"clip": True}}, "sampling.clip = True: must be false"),
        ({"data": {"augment": True, "source": "a.npy"}}, "data.augment = True: must be false"),
        ({"data": {"fit": "crop"}}, "data.fit = 'crop': must be exact"),
        ({"data": {"normalise": "image"}}, "data.normalise"),
        ({"data": {"skip_broken": True}}, "data.skip_broken"),
        ({"process": {"stretch": 0.1}}, "process.stretch"),
        ({"evaluation": {"every": 10}}, "evaluation.every"),
        ({"training": {"gradient_checkpointing": True}}, "training.gradient_checkpointing"),
        ({"data": {"condition": ["y1"]}}, "data.condition"),
    ],
)
def test_a_recipe_of_matrices_refuses_what_is_for_images(tables, words):
    with pytest.raises(ValueError) as error:
        from_dict(Recipe, changed(**tables))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_network_s_parameters():
    model = from_dict(Recipe, changed(model={"block_out_channels": [128], "layers_per_block": 3})).model
    assert count_parameters(model) == 405_894 and time_frequencies(model).shape == (32,)
    weights = initial_weights(model, 0)
    zero = {name.rsplit(".", 1)[0] for name, value in weights.items() if name.endswith("weight") and not value.any()}
    assert zero == {"norm_out.modulation", "proj_out", *(f"blocks.{i}.modulation" for i in range(3))}
    with pytest.raises(ValueError, match="must be 1 x 1"):
        model.check_size(2, 2)


def data(tmp_path, **keys):
    return DataConfig(**{"space": "spd", "cache": str(tmp_path / "cache"), "simulate_count": 300, **keys})


def test_the_chart_is_that_of_the_training_matrices_alone(tmp_path):
    config = data(tmp_path, source="simulate:spd-mixture", held_out=0.3)
    dataset = open_dataset(config, (1, 1, 6))
    z = coordinates(simulate_spd("mixture", 300).values)
    assert 50 < len(dataset.held_out) < 130 and len(dataset.train) + len(dataset.held_out) == 300
    expected = fit_chart(z[dataset.train])
    assert np.allclose(dataset.chart.mean, expected.mean) and np.allclose(dataset.chart.whiten, expected.whiten)
    assert not np.allclose(dataset.chart.mean, z.mean(axis=0))
    v = dataset.images[dataset.train][:, 0, 0]
    assert dataset.images.shape == (300, 1, 1, 6) and dataset.images.dtype == np.float64
    assert np.allclose(v.T @ v / len(v), np.eye(6)) and np.allclose(dataset.chart.whitened(z)[dataset.train], v)
    again = open_dataset(config, (1, 1, 6))
    assert np.array_equal(again.images, dataset.images) and np.array_equal(again.chart.whiten, dataset.chart.whiten)
    assert again.manifest == dataset.manifest
    (cached,) = (tmp_path / "cache").iterdir()
    with open(cached / "matrices.safetensors", "r+b") as file:  # damaged: it is prepared again
        file.seek(-3, 2)
        file.write(b"xxx")
    assert np.array_equal(open_dataset(config, (1, 1, 6)).images, dataset.images)


def test_the_split_is_by_content_or_as_the_file_says(tmp_path):
    values = simulate_spd("lognormal", 60, 3).values
    labels, sessions = np.arange(60) % 2, np.arange(60) >= 45
    arrays = {"matrices": values, "labels": labels, "class_names": np.array(["rest", "rock"]), "y": np.ones((60, 2))}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "b.npz", held_out=sessions, **arrays)
    first = open_dataset(data(tmp_path, source=str(tmp_path / "a.npz"), held_out=0.3), (1, 1, 6))
    assert first.class_names == ("rest", "rock") and np.array_equal(first.labels, labels)
    assert list(first.parameters) == ["y1", "y2"]
    np.savez(tmp_path / "a.npz", **{**arrays, "matrices": values[::-1]})
    turned = open_dataset(data(tmp_path, source=str(tmp_path / "a.npz"), held_out=0.3), (1, 1, 6))
    assert np.array_equal(np.sort(59 - turned.held_out), first.held_out)
    second = open_dataset(data(tmp_path, source=str(tmp_path / "b.npz")), (1, 1, 6))
    assert np.array_equal(second.held_out, np.flatnonzero(sessions)) and "held_out" not in second.parameters


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: x[:, :2, :2], "matrices of 2 x 2: model.in_channels and model.out_channels must be 3, not 6"),
        (lambda x: x[:5], "data.whiten = full: 5 training matrices: must be at least 7"),
        (lambda x: -x, "its least eigenvalue is"),
        (lambda x: x.astype(complex), "complex128"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(tmp_path, make, words):
    np.save(tmp_path / "a.npy", make(simulate_spd("lognormal", 30, 3).values))
    with pytest.raises(ValueError) as error:
        open_dataset(data(tmp_path, source=str(tmp_path / "a.npy"), held_out=0.0), (1, 1, 6))
    assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        open_dataset(data(tmp_path, source=str(tmp_path / "b.npy")), (1, 1, 6))
    with pytest.raises(ValueError, match="must be one of simulate:spd-lognormal"):
        open_dataset(data(tmp_path, source="simulate:lensing"), (1, 1, 6))


def test_a_run_keeps_its_chart_and_draws_matrices(trained, recipe, tmp_path):
    folder = trained / "checkpoints" / "step-00000004"
    assert (trained / "samples" / "step-00000004.png").read_bytes().startswith(b"\x89PNG")
    about = json.loads((folder / "chart.json").read_text())
    assert about == {"format": 1, "space": "spd", "chart": "log_euclidean", "whiten": "full", "m": 3}
    dataset = open_dataset(load_checkpoint(folder).recipe.data, (1, 1, 6))
    for found in (load_checkpoint(folder).chart, open_trained(folder).chart):
        for name in ("mean", "whiten", "unwhiten"):
            assert getattr(found, name).tobytes() == getattr(dataset.chart, name).tobytes()
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "DiptychChartPipeline" and "cannot open it" in (folder / "README").read_text()
    assert run("sample", trained, "--n", 5, "--out", tmp_path / "a")[0] == 0
    samples = np.load(tmp_path / "a" / "samples.npy")
    assert samples.shape == (5, 3, 3) and samples.dtype == np.float64
    assert np.array_equal(samples, samples.transpose(0, 2, 1)) and np.linalg.eigvalsh(samples).min() > 0
    assert (tmp_path / "a" / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert run("sample", trained, "--first", 3, "--n", 2, "--out", tmp_path / "b")[0] == 0
    assert np.allclose(np.load(tmp_path / "b" / "samples.npy"), samples[3:], rtol=1e-6)
    code, _, err = run("train", "--resume", trained, "--training.steps", 6)
    assert code == 0, err
    whole = tmp_path / "whole"
    assert run("train", "--config", recipe, "--run", whole, "--training.steps", 6)[0] == 0
    tensors = [read_tensors(path / "checkpoints" / "step-00000006" / "chart.safetensors") for path in (trained, whole)]
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_what_is_for_images_is_refused_in_one_line(trained, tmp_path, capsys):
    edit = ("edit", "reconstruct", trained, "--out", tmp_path / "out")
    for words in (edit, ("likelihood", trained)):
        assert "must be of images, and the network draws positive definite matrices" in refused(2, *words)
    assert "--gif: must be of images" in refused(2, "sample", trained, "--gif", "--out", tmp_path / "out")
    assert "clip" in refused(2, "sample", trained, "--clip", "--out", tmp_path / "out")
    assert eval_main(["fid", str(trained), str(trained), "--extractor", "pixels"]) == 2
    assert "must be images; `python -m eval spd`" in capsys.readouterr().err


def test_a_checkpoint_without_its_chart_or_with_another_is_refused(trained, tmp_path):
    folder = trained / "checkpoints" / "step-00000004"
    for name in ("chart.json", "chart.safetensors"):
        copy = shutil.copytree(folder, tmp_path / "copy")
        (copy / name).unlink()
        assert name in refused(2, "sample", copy, "--out", tmp_path / "out")
        shutil.copy(folder / "chart.json", copy / name)
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        assert "changed since it was saved" in refused(2, "sample", copy, "--out", tmp_path / "out")
        shutil.rmtree(copy)


def test_coordinates_that_are_not_finite_are_no_matrices(tmp_path):
    chart = fit_chart(coordinates(simulate_spd("mixture", 50).values))
    for value in (np.nan, 1e6):
        with pytest.raises(RunError, match="of 2 matrices have values that are not finite"):
            SPACES["spd"].decode(np.full((2, 1, 1, 6), value), 0.0, chart)


def test_an_old_recipe_is_one_of_images():
    values = to_dict(Recipe())
    del values["data"]["space"], values["data"]["whiten"]
    assert from_dict(Recipe, values) == Recipe()


@pytest.mark.parametrize("law", ["lognormal", "regression"])
def test_a_network_of_zero_draws_the_log_normal_law_exactly(law):
    """After full whitening the best prediction of v is 0 for Gaussian coordinates; the table says the variance."""
    chart = fit_chart(coordinates(simulate_spd(law, 2000).values))
    process = make_process(ProcessConfig(schedule="cosine", prediction="v"))
    table = make_table(process, SamplingConfig("ddpm", 100, clip=False))
    n, rng = 10_000, np.random.default_rng(3)
    v = run_table(
        table,
        lambda x, t: np.zeros_like(x),
        rng.standard_normal((n, 1, 1, 6)),
        lambda row: rng.standard_normal((n, 1, 1, 6)),
    )
    variance = float(table.start) ** 2
    for row in table.rows:  # x -> (matrix[0, 0] + p (matrix[0, 1] + matrix[0, 2])) x + s z
        kept = row.matrix[0, 0] + row.p * (row.matrix[0, -2] + row.matrix[0, -1])
        variance = kept**2 * variance + row.s**2
    z = coordinates(SPACES["spd"].decode(v, 0.0, chart))
    expected = variance * chart.unwhiten @ chart.unwhiten
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / n)
    assert 0.9 < variance < 1.1 and (np.abs(np.cov(z.T) - expected) < 5 * error).all()
    assert (np.abs(z.mean(axis=0) - chart.mean) < 5 * np.sqrt(np.diag(expected) / n)).all()


def test_a_chart_of_other_matrices_or_of_no_numbers_is_refused(tmp_path):
    chart = fit_chart(coordinates(simulate_spd("mixture", 50).values))
    write_chart(tmp_path, chart)
    found = read_chart(tmp_path, 6)
    assert found.kind == "full" and all(
        np.array_equal(chart_tensors(found)[n], v) for n, v in chart_tensors(chart).items()
    )
    with pytest.raises(ValueError, match="m is 3: must be 4"):
        read_chart(tmp_path, 10)
    for changes, words in (
        ({"mean": np.zeros(3)}, "must hold mean, whiten, unwhiten of 6 coordinates"),
        ({"mean": np.full(6, np.nan)}, "must be finite numbers of float64"),
        ({"mean": chart.mean.astype(np.float32)}, "must be finite numbers of float64"),
        ({"unwhiten": chart.whiten}, "are not inverse"),
    ):
        write_tensors(tmp_path / "chart.safetensors", chart_tensors(chart) | changes)
        with pytest.raises(ValueError, match=words):
            read_chart(tmp_path, 6)
