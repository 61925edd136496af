"""Images beside the images of a data set: pairing, degrading, preparing, batches, and the verbs that take them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import open_trained, read_data
from core.config import DEGRADED, DataConfig, ModelConfig, ProcessConfig, Recipe, TrainingConfig
from core.config.recipes import load_recipe
from core.data.__main__ import main as data_main
from core.data.dataset import Dataset, open_dataset
from core.inference.conditioning import own_condition
from core.inference.generator import Generator, open_generator
from core.inference.given_images import given_images
from core.inference.images_beside import image_beside
from core.training.training import Training
from core.twin import Twin
from tests.command_line import RECIPE, refused, run
from tests.numpy_impl.sampler import Network

SHARP = np.random.default_rng(0).random((12, 8, 16)).astype(np.float32)
BLURRED = SHARP.reshape(12, 4, 2, 8, 2).mean(axis=(2, 4)) + np.float32(-0.2)  # some below 0


def config(folder, **changes):
    options = {"source": folder / "sharp", "beside": folder / "blurred", "cache": folder / "cache", "held_out": 0.4}
    options = {key: str(value) if key != "held_out" else value for key, value in options.items()}
    return DataConfig(**{**options, "beside_size": (4, 8), **changes})


def save(folder, images, names, suffix=".npy"):
    for name, image in zip(names, images, strict=True):
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, image)
        else:
            Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(path)


@pytest.fixture
def files(tmp_path):
    """Twelve pairs in two folders of two classes, whose files were written in other orders."""
    names = [f"{'ab'[i % 2]}/lens{i}" for i in range(12)]
    save(tmp_path / "sharp", SHARP, names)
    save(tmp_path / "blurred", BLURRED[::-1], names[::-1])
    return tmp_path


def opened(data, channels=1):
    return open_dataset(data, (8, 16, 1), channels)


# --- pairing ----------------------------------------------------------------------------------------------------------


def check_pairs(found):
    blurred = found.images[..., 0].reshape(-1, 4, 2, 8, 2).mean(axis=(2, 4)) - 0.2
    np.testing.assert_allclose(found.beside[..., 0], blurred, atol=1e-6)
    assert found.beside.min() < 0 and isinstance(found.beside, np.memmap) and not found.beside.flags.writeable


def test_folders_pair_by_name_and_the_split_does_not_look_at_the_partner(files):
    found = opened(config(files))
    check_pairs(found)
    alone = open_dataset(dataclasses.replace(config(files), beside=""), (8, 16, 1))
    assert alone.beside is None and opened(config(files), channels=0).beside is None
    assert np.array_equal(alone.held_out, found.held_out) and 0 < len(found.held_out) < 12
    about = found.manifest["beside"]
    assert (about["shape"], about["stored"]) == ([4, 8, 1], "4x8x1 float32") and about["min"] < 0
    assert alone.manifest == {key: value for key, value in found.manifest.items() if key != "beside"}


def test_a_folder_that_all_files_share_and_suffixes_do_not_count(tmp_path):
    save(tmp_path / "sharp", SHARP, [f"train/{i}" for i in range(12)], ".png")
    save(tmp_path / "blurred" / "lr", BLURRED, range(12))
    found = opened(config(tmp_path))
    assert (
        np.abs(found.images[..., 0].reshape(-1, 4, 2, 8, 2).mean(axis=(2, 4)) - 0.2 - found.beside[..., 0]).max() < 0.01
    )


def test_names_pair_where_the_files_have_another_order(tmp_path):
    save(tmp_path / "sharp", SHARP[:3], ["a", "a.o", "b"])  # a.npy, a.o.npy, b.npy
    save(tmp_path / "blurred", BLURRED[:3] + 0.2, ["a", "a.o", "b"], ".png")  # a.o.png, a.png, b.png
    found = opened(config(tmp_path, held_out=0.0))
    np.testing.assert_array_equal(found.images[..., 0], SHARP[:3])
    np.testing.assert_allclose(found.beside[..., 0], BLURRED[:3] + 0.2, atol=1 / 255)
    assert "order" in found.manifest["beside"]["source"]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_files_of_many_images_pair_by_order(tmp_path, suffix):
    for name, images in (("sharp", SHARP), ("blurred", BLURRED)):
        where = tmp_path / f"{name}{suffix}"
        np.save(where, images) if suffix == ".npy" else np.savez(where, images=images, labels=np.arange(12) % 3)
    data = config(tmp_path, source=str(tmp_path / f"sharp{suffix}"), beside=str(tmp_path / f"blurred{suffix}"))
    check_pairs(opened(data))
    np.save(tmp_path / "few.npy", BLURRED[:5])
    with pytest.raises(ValueError, match=r"few\.npy: 5 images: must be 12, one beside each of .*sharp.*same order"):
        opened(dataclasses.replace(data, beside=str(tmp_path / "few.npy")))


def test_missing_and_extra_partners_are_named(files):
    for i in (1, 3, 5, 7):
        (files / "blurred" / "b" / f"lens{i}.npy").unlink()
    line = r"data\.beside = .*blurred: 4 images of .*sharp have none beside them: b/lens1, b/lens3, b/lens5, \.\.\.$"
    with pytest.raises(ValueError, match=line):
        opened(config(files))
    save(files / "blurred", BLURRED[[1, 3, 5, 7, 0, 1]], [*(f"b/lens{i}" for i in (1, 3, 5, 7)), "a/x", "a/y"])
    with pytest.raises(ValueError, match=r"2 images stand beside none of .*sharp: a/x, a/y$"):
        opened(config(files))


def test_what_cannot_pair_is_one_line(files):
    np.save(files / "stack.npy", BLURRED)
    for changes, message in (
        ({"beside": str(files / "nothing")}, r"data\.beside = .*nothing: no such file or folder"),
        ({"beside": str(files / "stack.npy")}, "must be a folder or zip of images, as data.source = .* found one file"),
        (
            {"beside_size": (8, 8)},
            r"4x8 pixels where 8x8 are needed, and data\.beside_fit = .*or set data\.beside_size",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            opened(config(files, **changes))
    with pytest.raises(ValueError, match=r"1 channels where the network takes 3.*model\.condition_channels 1"):
        opened(config(files), channels=3)
    np.save(files / "blurred" / "a" / "lens0.npy", BLURRED[0] + 5)
    with pytest.raises(ValueError, match=r"lens0\.npy: values from .* needs \[-1, 2\]; use data\.normalise"):
        opened(config(files))
    np.save(files / "blurred" / "a" / "lens0.npy", BLURRED[0] * np.nan)
    with pytest.raises(ValueError, match=r"not finite; repair or remove the file; repair them$"):
        opened(config(files))
    save(files / "sharp", SHARP[:1], ["a/lens0"], ".png")
    with pytest.raises(ValueError, match="several kinds"):
        opened(config(files))


def test_two_files_of_one_name_are_refused(tmp_path):
    save(tmp_path / "sharp", SHARP[:2], ["0", "1"], ".png")
    save(tmp_path / "blurred", BLURRED[:2], ["0", "1"], ".png")
    save(tmp_path / "blurred", BLURRED[:1], ["0"], ".bmp")
    with pytest.raises(ValueError, match=r"blurred: 0\.bmp and 0\.png have one name, which pairs images"):
        opened(config(tmp_path))


def test_another_partner_is_prepared_again_and_the_same_is_not(files):
    first = opened(config(files))
    folders = set((files / "cache").iterdir())
    again = opened(config(files))
    assert set((files / "cache").iterdir()) == folders and len(folders) == 2
    np.save(files / "blurred" / "a" / "lens0.npy", (BLURRED[0] + 0.1).astype(np.float64).astype(np.float32))
    changed = opened(config(files))
    assert len(set((files / "cache").iterdir())) == 3
    assert again.manifest == first.manifest and changed.manifest["sha256"] == first.manifest["sha256"]
    assert changed.manifest["beside"]["sha256"] != first.manifest["beside"]["sha256"]
    place = next(i for i in range(12) if (first.beside[i] != changed.beside[i]).any())
    np.testing.assert_allclose(changed.beside[place], first.beside[place] + 0.1, atol=1e-6)


def test_size_and_fit_are_the_partner_s_own(files):
    found = opened(config(files, beside_size=(2, 6), beside_fit="crop"))
    assert found.images.shape == (12, 8, 16, 1)
    np.testing.assert_array_equal(found.beside, opened(config(files)).beside[:, 1:3, 1:7])
    resized = opened(config(files, beside_size=(8, 8), beside_fit="resize"))
    assert resized.beside.shape == (12, 8, 8, 1) and resized.beside.min() < 0  # not clipped at 0


# --- degraded images --------------------------------------------------------------------------------------------------


def degraded(folder, images, **changes):
    np.save(folder / "images.npy", images.astype(np.float32))
    options = {"source": str(folder / "images.npy"), "cache": str(folder / "cache"), "beside": DEGRADED}
    data = DataConfig(**{**options, "beside_size": (8, 8), "field_of_view": 6.4, **changes})
    return open_dataset(data, (*images.shape[1:3], 1), 1)


def test_a_degraded_point_has_the_width_of_blur_and_pixel_and_keeps_its_light(tmp_path):
    point = np.zeros((1, 64, 64))
    point[0, 31:33, 31:33] = 1.0  # its own variance is that of four pixels of .1 arcsec
    seen = degraded(tmp_path, point, beside_noise=0.0, beside_psf=0.5, beside_size=(64, 64)).beside[0, ..., 0]
    axis = (np.arange(64) - 31.5) * 0.1
    assert seen.sum() == pytest.approx(4.0, rel=1e-5)
    variance = (seen.sum(0) * axis**2).sum() / seen.sum()
    assert variance == pytest.approx(0.5**2 + 0.1**2 / 12 + 0.05**2, rel=2e-3)
    small = degraded(tmp_path, point, beside_noise=0.0, beside_psf=0.5).beside[0, ..., 0]
    np.testing.assert_allclose(small, seen.reshape(8, 8, 8, 8).mean(axis=(1, 3)), atol=1e-6)
    assert np.allclose(degraded(tmp_path, np.full((1, 64, 64), 0.3), beside_noise=0.0).beside, 0.3)


def test_its_noise_has_the_deviation_of_the_key_and_depends_on_seed_and_index_alone(tmp_path):
    images = np.full((40, 64, 64), 0.01)
    found = degraded(tmp_path, images, beside_noise=0.05).beside
    noise = found - 0.01
    assert noise.std() == pytest.approx(0.05, rel=0.05) and abs(noise.mean()) < 0.005 and found.min() < -0.05
    assert len({image.tobytes() for image in found}) == 40
    few = degraded(tmp_path, images[:7], beside_noise=0.05).beside
    assert np.array_equal(few, found[:7])
    other = degraded(tmp_path, images[:7], beside_noise=0.05, simulate_seed=1).beside
    assert (other != few).mean() > 0.99


def test_simulated_lenses_are_seen_through_a_wider_blur(tmp_path):
    data = DataConfig(simulate_count=6, beside=DEGRADED, beside_noise=0.0, cache=str(tmp_path))
    found = open_dataset(data, (64, 64, 1), 1)
    assert found.beside.shape == (6, 16, 16, 1)
    means = found.images.reshape(6, 16, 4, 16, 4, 1).mean(axis=(2, 4))
    assert np.abs(found.beside - means).max() < 0.25 and found.beside.max() < means.max()
    assert found.beside.mean() == pytest.approx(float(found.images.mean()), rel=1e-2)


# --- batches ----------------------------------------------------------------------------------------------------------

MODEL = ModelConfig(
    (8, 8),
    2,
    1,
    condition_channels=1,
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    norm_num_groups=4,
)


def paired_recipe(size=(8, 8), augment=False, **changes):
    data = DataConfig("a.npz", beside="b.npz", beside_size=size, augment=augment)
    return Recipe(MODEL, data=data, training=TrainingConfig(batch_size=16), **changes)


def test_flips_move_both_images_alike():
    images = np.random.default_rng(1).random((10, 8, 8, 1), np.float32)
    data = Dataset(images, None, (), {}, np.arange(8), np.arange(8, 10), {}, images)
    plain, turned = (Training(paired_recipe(augment=augment), data).batch(2) for augment in (False, True))
    assert (plain["x_0"] != turned["x_0"]).any()
    for batch in (plain, turned):
        np.testing.assert_allclose(batch["image"], batch["x_0"], atol=1e-6)
    oblong = dataclasses.replace(data, beside=np.repeat(images, 2, axis=1)[:, :, ::2])  # 16 x 4 of 8 x 8
    wide = Training(paired_recipe((16, 4), augment=True), oblong).batch(2)
    again = image_beside(np.repeat((wide["x_0"] + 1) / 2, 2, axis=1)[:, :, ::2], (8, 8), "float32")
    mirrored = image_beside(np.repeat((wide["x_0"] + 1) / 2, 2, axis=1)[:, :, 1::2], (8, 8), "float32")
    nearest = np.minimum(np.abs(again - wide["image"]).max((1, 2, 3)), np.abs(mirrored - wide["image"]).max((1, 2, 3)))
    assert nearest.max() < 1e-5


def test_a_batch_is_conditioned_on_the_partners_with_the_stretch_of_the_images():
    images = np.random.default_rng(1).random((10, 8, 8, 1), np.float32)
    beside = np.random.default_rng(2).random((10, 2, 4, 1), np.float32)
    data = Dataset(images, None, (), {}, np.arange(8), np.arange(8, 10), {}, beside)
    recipe = paired_recipe((2, 4), process=ProcessConfig(stretch=0.05))
    batch = Training(recipe, data).batch(0)
    known = image_beside(beside, (8, 8), "float32", 0.05)
    distances = np.abs(batch["image"][:, None] - known[None]).max(axis=(2, 3, 4))
    places = distances.argmin(axis=1)
    assert distances.min(axis=1).max() == 0 and set(places) <= set(range(8))
    root = (batch["x_0"] + 1) / 2 * (1.05**0.5 - 0.05**0.5) + 0.05**0.5
    np.testing.assert_allclose(root**2 - 0.05, images[places], atol=1e-5)
    grid = own_condition(recipe, data, range(3), 0)["image"]
    assert np.array_equal(grid, known[[8, 9, 8]])


# --- the verbs --------------------------------------------------------------------------------------------------------


def tiny(folder, lines):
    text = RECIPE.replace("CACHE", str(folder / "cache")).replace("[data]", f"[data]\nheld_out = 0.4\n{lines}")
    return text.replace("[model]", "[model]\nin_channels = 2\nout_channels = 1\ncondition_channels = 1")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A recipe of degraded lenses, and its run."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = f'beside = "{DEGRADED}"\nbeside_size = [4, 8]\nsimulate_classes = ["no"]'
    (folder / "pairs.toml").write_text(tiny(folder, lines))
    code, _, err = run("train", "--config", folder / "pairs.toml", "--run", folder / "run")
    assert code == 0, err
    return folder


def listening(generator):
    """The generator with a network that predicts noise which shows its condition."""
    return Generator(Network(lambda x, t, image: 0.5 * x + 0.1 * image), generator.trained)


def test_translate_draws_several_images_for_each_held_out_input(pairs, tmp_path):
    words = ("edit", "translate", pairs / "run", "--n", 3, "--draws", 5, "--out", tmp_path / "out")
    code, out, err = run(*words)
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'out' / 'draws.npy'}, {tmp_path / 'out' / 'draws.png'}"
    draws = np.load(tmp_path / "out" / "draws.npy")
    assert draws.shape == (3, 5, 8, 16, 1) and draws.dtype == np.float32 and draws.min() >= 0 and draws.max() <= 1
    assert len({image.tobytes() for image in draws.reshape(15, -1)}) == 15
    with Image.open(tmp_path / "out" / "draws.png") as picture:  # a row has the input, the original and the draws
        assert picture.size == (7 * 18 + 2, 3 * 10 + 2)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["edit"] == "translate" and manifest["draws"] == 5 and len(manifest["images"]["indices"]) == 3
    rms = np.sqrt(np.mean((draws - np.load(pairs_of(pairs, tmp_path) / "truth.npy")[:3, None]) ** 2)) * 255
    assert manifest["rms_of_draws_grey_levels"] == pytest.approx(rms, rel=1e-5)
    assert manifest["rms_of_mean_of_draws_grey_levels"] < manifest["rms_of_draws_grey_levels"]
    code, _, err = run(*words)
    assert code == 2 and "already holds samples" in err
    code, _, err = run(*words[:3], "--n", 2, "--first", 1, "--draws", 2, "--batch-size", 3, "--out", tmp_path / "part")
    assert code == 0, err
    assert np.array_equal(np.load(tmp_path / "part" / "draws.npy"), draws[1:3, :2])


def pairs_of(pairs, folder, *flags):
    """The folder of held-out pairs that the verb of core.data writes."""
    out = folder / f"pairs{len(flags)}"
    if not out.exists():
        assert data_main(["pairs", str(pairs / "pairs.toml"), "--n", "4", *flags, "--out", str(out)]) == 0
    return out


def test_pairs_in_files_are_those_held_out_and_translate_alike(pairs, tmp_path):
    out = pairs_of(pairs, tmp_path)
    inputs, truth = np.load(out / "inputs.npy"), np.load(out / "truth.npy")
    assert inputs.shape == (4, 4, 8, 1) and truth.shape == (4, 8, 16, 1) and inputs.dtype == np.float32
    generator = listening(open_generator(Twin("tests.numpy_impl"), pairs / "run"))
    draws = generator.edit.translate(inputs, 2, first=3).images
    held_out = generator.edit.translate(inputs, 2, originals=truth, first=3)
    assert np.array_equal(held_out.images, draws) and draws.shape == (4, 2, 8, 16, 1)
    assert held_out.facts["rms_of_bicubic_grey_levels"] > 0
    shuffled = np.load(pairs_of(pairs, tmp_path, "--shuffle") / "inputs.npy")
    assert np.array_equal(shuffled, inputs[[3, 0, 1, 2]])
    others = generator.edit.translate(shuffled, 2, first=3).images
    assert np.abs(others - draws).max() > 0.01
    facts = json.loads((out / "pairs.json").read_text())
    assert facts["beside_noise"] == 0.02 and len(facts["indices"]) == 4 and not facts["shuffled"]
    assert data_main(["pairs", str(pairs / "run"), "--n", "4", "--out", str(tmp_path / "of-run")]) == 0
    assert np.array_equal(np.load(tmp_path / "of-run" / "inputs.npy"), inputs)
    code, _, err = run("edit", "translate", pairs / "run", out / "inputs.npy", "--n", 4, "--out", tmp_path / "t")
    assert code == 0, err
    with Image.open(tmp_path / "t" / "draws.png") as picture:
        assert picture.size == (9 * 18 + 2, 4 * 10 + 2)


def test_shuffled_inputs_change_what_is_drawn_in_their_own_direction(pairs):
    generator = listening(open_generator(Twin("tests.numpy_impl"), pairs / "run"))
    dark, bright = np.zeros((1, 4, 8, 1)), np.ones((1, 4, 8, 1))
    images = [generator.edit.translate(inputs, 1, steps=3).images for inputs in (dark, bright)]
    assert images[0].mean() > images[1].mean() + 0.01  # the noise that is predicted goes up with the input


def test_sample_takes_held_out_inputs_in_turn_or_those_of_a_file(pairs, tmp_path):
    generator = open_generator(Twin("tests.numpy_impl"), pairs / "run")
    inputs = np.load(pairs_of(pairs, tmp_path) / "inputs.npy")
    with pytest.raises(ValueError, match="beside: missing"):
        generator.sample(2)
    with pytest.raises(ValueError, match=r"inputs: shape \(4, 8, 4, 1\): must be \(N, 4, 8, 1\)"):
        generator.sample(2, beside=inputs.swapaxes(1, 2))
    assert np.array_equal(
        listening(generator).sample(6, beside=inputs)[4:], listening(generator).sample(2, beside=inputs, first=4)
    )
    code, _, err = run("sample", pairs / "run", "--n", 30, "--out", tmp_path / "all")
    assert code == 0, err
    indices = json.loads((tmp_path / "all" / "manifest.json").read_text())["beside"]["indices"]
    held_out = len(set(indices))
    assert len(indices) == 30 and indices[:held_out] == indices[held_out : 2 * held_out]
    file = tmp_path / "pairs0" / "inputs.npy"
    assert run("sample", pairs / "run", "--n", 5, "--beside", file, "--out", tmp_path / "file")[0] == 0
    shown = json.loads((tmp_path / "file" / "manifest.json").read_text())["beside"]
    assert shown["path"] == str(file)


def test_extremes_and_fit_are_kept_for_inputs_of_later(tmp_path):
    save(tmp_path / "sharp", SHARP * 900 + 100, range(12))
    save(tmp_path / "blurred", BLURRED * 70 - 30, range(12))
    lines = f'source = "{tmp_path}/sharp"\nbeside = "{tmp_path}/blurred"\nbeside_size = [2, 6]\nbeside_fit = "crop"\n'
    (tmp_path / "flux.toml").write_text(tiny(tmp_path, f'{lines}normalise = "dataset"'))
    code, _, err = run("train", "--config", tmp_path / "flux.toml", "--run", tmp_path / "run")
    assert code == 0, err
    trained = open_trained(resolve_checkpoint(tmp_path / "run"))
    low, high = (float(f(BLURRED * 70 - 30)) for f in (np.min, np.max))
    assert trained.data["beside"]["extremes"] == pytest.approx([low, high]) and trained.input_shape == (2, 6, 1)
    assert data_main(["pairs", str(tmp_path / "run"), "--n", "3", "--out", str(tmp_path / "pairs")]) == 0
    assert np.load(tmp_path / "pairs" / "inputs.npy").shape == (3, 4, 8, 1)  # as stored
    folder = resolve_checkpoint(tmp_path / "run")
    own = given_images("held-out", folder, trained, 0, 3, inputs=True)
    file = given_images(str(tmp_path / "pairs" / "inputs.npy"), folder, trained, 0, 3, inputs=True)
    np.testing.assert_allclose(file.images, own.images, atol=1e-6)
    assert own.originals.shape == (3, 8, 16, 1) and file.originals is None
    recipe = load_recipe(folder / "recipe.json")
    for ends in ([1], [2, 1], ["a", 2], None):
        values = {**trained.data, "beside": {**trained.data["beside"], "extremes": ends}}
        (tmp_path / "data.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"data\.json.*extremes"):
            read_data(tmp_path / "data.json", recipe)


def test_a_run_goes_on_with_its_partners_alone(tmp_path):
    save(tmp_path / "sharp", SHARP, range(12))
    save(tmp_path / "blurred", BLURRED, range(12))
    lines = f'source = "{tmp_path}/sharp"\nbeside = "{tmp_path}/blurred"\nbeside_size = [4, 8]'
    (tmp_path / "a.toml").write_text(tiny(tmp_path, lines))
    assert run("train", "--config", tmp_path / "a.toml", "--run", tmp_path / "run")[0] == 0
    assert run("train", "--resume", tmp_path / "run", "--training.steps", 5)[0] == 0
    np.save(tmp_path / "blurred" / "3.npy", BLURRED[4])
    line = refused(2, "train", "--resume", tmp_path / "run", "--training.steps", 6)
    assert "the data has changed since the checkpoint (other pixels in " in line and "blurred)" in line
    line = refused(2, "train", "--resume", tmp_path / "run", "--training.steps", 6, "--data.beside", "else")
    assert "--data.beside = 'else' with --resume" in line


def test_a_dry_run_and_minutes_need_no_files_for_their_timing(pairs):
    code, out, err = run("train", "--config", pairs / "pairs.toml", "--dry-run")
    assert code == 0 and '"beside": "simulate:degraded"' in out, err


def test_info_counts_the_pairs(files, capsys):
    assert data_main(["info", str(files / "sharp"), "--beside", str(files / "blurred")]) == 0
    assert "12 pairs by name, 4x8x1 float32, -0." in capsys.readouterr().out
    assert data_main(["info", str(files / "sharp"), "--beside", str(files / "blurred" / "a")]) == 2


def test_upscaling_networks_translate_too(tmp_path):
    (tmp_path / "up.toml").write_text(tiny(tmp_path, "low_resolution = 2"))
    assert run("train", "--config", tmp_path / "up.toml", "--run", tmp_path / "run")[0] == 0
    code, _, err = run("edit", "translate", tmp_path / "run", "--n", 2, "--draws", 2, "--out", tmp_path / "out")
    assert code == 0, err
    assert np.load(tmp_path / "out" / "draws.npy").shape == (2, 2, 8, 16, 1)
