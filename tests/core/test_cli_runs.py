"""Runs by the command line: what a run leaves, samples of it, going on, and damaged runs."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import WEIGHTS_FILE
from core.commands.train import bf16_of
from core.config import Recipe, TrainingConfig
from core.files import write_tensors
from core.reading import read_tensors
from core.training.pace import fit_to
from tests.command_line import RECIPE, refused, run, steps_of, weights_of
from tests.numpy_impl.pace import PACE


def test_a_run_leaves_what_the_architecture_says(recipe, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run("train", "--config", recipe, "--run", folder, "--training.sample-every", 2)
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {folder / 'checkpoints' / 'step-00000004'}"
    found = {path.relative_to(folder).as_posix() for path in folder.iterdir()}
    assert found == {"recipe.json", "run.json", "metrics.jsonl", "samples", "checkpoints", "latest", "lock"}
    assert {p.name for p in (folder / "samples").iterdir()} == {"step-00000002.png", "step-00000004.png"}
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000004"]  # keep_checkpoints = 1
    assert (folder / "latest").read_text() == "step-00000004\n"
    assert json.loads((folder / "recipe.json").read_text())["training"]["sample_every"] == 2
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {"step", "loss", "grad_norm", "lr", "images_per_second", "skipped"} <= line.keys()
    assert line["lr"] == 1e-4 and line["skipped"] == 0 and np.isfinite(line["loss"])  # half of 2e-4: warm-up of 2
    assert steps_of(folder) == [1, 2, 3, 4]


def test_the_folder_of_a_run_has_a_name_where_none_is_given(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--config", recipe)[0] == 0
    assert (tmp_path / "runs" / "tiny-tests.numpy" / "latest").is_file()


def test_a_dry_run_says_what_to_expect_and_writes_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("train", "--config", recipe, "--dry-run")
    assert code == 0, err
    assert json.loads(out[: out.index("\n}") + 2])["model"]["sample_size"] == [8, 16]
    for word in ("parameters", "memory", "GiB", "images/s", "whole run", "bf16 on the CPU"):
        assert word in out
    assert sorted(tmp_path.rglob("*")) == before


def test_minutes_choose_the_steps_which_the_run_keeps(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(PACE, "seconds", 0.01)
    monkeypatch.chdir(tmp_path)
    words = ("train", "--config", recipe, "--run", "run", "--minutes", 0.01)
    code, out, err = run(*words, "--training.checkpoint-every", 5, "--training.warmup-steps", 30)
    assert code == 0, err
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())["training"]
    steps = written["steps"]
    assert 1 < steps < 59 and written["warmup_steps"] == steps // 10  # of 0.6 s, less the margin
    assert out.splitlines()[0].startswith(f"--minutes 0.01: {steps} steps")
    assert steps_of(tmp_path / "run")[-1] == steps
    monkeypatch.setattr(PACE, "seconds", 0.0)
    again = ("--training.steps", steps, "--training.warmup-steps", steps // 10)
    assert run("train", "--config", recipe, "--run", "again", *again)[0] == 0
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "again")  # the timed steps leave no trace
    out = run("train", "--config", recipe, "--dry-run", "--minutes", 0.01)[1]
    assert out.splitlines()[0].split()[2] == out.splitlines()[-1].split()[-2] != "4"


@pytest.mark.parametrize(
    ("seconds", "step", "steps", "warmup"), [(60, 0.0625, 931, 50), (62, 1, 60, 6), (5, 1, 4, 0), (2, 1, 1, 0)]
)
def test_a_short_training_warms_up_for_a_tenth_of_its_steps(seconds, step, steps, warmup):
    recipe = Recipe(training=TrainingConfig(warmup_steps=50))
    fitted = fit_to(recipe, seconds, step).training
    assert (fitted.steps, fitted.warmup_steps) == (steps, warmup)
    with pytest.raises(ValueError, match="at least"):
        fit_to(recipe, seconds, 2 * seconds)


FORMS = ["RUN", "RUN --n 4", "--n 4 RUN", "--gif RUN", "--n=4 RUN --no-gif", "--checkpoint RUN"]


@pytest.mark.parametrize("form", [form.split() for form in FORMS])
def test_a_run_to_sample_from_may_stand_anywhere(recipe, tmp_path, form):
    folder = tmp_path / "run"
    assert run("train", "--config", recipe, "--run", folder)[0] == 0
    words = [folder if word == "RUN" else word for word in form]
    code, out, err = run("sample", *words, "--out", tmp_path / "images")
    assert code == 0, err
    assert len(np.load(tmp_path / "images" / "samples.npy")) == (4 if "4" in str(form) else 64)
    assert (tmp_path / "images" / "denoising.gif").exists() == ("--gif" in form)
    assert out.splitlines()[-1].startswith(f"wrote {tmp_path / 'images' / 'samples.npy'}")


def test_precision_and_runtime_are_written_or_refused(recipe, tmp_path):
    assert run("train", "--config", recipe, "--run", tmp_path / "run")[0] == 0
    sample = ("sample", tmp_path / "run", "--n", 1, "--out", tmp_path / "images", "--overwrite")
    for precision in ("fp32", "bf16"):
        assert run(*sample, "--precision", precision)[0] == 0
        assert json.loads((tmp_path / "images" / "manifest.json").read_text())["precision"] == precision
    assert "error: runtime onnx: must be framework for bf16" in refused(
        2, *sample, "--runtime", "onnx", "--precision", "bf16"
    )
    double = tmp_path / "double"
    assert run("train", "--config", recipe, "--run", double, "--training.dtype", "float64")[0] == 0
    said = refused(2, "sample", double, "--precision", "bf16")
    assert "precision bf16: must be fp32, since the network is of float64" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("fpu amx_bf16 avx512_bf16", "AMX and AVX-512"),
        ("fpu avx512_bf16", "AVX-512, no AMX"),
        ("fpu", "no"),
        (None, "unknown"),
    ],
)
def test_the_bf16_instructions_of_a_processor(tmp_path, flags, words):
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"processor: 0\nflags : {flags}\n")
    assert bf16_of(path).startswith(words)


def test_samples_are_not_overwritten_unasked(recipe, tmp_path):
    folder = tmp_path / "run"
    assert run("train", "--config", recipe, "--run", folder)[0] == 0
    assert run("sample", folder, "--n", 1)[0] == 0
    assert (folder / "samples-ddim-3-seed0" / "samples.npy").is_file()
    assert "--overwrite" in refused(2, "sample", folder, "--n", 1)
    assert run("sample", folder, "--n", 2, "--overwrite")[0] == 0


def test_a_run_is_not_started_twice_nor_resumed_as_another(recipe, tmp_path):
    folder = tmp_path / "run"
    assert run("train", "--config", recipe, "--run", folder)[0] == 0
    assert f"--resume {folder}" in refused(2, "train", "--config", recipe, "--run", folder)
    line = refused(2, "train", "--resume", folder, "--model.layers-per-block", 2)
    assert "--model.layers_per_block = 2" in line and "trained with 1" in line
    line = refused(2, "train", "--resume", folder, "--training.learning-rate", 1)
    assert "training.learning_rate" in line and "training.steps" in line
    assert "already at step 4" in refused(2, "train", "--resume", folder)
    code, out, _ = run("train", "--resume", folder, "--training.steps", 5)
    assert code == 0 and "step-00000005" in out and steps_of(folder) == [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run with two checkpoints, and one of another network."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(RECIPE.replace("CACHE", str(folder / "cache")))
    for name, flag in (("whole", "--training.keep-checkpoints"), ("other", "--model.layers-per-block")):
        assert run("train", "--config", folder / "tiny.toml", "--run", folder / name, flag, 2)[0] == 0
    return folder / "whole", folder / "other"


LAST = Path("checkpoints", "step-00000004")
UNET = LAST / "unet"


ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            lambda folder, other: halve(folder / LAST / "training_state.safetensors"),
            LAST / "training_state.safetensors",
        ),
        (lambda folder, other: halve(folder / UNET / WEIGHTS_FILE), WEIGHTS_FILE),
        (lambda folder, other: halve(folder / LAST / "recipe.json"), LAST / "recipe.json"),
        (lambda folder, other: shutil.rmtree(folder / LAST), "step-00000004"),
        (lambda folder, other: shutil.copytree(other / UNET, folder / UNET, dirs_exist_ok=True), LAST),
    ],
    ids=["state", "weights", "recipe", "no checkpoint", "another network"],
)
def test_a_run_goes_on_from_its_newest_whole_checkpoint(runs, tmp_path, caplog, damage, named):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    damage(folder, runs[1])
    assert run("train", "--resume", folder, "--training.steps", 6)[0] == 0 and str(named) in caplog.text
    whole = shutil.copytree(runs[0], tmp_path / "whole")
    assert run("train", "--resume", whole, "--training.steps", 6)[0] == 0
    assert weights_of(folder) == weights_of(whole) and steps_of(folder) == steps_of(whole)


@pytest.mark.parametrize("name", ["training_state.safetensors", f"unet/{WEIGHTS_FILE}", "recipe.json", "data.json"])
def test_a_run_without_a_whole_checkpoint_is_refused_and_left_alone(runs, tmp_path, name):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    for checkpoint in (folder / "checkpoints").iterdir():
        halve(checkpoint / name)
    before = contents(folder)
    line = refused(2, "train", "--resume", folder, "--training.steps", 6)
    assert "no checkpoint is whole" in line and Path(name).name in line
    assert contents(folder) == before


@pytest.mark.parametrize("text", [None, "", "step-00000009\n", "../../elsewhere", "\0\xff"])
def test_a_missing_or_damaged_latest_costs_nothing(runs, tmp_path, caplog, text):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    (folder / "latest").unlink()
    if text is not None:
        (folder / "latest").write_text(text)
    assert run("sample", folder, "--n", 1, "--out", tmp_path / "images")[0] == 0
    assert "taking the newest checkpoint, step-00000004" in caplog.text
    caplog.clear()
    assert run("train", "--resume", folder, "--training.steps", 6)[0] == 0
    assert "taking the newest checkpoint" in caplog.text and steps_of(folder) == [1, 2, 3, 4, 5, 6]
    assert (folder / "latest").read_text() == "step-00000006\n"


def test_what_may_change_is_judged_against_the_checkpoint(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["training"]["learning_rate"] = 0.5
    (folder / "recipe.json").write_text(json.dumps(recipe))
    line = refused(2, "train", "--resume", folder, "--training.steps", 6)
    assert "training.learning_rate = 0.5" in line and "--retune" in line
    recipe["training"]["seed"] = 9
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert "training.seed = 9" in refused(2, "train", "--resume", folder, "--training.steps", 6, "--retune")


def test_another_rate_is_taken_where_it_is_asked_for_and_noted(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    flags = ("--resume", folder, "--training.steps", 6, "--training.learning-rate", 1e-5)
    assert "--retune allows it" in refused(2, "train", *flags)
    assert run("train", *flags, "--retune")[0] == 0
    (line,) = (folder / "changes.jsonl").read_text().splitlines()
    assert json.loads(line)["training.learning_rate"] == {"old": pytest.approx(2e-4), "new": 1e-5}
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["lr"] <= 1e-5
    flags = ("--resume", folder, "--training.steps", 7, "--training.muon-learning-rate", 0.01)
    assert "--retune allows it" in refused(2, "train", *flags)
    assert run("train", *flags, "--retune")[0] == 0
    assert "--retune: is for --resume" in refused(2, "train", "--config", folder / "recipe.json", "--retune")


def test_one_process_trains_in_a_folder(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    code = "import sys; from pathlib import Path; from core.checkpoints.run_folder import RunFolder\n"
    code += "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    line = refused(2, "train", "--resume", folder, "--training.steps", 6)
    assert f"process {holder.pid} on {platform.node()}" in line
    holder.kill()  # the lock of a dead process does not block
    holder.wait()
    assert run("train", "--resume", folder, "--training.steps", 6)[0] == 0


def test_a_run_that_was_killed_after_its_last_checkpoint_is_tidied(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    code = "import os, sys; from pathlib import Path; from core.files import remove_folder\n"
    code += "import shutil; shutil.rmtree = lambda *_, **__: os._exit(9); remove_folder(Path(sys.argv[1]))"
    first = folder / "checkpoints" / "step-00000002"
    assert subprocess.run([sys.executable, "-c", code, str(first)], cwd=ROOT).returncode == 9
    assert [*folder.rglob(".*.partial")]
    assert "already at step 4" in refused(2, "train", "--resume", folder)
    assert not [*folder.rglob(".*")]


@pytest.mark.parametrize("flags", [("--resume", ""), ("--run", ""), ("--config=",), ("--data.cache", "")])
def test_an_empty_value_is_an_unset_variable(recipe, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert f"{flags[0].rstrip('=')}: its value is empty" in refused(2, "train", "--config", recipe, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_train_alone_explains_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--config configs/demo.toml" in refused(2, "train")
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_recipe_is_damaged_is_refused_by_its_name(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    halve(folder / "recipe.json")
    assert str(folder / "recipe.json") in refused(2, "train", "--resume", folder)


@pytest.mark.parametrize("verb", ["sample", "edit img2img", "likelihood --levels 3 --data IMAGES"])
def test_replaced_weights_are_used_where_the_flag_asks_for_it(runs, tmp_path, caplog, verb):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    np.save(tmp_path / "images.npy", np.full((2, 8, 16), 0.5))
    words = [tmp_path / "images.npy" if word == "IMAGES" else word for word in verb.split()]
    words += [folder, *([tmp_path / "images.npy"] if "edit" in verb else []), "--n", 2]
    path = folder / UNET / WEIGHTS_FILE
    write_tensors(path, {name: value / 2 for name, value in read_tensors(path).items()})
    line = refused(2, *words)
    assert f"{path}: damaged, or changed since it was saved" in line and "--changed-weights" in line
    code, _, err = run(*words, "--changed-weights")
    assert code == 0 and "changed since it was saved" in caplog.text, err


def test_raw_weights_of_another_network_are_refused(recipe, tmp_path):
    folder = tmp_path / "run"
    assert run("train", "--config", recipe, "--run", folder)[0] == 0
    path = folder / "checkpoints" / "step-00000004" / "training_state.safetensors"
    tensors = read_tensors(path)
    write_tensors(path, {name: value for name, value in tensors.items() if "conv_in" not in name})
    assert "conv_in" in refused(2, "sample", folder, "--weights", "raw", "--n", 1, "--changed-weights")
    assert run("sample", folder, "--n", 1)[0] == 0  # the average is whole


def test_a_run_that_is_not_finite_stops_and_names_the_remedy(recipe, tmp_path):
    flags = ("--training.learning-rate", 1e30, "--training.steps", 40, "--training.sample-count", 0)
    line = refused(1, "train", "--config", recipe, "--run", tmp_path / "run", *flags)
    assert "20 steps in a row" in line and "learning_rate" in line


def test_a_folder_that_cannot_be_made(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(2, "train", "--config", recipe, "--run", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in line
    assert run("train", "--config", recipe, "--run", tmp_path / "run")[0] == 0
    assert str(tmp_path / "file") in refused(2, "sample", tmp_path / "run", "--n", 1, "--out", tmp_path / "file")


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(recipe, runs, tmp_path):
    folder, (runs, _) = tmp_path / "new", runs
    given = {
        "train": ("train", "--config", recipe, "--run", folder),
        "dry run": ("train", "--config", recipe, "--dry-run"),
        "resume": ("train", "--resume", runs, "--training.steps", 6),
        "sample": ("sample", runs, "--out", folder),
        "likelihood": ("likelihood", runs),
        "edit": ("edit", "reconstruct", runs, "--out", folder),
    }
    for name, words in given.items():
        line = refused(2, *words, "--device", "cuda")
        assert line == "error: device cuda: NumPy finds none here; must be auto or cpu", name
    assert not folder.exists()
    assert run("train", "--config", recipe, "--run", folder, "--device", "cpu")[0] == 0
    line = refused(2, "sample", runs, "--runtime", "onnx", "--device", "cuda")
    assert line == "error: device cuda: must be cpu with runtime onnx"
