"""Editing over batches with keyed noise, and the verb, over networks in closed form run by NumPy's executor."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.process import make_process
from core.exits import RunError
from core.images import from_unit
from core.inference.editing import Editor, img2img, inpaint, interpolate, read_hole, reconstruct, upscale
from core.inference.sampling import Conditioned
from tests.command_line import RECIPE, run
from tests.numpy_impl.sampler import Network

PROCESS = make_process(ProcessConfig(100, beta_end=0.2, prediction="v"))
SHAPE = (4, 6, 1)


def gaussian_network(x, t, labels=None):
    """The optimal network for pixels N(mean, 0.3^2), whose mean is shifted by the label."""
    shift = 0.0 if labels is None else 0.2 * labels[:, None, None, None]
    signal, noise = PROCESS.signal[int(t)], PROCESS.noise[int(t)]
    eps = noise * (x - signal * shift) / (signal**2 * 0.09 + noise**2)
    return signal * eps - noise * (x - noise * eps) / signal


def editor(batch_size=64, condition=None, **options):
    config = SamplingConfig(**{"sampler": "ddpm", "steps": 20, "batch_size": batch_size, **options})
    return Editor(Conditioned(Network(gaussian_network), condition or {}), PROCESS, config, "float64", 3, 5)


def pictures(count=4):
    return np.clip(0.5 + 0.15 * np.random.default_rng(0).standard_normal((count, *SHAPE)), 0, 1)


def box():
    return read_hole("", "1,2,2,3", SHAPE[:2])


EDITS = {
    "reconstruct": reconstruct,
    "interpolate": lambda e, x: interpolate(e, x, 3),
    "img2img": lambda e, x: img2img(e, x, 0.5),
    "inpaint": lambda e, x: inpaint(e, x, box(), 2, 2),
    "upscale": lambda e, x: upscale(e, from_unit(x), x),
}


def test_an_edit_takes_the_noise_of_its_steps_where_the_sampler_does():
    found = [img2img(editor(noise=noise), pictures(), 0.5).images for noise in ("host", "device", "device")]
    assert np.array_equal(found[1], found[2]) and not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_does_not_depend_on_the_batch_and_counts_its_evaluations(name):
    labels = {"labels": np.array([0, 1, 2, 1])}
    counted = []
    small = dataclasses.replace(editor(3, labels), progress=counted.append)
    found = EDITS[name](small, pictures())
    whole = EDITS[name](editor(64, labels), pictures())
    assert np.array_equal(found.images, whole.images) and found.images.min() >= 0 and found.images.max() <= 1
    there = {"reconstruct": 4 * found.facts.get("encode_nfe", 0), "interpolate": 4 * found.facts.get("encode_nfe", 0)}
    assert sum(counted) == len(found.images) * found.table.nfe + there.get(name, 0)
    rows = len(found.columns[0])
    assert found.picture().shape == (rows * 6 + 2, len(found.columns) * 8 + 2, 1)
    other = EDITS[name](editor(64, {"labels": labels["labels"][::-1]}), pictures())
    assert not np.allclose(other.images, found.images, atol=1e-3)


def test_what_is_known_stays_and_the_hole_changes_with_the_seed():
    found = inpaint(editor(), pictures(), box(), 2, 2)
    assert np.max(np.abs(found.images - pictures())[:, ~box()]) < 1e-12
    hole = found.images[:, box()]
    assert np.all(np.abs(hole - pictures()[:, box()]).max(axis=1) > 0.02)
    again = inpaint(dataclasses.replace(editor(), seed=4), pictures(), box(), 2, 2)
    assert not np.allclose(again.images[:, box()], hole) and np.all(found.columns[1][:, box()] == 0.5)
    assert found.facts["painted_share"] == pytest.approx(6 / 24)


def test_more_steps_bring_an_image_back_better_and_strength_forgets_it():
    errors = [reconstruct(editor(steps=n), pictures()).facts["rms_error_grey_levels"] for n in (10, 30, 90)]
    assert errors[0] > 1.5 * errors[1] and errors[1] > 1.5 * errors[2] and errors[2] < 5
    distances = [np.abs(img2img(editor(), pictures(), s).images - pictures()).mean() for s in (0.1, 0.5, 1.0)]
    assert distances[0] < distances[1] < distances[2] and distances[0] < 0.7 * distances[2]


def test_interpolation_begins_and_ends_with_the_reconstructions():
    x = pictures()
    found, ends = interpolate(editor(), x, 4), reconstruct(editor(), x)
    rows = found.images.reshape(2, 4, *SHAPE)
    assert rows[:, 0] == pytest.approx(ends.images[::2]) and rows[:, -1] == pytest.approx(ends.images[1::2])
    assert [len(column) for column in found.columns] == [2] * 6
    labels = {"labels": np.array([0, 5, 0, 5])}
    rows = interpolate(editor(64, labels), x, 5).images.reshape(2, 5, *SHAPE)
    ends = reconstruct(editor(64, labels), x).images
    assert rows[:, 0] == pytest.approx(ends[::2]) and rows[:, -1] == pytest.approx(ends[1::2])
    for images, frames, message in ((x[:3], 4, "--n 3: must be even"), (x, 1, "--frames 1: must be at least 2")):
        with pytest.raises(ValueError, match=message):
            interpolate(editor(), images, frames)


def test_a_network_that_has_diverged_is_an_error():
    broken = dataclasses.replace(editor(), network=Conditioned(Network(lambda x, t: x * np.nan), {}))
    with pytest.raises(RunError, match="4 of 4 images have values that are not finite"):
        img2img(broken, pictures(), 0.5)


def test_where_to_paint(tmp_path):
    hole = np.zeros((4, 6), bool)
    hole[1:3, 2:5] = True
    assert np.array_equal(box(), hole)
    np.save(tmp_path / "bool.npy", hole)
    np.save(tmp_path / "float.npy", hole[..., None] * 0.9)
    Image.fromarray(hole.astype(np.uint8) * 255).save(tmp_path / "grey.png")
    for file in ("bool.npy", "float.npy", "grey.png"):
        assert np.array_equal(read_hole(str(tmp_path / file), "", (4, 6)), hole)
    for mask, given, message in (
        ("", "", "give either --box"),
        ("a.png", "0,0,1,1", "give either --box"),
        ("a.png", "", "--mask a.png: no such file"),
        ("", "0,0,4", "--box 0,0,4: must be TOP,LEFT,HEIGHT,WIDTH"),
        ("", "3,0,2,2", "--box 3,0,2,2: must be a part of the image of 4x6"),
        ("", "0,0,4,6", "must be a part"),
        ("", "0,0,0,6", "must be a part"),
    ):
        with pytest.raises(ValueError, match=message):
            read_hole(mask, given, (4, 6))
    with pytest.raises(ValueError, match=r"must be .5, 5., as the images"):
        read_hole(str(tmp_path / "grey.png"), "", (5, 5))
    np.save(tmp_path / "none.npy", ~hole & hole)
    with pytest.raises(ValueError, match="paints no pixel"):
        read_hole(str(tmp_path / "none.npy"), "", (4, 6))


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editing")
    recipe = folder / "tiny.toml"
    text = RECIPE.replace("CACHE", str(folder / "cache")).replace("[data]", "[data]\nheld_out = 0.4")
    recipe.write_text(text.replace("[process]", '[process]\nprediction = "v"'))
    assert run("train", "--config", recipe, "--run", folder / "run")[0] == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("kind", "flags", "count", "shape"),
    [
        ("reconstruct", [], 3, (3 * 10 + 2, 3 * 18 + 2)),
        ("img2img", ["--strength", 0.7, "--sampler", "ddim"], 3, (3 * 10 + 2, 3 * 18 + 2)),
        ("inpaint", ["--box", "0,4,8,6", "--steps", 12, "--jump", 3, "--resample", 2], 3, (3 * 10 + 2, 3 * 18 + 2)),
        (
            "interpolate",
            ["--n", 4, "--frames", 3, "--steps", 10, "--spacing", "quadratic"],
            6,
            (2 * 10 + 2, 5 * 18 + 2),
        ),
    ],
)
def test_the_verb_writes_samples_a_picture_and_a_manifest(trained, tmp_path, kind, flags, count, shape):
    code, out, err = run("edit", kind, trained, "--n", 3, "--first", 1, *flags, "--out", tmp_path / "out")
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'out' / 'samples.npy'}, {tmp_path / 'out' / 'grid.png'}"
    images = np.load(tmp_path / "out" / "samples.npy")
    assert images.shape == (count, 8, 16, 1) and images.dtype == np.float32
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.size == shape[::-1]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["edit"] == kind and manifest["images"]["path"] == "held-out" and manifest["first"] == 1
    assert manifest["nfe"] > 0 and manifest["guidance"] == 1
    code, _, err = run("edit", kind, trained, "--n", 3, *flags, "--out", tmp_path / "out")
    assert code == 2 and "already holds samples" in err


def test_images_may_be_files_and_stand_as_the_second_word(trained, tmp_path):
    images = np.random.default_rng(0).random((3, 8, 16))
    np.save(tmp_path / "images.npy", images)
    Image.fromarray((images[0] * 255).astype(np.uint8)).save(tmp_path / "one.png")
    for where, count in (("images.npy", 2), ("one.png", 1)):
        flags = ["--n", count, "--box", "0,0,8,8", "--steps", 5, "--jump", 2, "--overwrite", "--out", tmp_path / "out"]
        code, _, err = run("edit", "inpaint", trained, tmp_path / where, *flags)
        assert code == 0, err
        found = np.load(tmp_path / "out" / "samples.npy")[..., 0]
        assert np.max(np.abs(found[:, :, 8:] - images[:count, :, 8:])) < (1e-6 if where == "images.npy" else 1 / 255)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "small.png")
    code, _, err = run("edit", "img2img", trained, tmp_path / "small.png", "--n", 1)
    assert code == 2 and "8x8 pixels: must have 8x16" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no verb given: must be one of inpaint, img2img, interpolate, reconstruct, upscale"),
        (["paint"], "unknown verb 'paint'"),
        (["inpaint"], "edit inpaint: no run or checkpoint given"),
        (["inpaint", "RUN"], "give either --box"),
        (["upscale", "RUN"], "must be trained with data.low_resolution"),
        (["img2img", "RUN", "a", "b"], "takes a run or checkpoint, and images"),
        (["img2img", "RUN", "--n", 0], "--n 0: must be at least 1"),
        (["img2img", "RUN", "--n", 99], "held-out images; raise data.held_out"),
        (["img2img", "RUN", "--n", 1, "--strength", 2], "--strength 2.0: must be above 0 and at most 1"),
        (["img2img", "RUN", "--n", 1, "--class-name", "vort"], "the network is not class-conditional"),
        (["inpaint", "RUN", "--n", 1, "--box", "0,0,2,2", "--steps", 5, "--jump", 10], "--jump 10: must be in [1, 4]"),
        (["interpolate", "RUN", "--n", 3], "--n 3: must be even"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, words, message):
    code, _, err = run("edit", *(trained if word == "RUN" else word for word in words))
    assert code == 2 and message in err.splitlines()[-1], err


@pytest.mark.parametrize(("steps", "jump"), [(1, 1), (2, 1), (5, 2), (10, 5), (11, 10), (50, 10)])
def test_inpainting_chooses_a_jump_that_fits_the_steps(trained, tmp_path, steps, jump):
    words = ("edit", "inpaint", trained, "--n", 1, "--box", "0,0,2,2", "--steps", steps, "--out", tmp_path / "out")
    code, _, err = run(*words)
    assert code == 0, err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["jump"], manifest["jump_chosen"]) == (jump, "fits the steps")
    assert run(*words, "--overwrite", "--jump", 1)[0] == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["jump"], manifest["jump_chosen"]) == (1, "given")


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory) -> Path:
    """A run of a network that doubles the size of an image."""
    folder = tmp_path_factory.mktemp("upscaler")
    text = RECIPE.replace("CACHE", str(folder / "cache")).replace("sample_count = 2", "sample_count = 0")
    text = text.replace("[data]", "[data]\nheld_out = 0.4\nlow_resolution = 2")
    text = text.replace("[model]", "[model]\nin_channels = 2\nout_channels = 1\ncondition_channels = 1")
    (folder / "up.toml").write_text(text)
    code, _, err = run("train", "--config", folder / "up.toml", "--run", folder / "run")
    assert code == 0, err
    return folder / "run"


def test_held_out_images_are_upscaled_beside_the_originals(upscaler, tmp_path):
    code, out, err = run("edit", "upscale", upscaler, "--n", 2, "--out", tmp_path / "out")
    assert code == 0, err
    assert out.startswith("rms of bicubic grey levels: ")
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.size == (3 * 18 + 2, 2 * 10 + 2)


def test_small_images_of_a_file_are_upscaled(upscaler, tmp_path):
    np.save(tmp_path / "small.npy", np.random.default_rng(0).random((3, 4, 8)))
    code, _, err = run("edit", "upscale", upscaler, tmp_path / "small.npy", "--n", 3, "--out", tmp_path / "out")
    assert code == 0, err
    assert np.load(tmp_path / "out" / "samples.npy").shape == (3, 8, 16, 1)
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.size == (2 * 18 + 2, 3 * 10 + 2)


def test_images_that_are_not_small_are_not_upscaled(upscaler, tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((3, 8, 16)))
    code, _, err = run("edit", "upscale", upscaler, tmp_path / "large.npy", "--n", 3)
    assert code == 2 and "8x16" in err and "4x8" in err


def test_a_network_conditioned_on_a_small_image_edits_held_out_images_alone(upscaler, tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((3, 8, 16)))
    code, _, err = run("edit", "img2img", upscaler, tmp_path / "large.npy", "--n", 3)
    assert code == 2 and "held-out" in err
    assert run("edit", "img2img", upscaler, "--n", 2, "--out", tmp_path / "out")[0] == 0
