"""One reader of image sets for every verb: each format gives the same images, and `compare` reads what `fid` reads."""

import json
import struct
import zipfile

import numpy as np
import pytest

from core.images import to_uint8
from eval.__main__ import main
from eval.measure.comparable import check_comparable, is_eight_bit
from eval.measure.image_sets import ImageSet, read_image_set, read_named
from eval.measure.saved import check_statistics
from tests.eval.pictures import save_pictures

GREY = to_uint8(np.random.default_rng(1).random((60, 8, 8)))
IMAGES = (GREY[..., None] / 255).astype(np.float32)


def nobody_draws(run):
    raise AssertionError("nothing is drawn for files")


def read(path, **options) -> ImageSet:
    return read_image_set(str(path), "generated", nobody_draws, **options)


def write(folder, form):
    """The 60 images in one of the formats."""
    if form == "drawn":
        (folder / "drawn").mkdir()
        (folder / "drawn" / "manifest.json").write_text(json.dumps({"sampler": "ddim", "stored": "so"}))
        np.save(folder / "drawn" / "samples.npy", IMAGES)
        return folder / "drawn"
    if form in ("pictures", "zip"):
        pictures = save_pictures(folder / "pictures")
        if form == "pictures":
            return pictures
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for path in pictures.iterdir():
                archive.write(path, path.name)
        return folder / "images.zip"
    if form == "idx":
        path = folder / "t10k-images-idx3-ubyte"
        path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *GREY.shape) + GREY.tobytes())
        return path
    if form == "npz":
        np.savez(folder / "images.npz", images=IMAGES)
        return folder / "images.npz"
    np.save(folder / "images.npy", GREY if form == "integers" else IMAGES)
    return folder / "images.npy"


FORMS = ("drawn", "pictures", "zip", "idx", "npz", "integers", "floats")


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_images(tmp_path, form):
    found = read(write(tmp_path, form))
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.fingerprint() == ImageSet("", IMAGES).fingerprint() != ImageSet("", IMAGES[::-1]).fingerprint()
    assert found.about.get("sampler") == ("ddim" if form == "drawn" else None)


@pytest.mark.parametrize("form", FORMS)
def test_compare_reads_every_format(tmp_path, form):
    np.save(tmp_path / "real.npy", np.concatenate([IMAGES, IMAGES[::-1]]))
    words = ["--real", str(tmp_path / "real.npy"), "--generated", f"made={write(tmp_path, form)}"]
    assert main(["compare", *words, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert result["counts"] == {"real": 120, "made": 60} and not any("1/255" in text for text in result["warnings"])


def test_floats_keep_their_precision(tmp_path):
    exact = np.random.default_rng(0).random((4, 8, 8, 1))
    np.save(tmp_path / "exact.npy", exact)
    found = read(tmp_path / "exact.npy").images
    assert found.dtype == np.float64 and np.array_equal(found, exact)


def test_files_are_fitted_to_a_size_only_where_it_is_named(tmp_path):
    path = write(tmp_path, "floats")
    assert read(path, size=(4, 4), how="crop").images.shape == (60, 4, 4, 1)
    np.testing.assert_array_equal(read(path, size=(4, 4), how="crop").images, IMAGES[:, 2:6, 2:6])
    with pytest.raises(ValueError, match="8x8 pixels"):
        read(path, size=(4, 4))


def test_sets_are_named_by_their_word_or_their_path(tmp_path):
    path, drawn = write(tmp_path, "npz"), write(tmp_path, "drawn")
    (tmp_path / "a=b.npy").write_bytes(write(tmp_path, "floats").read_bytes())
    found = read_named([str(path), f"x={path}", str(drawn), str(tmp_path / "a=b.npy")], (), nobody_draws)
    assert list(found) == ["images", "x", "drawn", "a=b"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder without weights, which is enough to read its data."""
    monkeypatch.chdir(tmp_path)
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    model = {"sample_size": [8, 8], "block_out_channels": [8, 8], "norm_num_groups": 4, **blocks}
    data = {"simulate_count": 60, "held_out": 0.3, "cache": str(tmp_path / "cache")}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"model": model, "data": data}))
    (tmp_path / "run" / "latest").write_text("step-1\n")
    return tmp_path / "run"


def test_a_run_is_its_held_out_images_and_the_others_are_those_it_trained_on(run):
    side = read_image_set(str(run), "real", nobody_draws)
    assert len(side.images) + len(side.others) == 60 and "held out" in side.about["split"]
    assert not {i.tobytes() for i in side.images} & {i.tobytes() for i in side.others}
    check_comparable(side, ImageSet("g", np.asarray(side.others)))


def test_a_run_on_the_generated_side_is_drawn_from(run, tmp_path):
    drawn = write(tmp_path, "drawn")
    found = read_image_set(str(run), "generated", lambda path: drawn if path == run else None)
    np.testing.assert_array_equal(found.images, IMAGES)


def test_compare_takes_a_runs_held_out_and_training_images(run, tmp_path):
    side = read_image_set(str(run), "real", nobody_draws)
    np.save(tmp_path / "copies.npy", side.others[:10])
    words = ["--real", str(run), "--train", str(run), "--generated", str(tmp_path / "copies.npy")]
    assert main(["compare", *words, "--out", str(tmp_path / "out")]) == 0
    nearest = json.loads((tmp_path / "out" / "compare.json").read_text())["nearest"]
    assert nearest["train_count"] == len(side.others) and nearest["sets"]["copies"]["copies"] == 10


def test_eight_bit_values_are_known_as_such():
    assert is_eight_bit(IMAGES) and not is_eight_bit(np.random.default_rng(0).random((3, 8, 8, 1)))
    assert is_eight_bit(ImageSet("", np.random.default_rng(0).random((3, 8, 8, 1))).rounded().images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.npy", "no such file or folder"),
        ("wide.npy", "must be in [0, 1]"),
        ("odd.npz", "must be (d,) and (d, d)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, message):
    np.save(tmp_path / "wide.npy", IMAGES * 2 - 1)
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError) as error:
        read(tmp_path / name)
    assert message in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("about", "width", "extractor", "message"),
    [
        (
            {"extractor": {"name": "inception"}},
            5,
            "lens",
            "features of inception, not of lens: give --extractor inception",
        ),
        ({}, 2048, "pixels", "2048 features of inception, not of pixels"),
        ({"extractor": {"name": "lens"}}, 128, "inception", "128 features of lens, not of inception"),
        ({"extractor": {"name": "inception", "resize": "legacy"}}, 5, "inception", "--resize legacy, not clean"),
    ],
)
def test_statistics_of_another_extractor_are_known_by_name(tmp_path, about, width, extractor, message):
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=np.zeros(width), sigma=np.eye(width), about=np.array(json.dumps(about)))
    with pytest.raises(ValueError, match=message):
        check_statistics(str(path), extractor, "clean")


def test_statistics_of_the_same_extractor_and_other_files_pass(tmp_path):
    np.savez(tmp_path / "own.npz", mu=np.zeros(7), sigma=np.eye(7))
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4)))
    for name in ("own.npz", "images.npz", "missing.npz", "."):
        check_statistics(str(tmp_path / name), "lens", "clean")
