"""`load`, `training` and `train` of the twin's package: what a user calls from Python."""

import dataclasses
import importlib

import numpy as np
import pytest

from core.checkpoints import pretrained
from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint, save_pretrained
from core.commands.main import main
from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig


@pytest.fixture(scope="module")
def package(backend):
    return importlib.import_module(repr(backend))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    model = ModelConfig(
        (8, 8),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_type=None,
    )
    data = DataConfig(simulate_count=12, held_out=0.4, cache=str(tmp_path_factory.mktemp("cache")))
    training = TrainingConfig(steps=3, batch_size=4, checkpoint_every=3, sample_count=0)
    return Recipe(model, ProcessConfig(50, prediction="v"), data, training, SamplingConfig(steps=4))


@pytest.fixture(scope="module")
def run(package, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert package.train(recipe, folder)
    return folder


def test_two_lines_draw_what_the_command_line_draws(package, run, tmp_path):
    images = package.load(run).sample(3, seed=1, sampler="unipc", nfe=5)
    argv = ["sample", str(run), "--n", "3", "--seed", "1", "--sampler", "unipc", "--nfe", "5", "--out", str(tmp_path)]
    assert main(package.__name__, argv) == 0
    assert np.array_equal(np.load(tmp_path / "samples.npy"), images)


def test_a_network_that_comes_with_the_software_opens_by_its_name(package, run, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    save_pretrained(tmp_path / "tiny", load_checkpoint(resolve_checkpoint(run)))
    images = package.load("pretrained:tiny").sample(2)
    assert np.array_equal(package.load(tmp_path / "tiny").sample(2), images)
    assert 0 < np.abs(package.load(run).sample(2) - images).max() < 0.01, "the weights are rounded to float16"
    assert package.load_unet("pretrained:tiny") is not None


@pytest.mark.parametrize(("option", "largest"), [("precision=bf16", 0.05), ("runtime=onnx", 0.01 / 255)])
def test_precision_and_runtime_mean_the_same_in_python_and_on_the_command_line(package, run, tmp_path, option, largest):
    name, value = option.split("=")
    if value == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    argv = ["sample", str(run), "--n", "2", f"--{name}", value, "--out", str(tmp_path)]
    assert main(package.__name__, argv) == 0
    generator, plain = package.load(run, **{name: value}), package.load(run).sample(2)
    found = generator.sample(2)
    assert np.array_equal(np.load(tmp_path / "samples.npy"), found)
    assert found.dtype == np.float32 and np.abs(found - plain).max() < largest
    assert (type(generator.network).__name__ == "InferenceSession") if value == "onnx" else (found != plain).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "runtime tensorrt: must be framework or onnx"),
        ({"runtime": "onnx", "device": "cuda"}, "device cuda: must be cpu with runtime onnx"),
        ({"runtime": "onnx", "precision": "bf16"}, "runtime onnx: must be framework for bf16; .*"),
        ({"precision": "fp16"}, "precision fp16: must be fp32 or bf16"),
        ({"device": "gpu"}, "device gpu: .* finds none here; must be auto or cpu"),
    ],
)
def test_what_load_cannot_do_is_said(package, run, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        package.load(run, **options)


def test_the_network_is_the_framework_s_own(package, backend, run):
    network = package.load(run).network
    kind = "torch.nn" if backend.name == "torch" else "keras"
    assert any(base.__module__.startswith(kind) for base in type(network).__mro__)


def test_a_checkpoint_and_a_pipeline_folder_open_too(package, run, recipe, tmp_path):
    checkpoint = run / "checkpoints" / "step-00000003"
    assert np.array_equal(package.load(checkpoint).sample(2), package.load(run).sample(2))
    assert package.load(checkpoint, weights="raw").sample(1).shape == (1, 8, 8, 1)
    for name in ("unet", "scheduler"):
        (tmp_path / name).symlink_to(checkpoint / name)
    assert package.load(tmp_path).sample(1, steps=4).shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match="no such run or checkpoint"):
        package.load(tmp_path / "nothing")


def test_edits_and_likelihood_run_on_drawn_images(package, run):
    generator = package.load(run)
    images = generator.sample(2)
    assert generator.edit.img2img(images, strength=0.5).images.shape == images.shape
    for method in ("vlb", "ode"):
        options = {"levels": 3} if method == "vlb" else {"steps": 2}
        assert np.isfinite(generator.likelihood(images, method, **options)["total"]).all()


def test_a_loop_of_one_s_own_ends_with_the_weights_of_the_run(package, recipe, run):
    training = package.training(recipe)
    steps = [step for step, metrics in training if np.isfinite(metrics["loss"])]
    assert steps == [1, 2, 3]
    np.testing.assert_allclose(training.generator().sample(2), package.load(run).sample(2), atol=1e-6)


def test_a_run_goes_on(package, recipe, run, tmp_path):
    longer = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, steps=4))
    folder = tmp_path / "run"
    assert package.train(recipe, folder) and package.train(longer, folder, resume=True)
    assert (folder / "latest").read_text() == "step-00000004\n"
    assert package.load_recipe(folder / "recipe.json") == longer
