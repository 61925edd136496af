"""Drawing: keyed noise, independence of the batch size, labels, frames and the files written."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.checkpoints.trained import open_trained
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.exits import RunError
from core.files import file_hash, write_json
from core.inference.conditioning import class_labels
from core.inference.samples import Film, manifest_of, write_samples
from core.inference.sampling import Conditioned, KeyedNoise, finished, run_table
from core.networks.specs import initial_weights
from core.random import gaussian
from tests.numpy_impl.sampler import Network

SHAPE = (4, 6, 2)
PROCESS = make_process(ProcessConfig(timesteps=50))
TABLES = {
    "ddpm": make_table(PROCESS, SamplingConfig("ddpm", 7)),
    "ddim": make_table(PROCESS, SamplingConfig("ddim", 5, eta=0.5, clip=False)),
}
MODEL = ModelConfig(
    (8, 8), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,), norm_num_groups=4
)


def network(x, t, labels=None):
    """Acts on each image alone."""
    shift = 0 if labels is None else labels[:, None, None, None] / 10
    return np.tanh(0.7 * x + np.cos(0.1 * t)) * 0.5 + shift


def draw(table, seed, samples, batch_size, dtype="float64", condition=None, after=None, module=network):
    """Images in [0, 1] of the network, by core's reference executor."""
    given = Conditioned(Network(module), condition or {})
    noise = KeyedNoise(seed, samples, SHAPE, dtype)
    return finished(run_table(table, given, noise, batch_size, after=after and (lambda part: after)))


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("name", TABLES)
def test_an_image_depends_on_its_seed_and_number_alone(name, dtype):
    def images(samples, batch_size, seed=3):
        return draw(TABLES[name], seed, samples, batch_size, dtype)

    together = images(range(7), 7)
    assert together.shape == (7, *SHAPE) and together.dtype == dtype
    assert together.min() >= 0 and together.max() <= 1
    for batch_size in (1, 3, 100):
        assert images(range(7), batch_size).tobytes() == together.tobytes()
    assert images(range(4, 7), 2).tobytes() == together[4:].tobytes()
    assert images([5, 2], 2).tobytes() == together[[5, 2]].tobytes()
    assert (images(range(7), 7, seed=4) != together).any()
    assert len(np.unique(together.reshape(7, -1), axis=0)) == 7


@pytest.mark.parametrize("name", TABLES)
def test_drawing_is_the_reference_loop_over_keyed_noise(name):
    """(x + 1) / 2, clipped, of the loop from x_T with the noise of (seed, sample, row)."""
    found = draw(TABLES[name], 3, range(5), 2)
    x_T = gaussian(3, "x_T", range(5), 0, SHAPE)
    x = run(TABLES[name], network, x_T, lambda row: gaussian(3, "sampler", range(5), row, SHAPE))
    assert (found == np.clip((x + 1) / 2, 0, 1)).all() and (np.abs(x) > 1).any() == (name == "ddim")


def test_labels_and_the_hook_come_by_batch():
    labels, calls = np.array([0, 1, 2, 3, 4]), []

    def after(row, x, x_0):
        calls.append((row, x_0))
        return x

    found = draw(TABLES["ddim"], 0, range(5), 2, condition={"labels": labels}, after=after)
    alone = draw(TABLES["ddim"], 0, range(3, 4), 1, condition={"labels": labels[3:4]})
    assert (found[3] == alone[0]).all()
    assert [row for row, _ in calls] == [*range(5)] * 3 and [len(x) for _, x in calls] == [2] * 10 + [1] * 5


def test_images_that_are_not_finite_are_an_error():
    def diverged(x, t):
        return np.where(np.arange(len(x))[:, None, None, None] == 1, np.nan, x)

    with pytest.raises(RunError, match="2 of 4 images have values that are not finite"):
        draw(TABLES["ddim"], 0, range(4), 2, module=diverged)


def test_labels_of_the_images_to_draw():
    data = {"class_names": ["no", "sphere", "vort"]}
    assert class_labels(None, data, range(4), None) is None
    assert class_labels(3, data, range(1, 6), None).tolist() == [1, 2, 0, 1, 2]
    assert class_labels(3, data, range(2), "vort").tolist() == [2, 2]
    assert class_labels(3, data, range(2), "1").tolist() == [1, 1]
    assert class_labels(3, {}, range(4), None).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="--class-name axion: must be one of no, sphere, vort"):
        class_labels(3, data, range(2), "axion")
    with pytest.raises(ValueError, match="--class-name 3: must be one of"):
        class_labels(3, data, range(2), "3")
    with pytest.raises(ValueError, match="not class-conditional"):
        class_labels(None, data, range(2), "vort")


@pytest.mark.parametrize(("rows", "kept"), [(1, 1), (5, 5), (25, 25), (50, 26), (1000, 26)])
def test_frames_are_few_and_end_with_the_image(rows, kept):
    table = SimpleNamespace(nfe=rows)
    with Film(table, 2, True) as film:  # the second batch is not shown
        for row in [*range(rows), *range(rows)]:
            film.after(row, None, np.full((2, 4, 4, 1), 2 * (row / rows) - 1))
    frames = film.frames
    assert len(frames) == kept
    for frame, row in ((frames[0], 0), (frames[-1], rows - 1)):  # images in [0, 1], with a white border
        assert set(np.unique(frame)) <= {row / rows, 1.0} and (frame == row / rows).sum() >= 32


def test_the_files_of_a_drawing(tmp_path):
    images = draw(TABLES["ddim"], 0, range(5), 5)[..., :1]
    frames = [np.zeros((4, 4, 1)), np.ones((4, 4, 1))]
    write_samples(tmp_path / "a" / "b", images, frames, {"sampler": "ddim"})
    folder = tmp_path / "a" / "b"
    assert {p.name for p in folder.iterdir()} == {"samples.npy", "grid.png", "denoising.gif", "manifest.json"}
    stored = np.load(folder / "samples.npy", allow_pickle=False)
    assert stored.dtype == np.float32 and (stored == images.astype(np.float32)).all()
    with Image.open(folder / "denoising.gif") as gif:
        assert gif.n_frames >= 2  # equal frames at the end may be merged
    assert json.loads((folder / "manifest.json").read_text()) == {"sampler": "ddim"}
    write_samples(tmp_path / "c", images, [], {})
    assert not (tmp_path / "c" / "denoising.gif").exists()


def test_a_trained_network_and_its_manifest(tmp_path):
    training = TrainingConfig(dtype="float64", steps=3)
    recipe = Recipe(
        MODEL, ProcessConfig(timesteps=60, prediction="v"), training=training, sampling=SamplingConfig("ddpm", 9)
    )
    ema, raw = (initial_weights(MODEL, seed, "float64") for seed in (0, 1))
    state = {f"{part}/{n}": v for part in ("params", "exp_avg", "exp_avg_sq") for n, v in raw.items()}
    folder = tmp_path / "a"
    save_checkpoint(folder, Checkpoint(recipe, ema, state, {"step": 3}, {"sha256": "abc", "class_names": []}))
    source = open_trained(folder, "ema")
    assert (source.model, source.process, source.sampling) == (MODEL, recipe.process, recipe.sampling)
    assert source.dtype == "float64" and all((source.weights[n] == ema[n]).all() for n in ema)
    table = make_table(make_process(source.process), source.sampling)
    manifest = manifest_of(source, source.sampling, table, 0.0)
    assert manifest["nfe"] == 9 and manifest["data_sha256"] == "abc" and manifest["sampler"] == "ddpm"
    assert manifest["weights_sha256"] == file_hash(folder / "unet" / "diffusion_pytorch_model.safetensors")
    raws = open_trained(folder, "raw")
    assert all((raws.weights[n] == raw[n]).all() for n in raw)
    assert manifest_of(raws, source.sampling, table, 0.0)["weights_sha256"] != manifest["weights_sha256"]
    # Without our own files it is a diffusers pipeline: process and sampler are the scheduler's, of all its levels.
    for name in ("recipe.json", "data.json"):
        (folder / name).unlink()
    peer = open_trained(folder, "ema")
    assert (peer.process, peer.dtype, peer.sampling) == (recipe.process, "float32", SamplingConfig("ddpm", 60))
    short = {"_class_name": "DDIMScheduler", "num_train_timesteps": 20}
    write_json(folder / "scheduler" / "scheduler_config.json", short)
    assert open_trained(folder, "ema").sampling.steps == 20
