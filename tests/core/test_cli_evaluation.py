"""The distance to held-out images during training: log, best checkpoint and resuming, over the NumPy twin."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from core.checkpoints import run_folder
from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from core.config.recipes import load_recipe
from core.data.dataset import open_dataset
from core.metrics.frechet import frechet_distance_from_features
from core.training.evaluation import Evaluation
from core.training.loop import start_training
from core.twin import Twin
from tests.command_line import refused, run, weights_of

FLAGS = ("--data.held-out", "0.4", "--evaluation.every", "1", "--evaluation.n", "5", "--training.sample-count", "0")


def features(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, ::16]


@pytest.fixture
def twin(monkeypatch):
    """The lens extractor's weights are not read: the NumPy twin's features are a formula."""
    monkeypatch.setattr("core.training.evaluation.default_weights", lambda name: (None, {}))


@pytest.fixture
def distances(monkeypatch):
    """Distances that the evaluator finds, one a call."""
    given = [4.0, 1.0, 3.0, 2.0]
    monkeypatch.setattr(Evaluation, "__call__", lambda self, images: given.pop(0))
    return given


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_best_checkpoint_is_kept_beside_the_last(recipe, tmp_path, twin, distances):
    folder = tmp_path / "run"
    code, _, err = run("train", "--config", recipe, "--run", folder, *FLAGS)
    assert code == 0, err
    assert [line["distance"] for line in lines(folder)] == [4.0, 1.0, 3.0, 2.0]
    assert (folder / "best").read_text() == "step-00000002\n" and (folder / "latest").read_text() == "step-00000004\n"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
    assert resolve_checkpoint(folder / "best").name == "step-00000002"
    assert load_checkpoint(resolve_checkpoint(folder / "best")).progress["step"] == 2
    assert run("sample", folder / "best", "--n", "2", "--out", tmp_path / "out")[0] == 0


def test_evaluation_changes_no_weight_and_a_resumed_run_knows_its_best(recipe, tmp_path, twin, distances):
    flags = ("--config", recipe, "--data.held-out", "0.4", "--training.sample-count", "0")
    assert run("train", *flags, "--run", tmp_path / "plain")[0] == 0
    first = ("--run", tmp_path / "watched", "--evaluation.every", "2", "--evaluation.n", "5", "--training.steps", "2")
    assert run("train", *flags, *first)[0] == 0
    assert (tmp_path / "watched" / "best").read_text() == "step-00000002\n"
    distances[:] = [5.0]
    assert run("train", "--resume", tmp_path / "watched", "--training.steps", "4")[0] == 0
    assert [line.get("distance") for line in lines(tmp_path / "watched")] == [None, 4.0, None, 5.0]
    assert (tmp_path / "watched" / "best").read_text() == "step-00000002\n"
    assert weights_of(tmp_path / "watched") == weights_of(tmp_path / "plain")


def test_a_run_that_is_killed_as_it_saves_its_best_checkpoint_keeps_it(recipe, tmp_path, twin, distances, monkeypatch):
    folder, write = tmp_path / "run", run_folder.write_text_atomic

    def killed(path, text):
        if text == "step-00000002\n" and path.name == fatal:
            raise OSError(5, "killed", str(path))
        write(path, text)

    monkeypatch.setattr(run_folder, "write_text_atomic", killed)
    again, never = (
        [4.0, 1.0, 1.0, 3.0, 2.0],
        [1.0, 3.0],
    )  # step 2 is the first checkpoint where every second is evaluated
    for fatal, every, found in (("best", 1, again), ("latest", 1, again), ("best", 2, never), ("latest", 2, never)):
        distances[:] = found
        flags = (*FLAGS, "--evaluation.every", every)
        assert run("train", "--config", recipe, "--run", folder, *flags)[0] == 1
        fatal = ""
        assert run("train", "--resume", folder)[0] == 0
        assert (folder / "best").read_text() == "step-00000002\n" and not distances
        assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
        shutil.rmtree(folder)


def test_the_distance_is_that_of_images_of_the_average_to_held_out_ones(recipe, tmp_path):
    base = load_recipe(recipe)
    chosen = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, held_out=0.4),
        evaluation=dataclasses.replace(base.evaluation, every=1, n=5, seed=3),
    )
    dataset = open_dataset(chosen.data, chosen.image_shape)
    images = start_training(Twin("tests.numpy_impl"), chosen).draw(5, 3)
    expected = frechet_distance_from_features(
        features(images), features(np.asarray(dataset.images[dataset.held_out[:5]]))
    )
    assert Evaluation(chosen, dataset, features)(images) == pytest.approx(expected, rel=1e-12) and expected > 0


def test_what_does_not_fit_is_refused_before_the_first_step(recipe, tmp_path, twin):
    command = ("train", "--config", recipe, "--run", tmp_path / "run", *FLAGS)
    assert "must be at most" in refused(2, *command, "--evaluation.n", "500")
    assert not (tmp_path / "run").exists()
    assert "evaluation.every" in refused(2, "train", "--config", recipe, *FLAGS, "--evaluation.every", "-1")
