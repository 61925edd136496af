"""Distillation: the teacher's images against closed forms, the batches, and the verb `distil`."""

import dataclasses
import json

import numpy as np
import pytest

from core.checkpoints import pretrained
from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint, save_pretrained
from core.checkpoints.trained import Trained
from core.config import DistillationConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import load_recipe
from core.data.dataset import Dataset
from core.diffusion.grids import CLEAN, levels_at, timesteps
from core.diffusion.merged import merged_image, refined
from core.diffusion.process import make_process
from core.diffusion.samplers import make_steps, make_table, table_of
from core.diffusion.table import run as run_table
from core.random import gaussian
from core.training.distillation import Distillation
from core.training.training import Training
from core.twin import Twin
from eval.parity.rungs_core import optimal_network
from tests.command_line import refused, run, weights_of
from tests.numpy_impl.sampler import Network

PROCESSES = {
    "v": ProcessConfig(200, schedule="cosine", prediction="v"),
    "eps": ProcessConfig(200, beta_end=0.05),
    "x0, no signal at the end": ProcessConfig(200, prediction="x0", zero_terminal_snr=True),
    "flow": ProcessConfig(200, schedule="flow", prediction="flow"),
    "edm": ProcessConfig(200, schedule="edm", prediction="edm"),
}
DDIM = SamplingConfig("ddim", 4, clip=False)
IMAGES = np.random.default_rng(0).random((12, 4, 8, 1), np.float32)


def table_on(process, t, sampling=DDIM):
    """DDIM on given timesteps."""
    steps, start = make_steps(process, [*levels_at(process, t), CLEAN], sampling)
    return table_of(process, steps, sampling, start)


def affine(process, slope, offset):
    """The network slope[t] x + offset[t] at the timestep of a time, (B,) or a scalar."""

    def network(x, t, **condition):
        level = np.abs(process.time - np.reshape(t, (-1, 1))).argmin(-1)
        return slope[level].reshape(-1, 1, 1, 1) * x + offset[level].reshape(-1, 1, 1, 1)

    return network


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(("n", "count"), [(1, 16), (4, 4), (8, 2), (50, 4), (100, 2)])
def test_a_refined_grid_has_its_steps_between_those_of_the_coarse_one(name, n, count):
    process = make_process(PROCESSES[name])
    starts = timesteps("trailing", n, 200)
    t = refined(process, starts, count)
    assert t.shape == (n * count,) and (np.diff(t) < 0).all() and t[-1] == 0
    np.testing.assert_array_equal(t[::count], starts)


def test_a_refined_grid_is_even_where_it_can_be():
    process = make_process(PROCESSES["v"])
    t = refined(process, timesteps("trailing", 4, 200), 4)
    place = np.log(0.05 + process.signal / process.noise)[t].reshape(4, 4)
    gaps = np.diff(np.append(place[0], place[1, 0]))
    assert gaps.max() / gaps.min() < 1.3  # 50 timesteps lie there


@pytest.mark.parametrize("name", PROCESSES)
def test_one_row_with_the_merged_image_lands_where_the_rows_land(name):
    """The exact network of Gaussian data, whose rows are affine maps; all four first rows in one batch."""
    process = make_process(PROCESSES[name])
    network = affine(process, *optimal_network(process))
    t = refined(process, timesteps("trailing", 4, 200), 3)
    table, x = table_on(process, t), gaussian(0, "x_T", range(4), 0, (2, 3, 1))
    first = np.arange(0, 12, 3)
    image = merged_image(table, first, 3, x, lambda x, time, guidance: network(x, time))
    for i, row in enumerate(first):
        rows = dataclasses.replace(table, rows=table.rows[row : row + 3], start=1.0)
        expected = run_table(rows, network, x[i : i + 1], lambda row: None)
        keep, gain, _ = make_table(process, DDIM).rows[i].matrix[0]
        np.testing.assert_allclose(keep * x[i : i + 1] + gain * image[i : i + 1], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", PROCESSES)
def test_an_affine_student_of_the_merged_images_does_the_teacher_s_rows_exactly(name):
    """Gaussian data: fitted by least squares at its four timesteps, it ends at the teacher's twelve-row images."""
    process = make_process(PROCESSES[name])
    network = affine(process, *optimal_network(process))
    starts = timesteps("trailing", 4, 200)
    teacher, table = table_on(process, refined(process, starts, 3)), make_table(process, DDIM)
    x = gaussian(1, "x_T", range(4), 0, (3, 3, 1))
    image = merged_image(teacher, np.arange(0, 12, 3), 3, x, lambda x, time, guidance: network(x, time))
    slope, offset = np.zeros(200), np.zeros(200)
    for i, t in enumerate(starts):
        noise = (x[i] - process.signal[t] * image[i]) / process.noise[t]
        target = process.target_x0[t] * image[i] + process.target_eps[t] * noise
        slope[t], offset[t] = np.polyfit(x[i].ravel(), target.ravel(), 1)
    x_T = gaussian(2, "x_T", range(3), 0, (2, 2, 1))
    found = run_table(table, affine(process, slope, offset), x_T, lambda row: None)
    np.testing.assert_allclose(found, run_table(teacher, network, x_T, lambda row: None), rtol=1e-9, atol=1e-9)


def test_a_table_that_clips_gives_images_that_need_no_clipping():
    process = make_process(PROCESSES["v"])
    table = table_on(process, refined(process, timesteps("trailing", 4, 200), 4), dataclasses.replace(DDIM, clip=True))
    x = gaussian(0, "x_T", range(4), 0, (4, 4, 1))
    image = merged_image(table, np.arange(0, 16, 4), 4, x, lambda x, time, guidance: 9 * x)
    assert 0.9 < np.abs(image).max() <= 1


MODEL = ModelConfig(
    sample_size=(4, 8),
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    norm_num_groups=4,
    attention_head_dim=None,
    num_class_embeds=4,
)
RECIPE = Recipe(
    MODEL,
    PROCESSES["v"],
    training=TrainingConfig(steps=8, batch_size=6, accumulate=2, condition_dropout=0.4, dtype="float64"),
    sampling=dataclasses.replace(DDIM, clip=True),
    distillation=DistillationConfig("teacher", 8, guidance=3.0),
)
DATA = Dataset(IMAGES, np.arange(12) % 3, ("a", "b", "c"), {}, np.arange(12), np.arange(0), {})


@pytest.fixture
def distillation(monkeypatch):
    """A distillation of the network 0.1 (label + 1) x + t / 200."""

    def network(x, t, labels):
        scale, shift = (np.reshape(value, (-1, 1, 1, 1)) for value in (0.1 * (labels + 1), t / 200))
        return scale * x + shift

    teacher = Trained(MODEL, RECIPE.process, RECIPE.sampling, "float64", {}, 3, True)
    monkeypatch.setattr("core.training.distillation._open_teacher", lambda recipe, dataset: teacher)

    def make(recipe=RECIPE):
        made = Distillation(recipe, DATA, Twin("tests.numpy_impl"))
        made.network = Network(network)
        return made, network

    return make


def test_a_batch_of_a_distillation_changes_image_and_noise_and_not_x_t(distillation):
    made, network = distillation()
    process, seen = made.process, set()
    for step in range(3):
        plain, batch = Training.batch(made, step), made.batch(step)
        assert plain.keys() == batch.keys()
        t = batch["t"]
        seen |= set(t.tolist())
        signal, noise = (values[t].reshape(-1, 1, 1, 1) for values in (process.signal, process.noise))
        x_t = signal * plain["x_0"] + noise * plain["eps"]
        np.testing.assert_allclose(signal * batch["x_0"] + noise * batch["eps"], x_t, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(batch["weight"], np.maximum(process.snr[t], 1) * process.noise[t] ** 2, rtol=1e-12)
        for name in ("t", "time", "signal", "labels"):
            np.testing.assert_array_equal(batch[name], plain[name])
        assert (batch["labels"] == 3).any() or step  # the class is withheld from some, and the teacher sees that
        for i, label in enumerate(batch["labels"]):
            rows = dataclasses.replace(made.table, rows=made.table.rows[made.first_row[t[i]] :][:2], start=1.0)

            def guided(x, time, label=label):
                return network(x, time, np.array([label])), network(x, time, np.array([3]))

            expected = run_table(rows, lambda x, time: None, x_t[i : i + 1], lambda row: None, guided)
            keep, gain, _ = make_table(process, RECIPE.sampling).rows[made.first_row[t[i]] // 2].matrix[0]
            found = keep * x_t[i : i + 1] + gain * batch["x_0"][i : i + 1]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert seen == {199, 149, 99, 49}


@pytest.mark.parametrize("stratified", [True, False])
def test_every_step_of_the_student_is_trained_equally_often(distillation, stratified):
    training = dataclasses.replace(RECIPE.training, stratified=stratified, batch_size=8)
    made, _ = distillation(dataclasses.replace(RECIPE, training=training))
    drawn = np.concatenate([made.levels.draw(step)[0] for step in range(100)])
    levels, counts = np.unique(drawn, return_counts=True)
    assert levels.tolist() == [49, 99, 149, 199]
    assert np.abs(counts - 200).max() <= (0 if stratified else 5 * np.sqrt(200 * 0.75))


def test_a_distilled_teacher_takes_the_steps_that_it_has_learned(distillation):
    made, _ = distillation()
    assert [row.t for row in made.table.rows] != timesteps("trailing", 8, 200).tolist()
    made.teacher = dataclasses.replace(made.teacher, data={"distilled": {"nfe": 8}})
    table = made._teacher_table(timesteps("trailing", 4, 200))
    assert [row.t for row in table.rows] == timesteps("trailing", 8, 200).tolist()


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("sampling", {"sampler": "unipc"}, "sampling.sampler"),
        ("sampling", {"eta": 0.5}, "sampling.sampler"),
        ("sampling", {"spacing": "log_snr"}, "sampling.spacing"),
        ("sampling", {"nfe": 4}, "sampling.nfe"),
        ("distillation", {"teacher_nfe": 10}, "a multiple of sampling.steps 4"),
        ("distillation", {"teacher_nfe": 4}, "at least twice as many"),
        ("distillation", {"teacher_nfe": 400}, "at most process.timesteps 200"),
        ("training", {"timestep_sampling": "importance"}, "training.timestep_sampling"),
        ("training", {"condition_dropout": 0.0}, "distillation.guidance"),
    ],
)
def test_a_recipe_that_cannot_be_distilled_is_refused(table, change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(RECIPE, **{table: dataclasses.replace(getattr(RECIPE, table), **change)})


@pytest.fixture
def teacher(recipe, tmp_path):
    """A run of the NumPy twin."""
    assert run("train", "--config", recipe, "--run", tmp_path / "teacher")[0] == 0
    return tmp_path / "teacher"


def test_a_distilled_run_is_an_ordinary_run(teacher, tmp_path):
    student = tmp_path / "student"
    code, out, err = run("distil", teacher, "--nfe", 2, "--run", student)
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {student / 'checkpoints' / 'step-00000004'}"
    recipe = load_recipe(student / "recipe.json")
    data = json.loads((resolve_checkpoint(student) / "data.json").read_text())
    assert recipe.sampling.steps == 2 and recipe.training.seed == 1 and recipe.training.learning_rate == 5e-5
    distilled = data["distilled"]
    assert distilled["teacher"] == str(resolve_checkpoint(teacher)) == recipe.distillation.teacher
    assert (distilled["nfe"], distilled["teacher_nfe"], distilled["teacher_distilled"]) == (2, 16, None)
    assert run("sample", student, "--n", 2, "--out", tmp_path / "images")[0] == 0
    manifest = json.loads((tmp_path / "images" / "manifest.json").read_text())
    assert manifest["nfe"] == 2 and manifest["sampler"] == "ddim" and distilled["weights_sha256"]
    again = tmp_path / "again"
    assert run("distil", student, "--nfe", 1, "--steps", 2, "--run", again)[0] == 0
    second = json.loads((resolve_checkpoint(again) / "data.json").read_text())["distilled"]
    assert second["teacher_nfe"] == 2 and second["teacher_distilled"] == distilled
    said = refused(2, "distil", student, "--nfe", 1, "--teacher-nfe", 4, "--run", tmp_path / "new")
    assert "distillation.teacher_nfe = 4: must be 2" in said


def test_a_network_that_comes_with_the_software_can_be_distilled(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "box")
    save_pretrained(tmp_path / "box" / "tiny", load_checkpoint(resolve_checkpoint(teacher)))
    code, _, err = run("distil", "pretrained:tiny", "--nfe", 1, "--run", tmp_path / "student")
    assert code == 0, err
    assert load_recipe(tmp_path / "student" / "recipe.json").distillation.teacher == "pretrained:tiny"


def test_a_student_starts_from_its_teacher(teacher, tmp_path):
    run("distil", teacher, "--nfe", 1, "--learning-rate", 1e-30, "--run", tmp_path / "student")
    ours, theirs = (weights_of(folder) for folder in (tmp_path / "student", teacher))
    name = next(name for name in ours if name.startswith("unet"))
    assert ours[name] == theirs[name]


def test_a_distillation_goes_on_with_no_other_teacher(teacher, tmp_path, monkeypatch):
    student = tmp_path / "student"
    monkeypatch.setattr("tests.numpy_impl.trainer.Trainer.interrupt_at", 1)
    code, out, _ = run("distil", teacher, "--nfe", 2, "--run", student)
    assert code == 130 and f"train --resume {student}" in out
    monkeypatch.setattr("tests.numpy_impl.trainer.Trainer.interrupt_at", None)
    assert run("train", "--resume", teacher, "--training.steps", 5)[0] == 0  # which keeps one checkpoint, the last
    resume = ("train", "--resume", student)
    assert "no such run or checkpoint" in refused(2, *resume)
    assert "the teacher has changed" in refused(2, *resume, "--distillation.teacher", teacher)


def test_an_interrupted_distillation_ends_with_the_same_bits_wherever_its_teacher_lies(teacher, tmp_path, monkeypatch):
    words = ("distil", teacher, "--nfe", 2, "--steps", 6, "--run")
    assert run(*words, tmp_path / "whole")[0] == 0
    monkeypatch.setattr("tests.numpy_impl.trainer.Trainer.interrupt_at", 3)
    assert run(*words, tmp_path / "halves")[0] == 130
    monkeypatch.setattr("tests.numpy_impl.trainer.Trainer.interrupt_at", None)
    teacher.rename(tmp_path / "moved")
    code, _, err = run("train", "--resume", tmp_path / "halves", "--distillation.teacher", tmp_path / "moved")
    assert code == 0, err
    assert weights_of(tmp_path / "halves") == weights_of(tmp_path / "whole")


def test_a_teacher_of_another_kind_is_refused(teacher, recipe, tmp_path):
    flags = ("--distillation.teacher", teacher, "--sampling.steps", 4, "--run", tmp_path / "a")
    train = ("train", "--config", recipe, *flags)
    assert "must have the recipe's own [process]" in refused(2, *train, "--process.timesteps", 90)
    assert "must have the recipe's own [model]" in refused(2, *train, "--model.norm-num-groups", 2)
    assert "other data" in refused(2, *train, "--data.simulate-seed", 7)
    assert not (tmp_path / "a").exists()
    assert "no recipe.json" in refused(2, "distil", resolve_checkpoint(teacher) / "unet", "--run", tmp_path / "a")


def test_a_dry_run_of_a_distillation_writes_nothing(teacher, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("distil", teacher, "--dry-run")
    assert code == 0, err
    assert '"teacher_nfe": 16' in out and "whole run" in out
    assert sorted(tmp_path.rglob("*")) == before
