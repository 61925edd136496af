"""The command line of each twin as a user meets it: train, Ctrl-C, resume, sample, classes, diffusers' pipeline.

One run is trained in processes of its own; the other calls share this one, which has the framework loaded already.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config.recipes import load_recipe
from core.files import file_hash
from core.networks.specs import count_parameters
from core.random import gaussian
from core.reading import read_tensors
from tests import command_line

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
[model]
sample_size = [8, 16]
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
attention_head_dim = 4
[process]
timesteps = 100
[data]
simulate_count = 24
cache = "CACHE"
[training]
steps = 100000
batch_size = 4
learning_rate = 1e-3
warmup_steps = 2
log_every = 1
checkpoint_every = 100000
sample_count = 4
[sampling]
steps = 4
"""
SMALLEST = """
[model]
sample_size = 8
block_out_channels = [8]
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
mid_block_type = "none"
[data]
simulate_count = 24
cache = "CACHE"
[training]
steps = 30
batch_size = 4
warmup_steps = 0
log_every = 5
sample_count = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def recipes(folder) -> dict[str, Path]:
    paths = {"tiny": folder / "tiny.toml", "smallest": folder / "smallest.toml"}
    for name, text in (("tiny", RECIPE), ("smallest", SMALLEST)):
        paths[name].write_text(text.replace("CACHE", str(folder / "cache")))
    return paths


@pytest.fixture(scope="module")
def call(backend):
    """The twin's command line: exit code, stdout, stderr."""
    return partial(command_line.call, repr(backend))


@pytest.fixture(scope="module")
def interrupted(backend, folder, recipes) -> tuple[Path, int, str, str]:
    """A run stopped by Ctrl-C some steps after the first: folder, exit code, stdout, stderr."""
    run = folder / "run"
    child = subprocess.Popen(
        [sys.executable, "-m", repr(backend), "train", "--config", recipes["tiny"], "--run", run],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    deadline = time.monotonic() + 240
    while child.poll() is None and time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text().count("\n") >= 2:
            child.send_signal(signal.SIGINT)
            break
        time.sleep(0.05)
    try:
        out, err = child.communicate(timeout=120)
    finally:
        child.kill()
    return run, child.returncode, out, err


@pytest.fixture(scope="module")
def trained(interrupted, call) -> Path:
    """That run, resumed for two steps and at its end."""
    run, *_ = interrupted
    step = json.loads(next((run / "checkpoints").glob("step-*/training_state.json")).read_text())["step"]
    code, out, err = call("train", "--resume", run, "--training.steps", step + 2)
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {run / 'checkpoints' / f'step-{step + 2:08d}'}"
    return run


def checkpoint_of(run: Path) -> Path:
    return run / "checkpoints" / (run / "latest").read_text().strip()


def test_ctrl_c_saves_and_says_how_to_go_on(interrupted, backend):
    run, code, out, err = interrupted
    assert code == 130, err
    assert out.splitlines()[-1].endswith(f"go on with: python -m {backend!r} train --resume {run}")
    assert "Traceback" not in err and checkpoint_of(run).is_dir()


def test_a_resumed_run_has_every_step_once_and_a_grid(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = json.loads((checkpoint_of(trained) / "training_state.json").read_text())["step"]
    assert [line["step"] for line in lines] == list(range(1, last + 1))
    keys = {"step", "loss", "grad_norm", "lr", "images_per_second", "skipped"}
    assert all(keys <= line.keys() and np.isfinite(line["loss"]) and line["skipped"] == 0 for line in lines)
    names = {path.name for path in trained.iterdir()}
    assert {"recipe.json", "metrics.jsonl", "samples", "checkpoints", "latest"} <= names
    with Image.open(trained / "samples" / f"step-{last:08d}.png") as picture:
        assert picture.size == (2 * 18 + 2, 2 * 10 + 2)  # four images of 16 x 8 with 2 pixels around


@pytest.fixture(scope="module")
def eight(trained, call, folder, backend) -> Path:
    out = folder / "eight"
    code, said, err = call("sample", trained, "--n", 8, "--seed", 3, "--gif", "--out", out, "--batch-size", 3)
    assert code == 0, err
    assert said.splitlines()[-1].startswith("wrote ")
    return out


def test_sample_writes_images_grid_film_and_manifest(eight, trained, backend):
    images = np.load(eight / "samples.npy", allow_pickle=False)
    assert images.shape == (8, 8, 16, 1) and images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    with Image.open(eight / "grid.png") as picture:
        assert picture.size == (3 * 18 + 2, 3 * 10 + 2)
    with Image.open(eight / "denoising.gif") as film:
        assert film.n_frames >= 2
    manifest = json.loads((eight / "manifest.json").read_text())
    weights = checkpoint_of(trained) / "unet" / "diffusion_pytorch_model.safetensors"
    expected = {
        "weights_sha256": file_hash(weights),
        "normalise": "none",
        "weights": "ema",
        "sampler": "ddim",
        "steps": 4,
        "nfe": 4,
        "seed": 3,
        "first": 0,
        "n": 8,
        "framework": backend.name,
        "batch_size": 3,
        "labels": None,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert {"version", "threads", "seconds", "python", "numpy", "device"} <= manifest.keys()


def test_a_range_of_a_seed_is_part_of_the_whole(eight, trained, call, folder):
    code, _, err = call("sample", "--first", 5, "--n", 3, "--seed", 3, trained, "--out", folder / "three")
    assert code == 0, err
    whole, part = (np.load(out / "samples.npy") for out in (eight, folder / "three"))
    assert np.abs(np.rint(part * 255) - np.rint(whole[5:] * 255)).max() <= 1
    assert np.abs(whole[5:] - whole[:3]).max() > 1 / 255  # another range would be seen
    x_T = gaussian(3, "x_T", range(8), 0, (8, 16, 1), "float32")
    np.testing.assert_array_equal(gaussian(3, "x_T", range(5, 8), 0, (8, 16, 1), "float32"), x_T[5:])


def test_raw_weights_are_those_of_the_last_step(eight, trained, call, folder):
    code, _, err = call("sample", trained, "--n", 8, "--seed", 3, "--weights", "raw", "--out", folder / "raw")
    assert code == 0, err
    assert json.loads((folder / "raw" / "manifest.json").read_text())["weights"] == "raw"
    assert not np.array_equal(np.load(folder / "raw" / "samples.npy"), np.load(eight / "samples.npy"))


def test_a_dry_run_writes_nothing(call, recipes, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    code, out, err = call("train", "--config", recipes["smallest"], "--dry-run")
    assert code == 0, err
    assert set(folder.iterdir()) - before <= {folder / "cache"}
    parameters = count_parameters(load_recipe(recipes["smallest"]).model)
    assert f"parameters        {parameters:,}" in out and "GiB" in out and "images/s" in out and "whole run" in out


def test_a_run_that_is_not_finite_ends_with_code_1(call, recipes, folder):
    code, _, err = call(
        "train", "--config", recipes["smallest"], "--run", folder / "bad", "--training.learning-rate", 1e30
    )
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1 and len(errors) == 1 and "Traceback" not in err, err
    assert "20 steps in a row" in errors[0] and "lower training.learning_rate" in errors[0]


@pytest.fixture(scope="module")
def pictures(folder) -> Path:
    """Six dark and six light pictures, in a folder each."""
    rng = np.random.default_rng(0)
    for shade, name in enumerate(("dark", "light")):
        (folder / "classes" / name).mkdir(parents=True)
        for index in range(6):
            np.save(folder / "classes" / name / f"{index}.npy", rng.random((8, 8), np.float32) / 2 + shade / 2)
    return folder / "classes"


STEPS = ("--training.steps", 2, "--training.sample-count", 3, "--sampling.steps", 3)


@pytest.fixture(scope="module")
def with_classes(call, recipes, folder, pictures) -> Path:
    """A run of a network of two classes."""
    run = folder / "conditional"
    command = ("train", "--config", recipes["smallest"], "--run", run, "--data.source", pictures, *STEPS)
    code, _, err = call(*command, "--model.num-class-embeds", 2)
    assert code == 0, err
    return run


def test_more_classes_than_the_network_has_are_refused(call, recipes, folder, pictures):
    command = ("train", "--config", recipes["smallest"], "--run", folder / "none", "--data.source", pictures, *STEPS)
    code, _, err = call(*command, "--model.num-class-embeds", 1)
    assert code == 2 and "model.num_class_embeds = 1" in err and "2 classes" in err


def test_a_class_is_sampled_by_name_or_number_and_all_in_turn(call, with_classes, tmp_path):
    images = []
    for choice, labels in ((["--class-name", "light"], [1, 1, 1]), (["--class-name", "0"], [0, 0, 0]), ([], [0, 1, 0])):
        out = tmp_path / "".join(map(str, labels))
        code, _, err = call("sample", with_classes, "--n", 3, "--out", out, *choice)
        assert code == 0, err
        assert json.loads((out / "manifest.json").read_text())["labels"] == labels
        images.append(np.load(out / "samples.npy"))
    light, dark, both = images
    assert not np.array_equal(light, dark) and np.abs(both[1] - light[1]).max() <= 1 / 255


def test_a_class_that_does_not_exist_is_refused(call, with_classes, tmp_path):
    code, _, err = call("sample", with_classes, "--n", 1, "--class-name", "grey", "--out", tmp_path / "grey")
    assert code == 2 and "--class-name grey: must be one of dark, light" in err


def test_a_network_with_classes_is_no_unconditional_pipeline_to_diffusers(with_classes):
    index = json.loads((checkpoint_of(with_classes) / "model_index.json").read_text())
    assert (
        index["_class_name"] != "DDPMPipeline" and "diffusers" in (checkpoint_of(with_classes) / "README").read_text()
    )


@pytest.fixture(scope="module")
def conditioned(call, recipes, folder) -> Path:
    """A run of a network conditioned on two parameters of simulated lenses, with guidance."""
    run = folder / "numbers"
    flags = ("--model.vector-channels", 2, "--data.condition", "theta_e", "gamma1", "--training.condition-dropout", 0.2)
    steps = ("--training.steps", 2, "--training.checkpoint-every", 1, "--training.sample-count", 3)
    sampling = ("--sampling.steps", 4, "--sampling.guidance", 2.0)
    code, _, err = call("train", "--config", recipes["smallest"], "--run", run, *flags, *steps, *sampling)
    assert code == 0, err
    return run


def manifest_of(path: Path) -> dict:
    return json.loads((path / "manifest.json").read_text())


def test_images_are_conditioned_on_parameters_in_their_units(call, conditioned, tmp_path, caplog):
    flags = ("--param", "theta_e=1.2", "--param=gamma1=0.05", "--n", 3)
    code, _, err = call("sample", *flags, conditioned, "--out", tmp_path / "out")
    assert code == 0 and ": outside" not in caplog.text, err
    manifest = manifest_of(tmp_path / "out")
    assert manifest["parameters"] == {"theta_e": [1.2] * 3, "gamma1": [0.05] * 3}
    found = [manifest[key] for key in ("guidance", "nfe", "network_evaluations", "guide")]
    assert found == [2.0, 4, 8, None]


def test_without_guidance_the_network_is_evaluated_once_a_level(call, conditioned, tmp_path):
    images = []
    for scale, evaluations in ((2, 8), (1, 4)):
        out = tmp_path / str(scale)
        code, _, err = call("sample", conditioned, "--n", 3, "--out", out, "--guidance", scale)
        assert code == 0 and manifest_of(out)["network_evaluations"] == evaluations, err
        images.append(np.load(out / "samples.npy"))
    assert np.abs(images[0] - images[1]).max() > 0


def test_a_parameter_that_is_not_given_is_an_image_s_of_the_data_whatever_the_range(
    call, conditioned, tmp_path, caplog
):
    code, _, err = call("sample", conditioned, "--n", 3, "--out", tmp_path / "whole")
    assert code == 0, err
    part = ("--param", "theta_e=2.5", "--first", 1, "--n", 2, "--out", tmp_path / "part")
    code, _, err = call("sample", conditioned, *part)
    assert code == 0 and "theta_e=2.5: outside 0.9" in caplog.text, err
    whole, found = (manifest_of(tmp_path / name)["parameters"]["gamma1"] for name in ("whole", "part"))
    assert whole[1:] == found


def test_an_earlier_checkpoint_guides(call, conditioned, tmp_path):
    guide = ("--guidance", 2, "--guide", conditioned / "checkpoints" / "step-00000001")
    code, _, err = call("sample", conditioned, "--n", 2, "--out", tmp_path / "out", *guide)
    assert code == 0, err
    manifest = manifest_of(tmp_path / "out")
    assert manifest["network_evaluations"] == 8 and manifest["guide"].endswith("step-00000001/unet")


def test_guidance_in_an_interval_costs_less(call, conditioned, tmp_path):
    interval = ("--guidance-min", 0.05, "--guidance-max", 50)
    code, _, err = call("sample", conditioned, "--n", 3, "--out", tmp_path / "out", *interval)
    assert code == 0 and 4 <= manifest_of(tmp_path / "out")["network_evaluations"] < 8, err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--param", "mass=1"], "--param mass: must be one of theta_e, gamma1"),
        (["--guide", "RUN", "--guidance", "1"], "--guide: no noise level is guided"),
        (["--guide", "OTHER"], "--guide: must be trained with the same process"),
        (["--guide", "CLASSES"], "--guide: must take the same images and conditions"),
        (["--class-name", "vort"], "--class-name vort: the network is not class-conditional"),
    ],
)
def test_conditions_that_the_network_does_not_have(call, folder, trained, conditioned, flags, message):
    words = [
        {"RUN": conditioned, "OTHER": trained, "CLASSES": folder / "conditional"}.get(word, word) for word in flags
    ]
    code, _, err = call("sample", conditioned, "--n", 1, "--out", folder / "none", *words)
    assert code == 2 and message in err and not (folder / "none").exists(), err


def test_a_network_that_knows_its_condition_alone_is_not_guided(call, folder, trained):
    code, _, err = call("sample", trained, "--n", 1, "--guidance", 2, "--out", folder / "none")
    assert code == 2 and "--guidance: must be 1" in err and "--guide" in err


@pytest.mark.parametrize("verb", ["export", "import"])
def test_what_only_a_checkpoint_can_say_is_not_exported_or_imported(call, backend, folder, conditioned, verb):
    formats = {"torch": ["--format", "torch-export"], "tensorflow": ["--format", "keras"]}[backend.name]
    suffix = {"torch": ".pt2", "tensorflow": ".keras"}[backend.name]
    out = folder / ("out" + (suffix if verb == "export" else ""))
    code, _, err = call(verb, conditioned, "--out", out, *(formats if verb == "export" else []))
    assert code == 2 and ("numbers" in err or "recipe.json" in err) and not out.exists(), err


def test_an_unconditional_network_has_no_classes(trained, call, folder):
    code, _, err = call("sample", trained, "--n", 1, "--class-name", "no", "--out", folder / "none")
    assert code == 2 and "--class-name no: the network is not class-conditional" in err


@pytest.mark.diffusers
def test_diffusers_opens_the_checkpoint(trained):
    import torch
    from diffusers import DDPMPipeline

    from torch_impl import load_unet

    pipeline = DDPMPipeline.from_pretrained(checkpoint_of(trained))
    ours, theirs = load_unet(trained), pipeline.unet.eval()
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((2, 1, 8, 16), np.float32))
    t = torch.tensor([3, 41])
    with torch.no_grad():
        expected = theirs(x, t).sample.numpy()
        found = ours(x, t).numpy()
    assert np.abs(expected).max() > 0  # two steps after zero initialisation
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    scheduler = pipeline.scheduler.config
    assert (scheduler.num_train_timesteps, scheduler.beta_schedule, scheduler.prediction_type) == (
        100,
        "linear",
        "epsilon",
    )
    stored = read_tensors(checkpoint_of(trained) / "unet" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == theirs.state_dict().keys()
