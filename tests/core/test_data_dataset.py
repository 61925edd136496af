"""The prepared cache, the split, the order of samples and the symmetries of the square."""

import dataclasses
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.config import DataConfig
from core.data import dataset
from core.data.dataset import open_dataset
from core.data.lenses import simulate
from core.data.order import batch_indices, epoch_permutation, symmetry, symmetry_codes

RNG = np.random.default_rng(0)


def stack(folder, images, **config):
    """A configuration over one .npy file."""
    np.save(folder / "images.npy", images)
    return DataConfig(source=str(folder / "images.npy"), cache=str(folder / "cache"), **config)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Sixty random images with labels and a parameter, and the data set made of them."""
    folder, images = tmp_path_factory.mktemp("archive"), np.random.default_rng(1).random((60, 6, 8, 3))
    labels, names = np.arange(60) % 3, ["a", "b", "c"]
    np.savez(folder / "a.npz", images=images, labels=labels, class_names=names, mass=np.arange(60))
    return images, open_dataset(DataConfig(source=str(folder / "a.npz"), cache=str(folder / "cache")), (6, 8, 3))


def test_images_are_a_map_that_cannot_be_written(archive):
    images, opened = archive
    np.testing.assert_array_equal(opened.images, images.astype(np.float32))
    assert isinstance(opened.images, np.memmap) and not opened.images.flags.writeable


def test_labels_and_parameters_follow_the_images(archive):
    _, opened = archive
    assert opened.labels.tolist() == [0, 1, 2] * 20 and opened.class_names == ("a", "b", "c")
    assert opened.parameters["mass"].tolist() == list(range(60))


def test_the_manifest_says_what_was_prepared_and_how(archive):
    images, opened = archive
    m = opened.manifest
    assert (m["count"], m["shape"], m["dtype"], m["duplicates"]) == (60, [6, 8, 3], "float32", 0)
    assert m["labels"] == {"a": 20, "b": 20, "c": 20} and m["stored"] == "6x8x3 float64"
    assert m["sha256"] == hashlib.sha256(images.astype("<f4").tobytes()).hexdigest()
    assert m["preparation"] == {"fit": "exact", "normalise": "none"}
    assert (m["train"], m["held_out"]) == (len(opened.train), len(opened.held_out)) and m["train"] + m["held_out"] == 60


def test_the_manifest_has_the_pixels_statistics(archive, tmp_path):
    images, opened = archive
    m, expected = opened.manifest, (images.min(), images.max(), images.mean(), images.std())
    np.testing.assert_allclose([m[k] for k in ("min", "max", "mean", "std")], expected, rtol=1e-6)
    assert m["median"] == pytest.approx(np.median(images), abs=2e-3)  # among 8,640 values; exact to the level below
    levels = stack(tmp_path, (np.arange(99).reshape(11, 3, 3) * 2).astype(np.uint8))
    assert open_dataset(levels, (3, 3, 1)).manifest["median"] == pytest.approx(98 / 255, abs=1e-5)


def test_the_split_goes_by_content(tmp_path):
    images = RNG.integers(0, 256, (2000, 4, 4), dtype=np.uint8)
    images[1000:1300] = images[:300]  # duplicates
    first = open_dataset(stack(tmp_path, images), (4, 4, 1))
    assert first.manifest["duplicates"] == 300
    assert abs(len(first.held_out) - 200) < 5 * np.sqrt(2000 * 0.1 * 0.9 * 2)
    assert np.array_equal(np.sort(np.concatenate([first.train, first.held_out])), np.arange(2000))
    sides = [{images[i].tobytes() for i in side} for side in (first.train, first.held_out)]
    assert not sides[0] & sides[1]
    # Neither order, nor company, nor preparation moves an image to the other side.
    order = RNG.permutation(700)
    other = open_dataset(stack(tmp_path, images[order], fit="resize", normalise="image"), (2, 2, 1))
    assert {order[i] for i in other.held_out} == {i for i in first.held_out if i < 700}
    by_rule = [
        int.from_bytes(hashlib.sha256(b"(4, 4, 1)|u1" + image.tobytes()).digest()[:8]) / 2**64 < 0.1 for image in images
    ]
    assert np.flatnonzero(by_rule).tolist() == first.held_out.tolist()
    none = open_dataset(stack(tmp_path, images, held_out=0.0), (4, 4, 1))
    assert len(none.held_out) == 0 and len(none.train) == 2000
    with pytest.raises(ValueError, match=r"data\.held_out = 0\.999999"):
        open_dataset(stack(tmp_path, images[:5], held_out=0.999999), (4, 4, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float32, bool])
def test_types_are_scaled_by_their_maximum(tmp_path, dtype):
    kind = np.dtype(dtype).kind
    top = np.iinfo(dtype).max if kind in "iu" else 1
    images = (RNG.random((5, 4, 4)) * top).astype(dtype)
    opened = open_dataset(stack(tmp_path, images), (4, 4, 1))
    np.testing.assert_allclose(opened.images[..., 0], images.astype(np.float64) / top, atol=1e-7)


def test_normalise(tmp_path):
    images = RNG.normal(5, 20, (6, 4, 4))
    opened = open_dataset(stack(tmp_path, images, normalise="dataset"), (4, 4, 1)).images[..., 0]
    np.testing.assert_allclose(opened, (images - images.min()) / (images.max() - images.min()), atol=1e-6)
    opened = open_dataset(stack(tmp_path, images, normalise="image"), (4, 4, 1)).images[..., 0]
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(opened, (images - low) / (high - low), atol=1e-6)
    with pytest.raises(ValueError, match=r"images\.npy\[0\].*\[0, 1\].*data\.normalise"):
        open_dataset(stack(tmp_path, images), (4, 4, 1))
    with pytest.raises(ValueError, match="negative integers"):
        open_dataset(stack(tmp_path, -np.ones((3, 4, 4), np.int32)), (4, 4, 1))
    for how in ("image", "dataset"):
        with pytest.raises(ValueError, match=r"2.*min-max"):
            open_dataset(stack(tmp_path, np.full((3, 4, 4), 2.0), normalise=how), (4, 4, 1))
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")] == []


def test_fit(tmp_path):
    images = RNG.random((2, 10, 12), dtype=np.float32)
    crop = open_dataset(stack(tmp_path, images, fit="crop"), (6, 7, 1)).images[..., 0]
    np.testing.assert_array_equal(crop, images[:, 2:8, 2:9])
    pad = open_dataset(stack(tmp_path, images, fit="pad"), (13, 12, 1)).images[..., 0]
    np.testing.assert_array_equal(pad, np.pad(images, ((0, 0), (1, 2), (0, 0))))
    sharp = (images > 0.5).astype(np.float32)  # overshoots, and so shows the clip
    resized = open_dataset(stack(tmp_path, sharp, fit="resize"), (16, 8, 1)).images[..., 0]
    peer = [np.asarray(Image.fromarray(image).resize((8, 16), Image.Resampling.BICUBIC)) for image in sharp]
    assert np.min(peer) < 0 and np.max(peer) > 1
    np.testing.assert_allclose(resized, np.clip(peer, 0, 1), atol=6e-5)
    same = open_dataset(stack(tmp_path, images, fit="resize"), (10, 12, 1)).images[..., 0]
    np.testing.assert_array_equal(same, images)
    for how, size in (("exact", (8, 8)), ("crop", (12, 12)), ("pad", (8, 16))):
        with pytest.raises(ValueError, match=rf"10x12 .* {size[0]}x{size[1]}.*data\.fit = '{how}'"):
            open_dataset(stack(tmp_path, images, fit=how), (*size, 1))


def test_the_simulator_as_a_data_set(tmp_path):
    config = DataConfig(simulate_count=8, simulate_seed=3, simulate_classes=("no", "vort"), cache=str(tmp_path))
    opened = open_dataset(config, (12, 16, 1))
    images, labels, parameters = simulate("lensing", 8, (12, 16), 3, ("no", "vort"))
    np.testing.assert_array_equal(opened.images, images)
    np.testing.assert_array_equal(opened.labels, labels)
    assert opened.class_names == ("no", "vort") and opened.parameters.keys() == parameters.keys()
    for name, values in parameters.items():
        np.testing.assert_array_equal(opened.parameters[name], values)
    with pytest.raises(ValueError, match=r"in_channels = 3: must be 1 for data\.source = 'simulate:lensing'"):
        open_dataset(config, (12, 16, 3))
    with pytest.raises(ValueError, match=r"data\.source = 'simulate:nothing': must be simulate:lensing or"):
        open_dataset(dataclasses.replace(config, source="simulate:nothing"), (12, 16, 1))


def prepared(folder) -> set[tuple[int, int]]:
    """The arrays of images in a cache, by inode and time of writing: one that is written again is another."""
    return {(p.stat().st_ino, p.stat().st_mtime_ns) for p in (folder / "cache").glob("*/images.npy")}


def test_the_cache_is_used_and_follows_source_and_preparation(tmp_path):
    images = RNG.random((20, 4, 4), dtype=np.float32)
    config = stack(tmp_path, images)
    np.testing.assert_array_equal(open_dataset(config, (4, 4, 1)).images[..., 0], images)
    first = prepared(tmp_path)
    np.testing.assert_array_equal(open_dataset(config, (4, 4, 1)).images[..., 0], images)
    open_dataset(dataclasses.replace(config, held_out=0.5, augment=True), (4, 4, 1))
    assert len(first) == 1 and prepared(tmp_path) == first  # neither changes a pixel
    open_dataset(dataclasses.replace(config, normalise="image"), (4, 4, 1))
    open_dataset(dataclasses.replace(config, fit="resize"), (2, 2, 1))
    three = prepared(tmp_path)
    assert len(three) == 3 and first < three
    config = stack(tmp_path, images[::-1])
    os.utime(tmp_path / "images.npy", (1, 1))
    np.testing.assert_array_equal(open_dataset(config, (4, 4, 1)).images[..., 0], images[::-1])
    assert len(prepared(tmp_path) - three) == 1


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": lambda f: flip(f / "images.npy", -5),
    "a flipped bit in the labels": lambda f: flip(f / "arrays.npz", 100),
    "a flipped bit in the manifest": lambda f: flip(
        f / "manifest.json", (f / "manifest.json").read_text().index("mean") + 9
    ),
    "a cut file": lambda f: (f / "images.npy").write_bytes((f / "images.npy").read_bytes()[:-10]),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "half a manifest": lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text()[:50]),
    "an empty manifest": lambda f: (f / "manifest.json").write_text("{}"),
    "an empty folder": lambda f: (shutil.rmtree(f), f.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_cache_that_is_not_what_its_manifest_says_is_rebuilt_once(tmp_path, caplog, damage):
    images = RNG.random((20, 4, 4), dtype=np.float32)
    config = stack(tmp_path, images)
    open_dataset(config, (4, 4, 1))
    (folder,) = (tmp_path / "cache").iterdir()
    DAMAGE[damage](folder)
    np.testing.assert_array_equal(open_dataset(config, (4, 4, 1)).images[..., 0], images)
    assert str(folder) in caplog.text
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
    caplog.clear()
    before = prepared(tmp_path)
    open_dataset(config, (4, 4, 1))
    assert prepared(tmp_path) == before and not caplog.text


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    config = stack(tmp_path, RNG.random((20, 4, 4)))
    for fault in (KeyboardInterrupt, OSError(28, "No space left on device")):
        with monkeypatch.context() as patch, pytest.raises(fault if isinstance(fault, type) else OSError):
            patch.setattr(os, "fsync", lambda _, fault=fault: (_ for _ in ()).throw(fault))
            open_dataset(config, (4, 4, 1))
        assert list((tmp_path / "cache").iterdir()) == []


def test_a_killed_conversion_is_not_taken_for_whole(tmp_path):
    config = DataConfig(simulate_count=100_000, cache=str(tmp_path))
    code = (
        "from core.config import DataConfig; from core.data.dataset import open_dataset; "
        f"open_dataset(DataConfig(simulate_count=100_000, cache={str(tmp_path)!r}), (8, 8, 1))"
    )
    root = Path(dataset.__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".*/images.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".*/images.npy"))
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    (tmp_path / ".other.1.partial").mkdir()  # another program's
    small = dataclasses.replace(config, simulate_count=3)
    assert len(open_dataset(small, (8, 8, 1)).images) == 3
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".other.1.partial"]


def test_two_processes_may_convert_at_once(tmp_path, monkeypatch):
    """A second conversion begins and ends while the first one waits for the disk."""
    config, fsync, waiting = stack(tmp_path, RNG.random((20, 4, 4), dtype=np.float32)), os.fsync, []

    def slow(descriptor):
        if not waiting:
            waiting.append(descriptor)
            open_dataset(config, (4, 4, 1))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    assert len(open_dataset(config, (4, 4, 1)).images) == 20
    assert waiting and len(list((tmp_path / "cache").iterdir())) == 1


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**63 - 1), batch=st.integers(1, 40), count=st.integers(1, 30), steps=st.integers(1, 20))
def test_batches_are_the_epochs_laid_end_to_end(seed, batch, count, steps):
    stream = np.concatenate([batch_indices(seed, step, batch, count) for step in range(steps)])
    epochs = -(-len(stream) // count)
    laid = np.concatenate([epoch_permutation(seed, epoch, count) for epoch in range(epochs)])
    np.testing.assert_array_equal(stream, laid[: len(stream)])
    for epoch in range(epochs):
        assert sorted(epoch_permutation(seed, epoch, count)) == list(range(count))


def test_order_is_shuffled_pure_and_pinned():
    assert epoch_permutation(0, 0, 50).dtype == np.int64 and batch_indices(0, 3, 8, 50).dtype == np.int64
    orders = {tuple(epoch_permutation(seed, epoch, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    # Each image is equally often at each place: chi-square over 400 epochs of 5, 5 sigma above its 16 degrees.
    places = np.stack([epoch_permutation(1, epoch, 5) for epoch in range(400)])
    table = np.stack([np.bincount(places[:, k], minlength=5) for k in range(5)])
    assert ((table - 80) ** 2 / 80).sum() < 16 + 5 * np.sqrt(32)
    changed = epoch_permutation(0, 0, 10)
    assert changed.tolist() == PINNED
    with pytest.raises(ValueError, match="read-only"):
        changed[:] = 0
    assert epoch_permutation(0, 0, 10).tolist() == PINNED
    assert symmetry_codes(0, 5, 8, True).tolist() == PINNED_CODES
    for wrong in ((-1, 0, 4, 10), (0, -1, 4, 10), (0, 0, 0, 10), (0, 0, 4, 0)):
        with pytest.raises(ValueError, match="must be in"):
            batch_indices(*wrong)
    with pytest.raises(ValueError, match="must be in"):
        epoch_permutation(0, 0, 0)


PINNED = [0, 8, 3, 5, 1, 4, 7, 2, 6, 9]
PINNED_CODES = [7, 7, 0, 0, 5, 0, 2, 7]


def test_symmetries_are_the_group_of_the_square():
    image = RNG.random((5, 5, 2))
    results = symmetry(np.stack([image] * 8), np.arange(8))
    expected = {np.rot90(flipped, k).tobytes() for flipped in (image, image[:, ::-1]) for k in range(4)}
    assert len(expected) == 8 and {np.ascontiguousarray(r).tobytes() for r in results} == expected
    np.testing.assert_array_equal(results[0], image)
    wide = RNG.random((4, 3, 6, 1))
    np.testing.assert_array_equal(
        symmetry(wide, np.arange(4)), [wide[0], wide[1][:, ::-1], wide[2][::-1], wide[3][::-1, ::-1]]
    )
    for images, codes in ((wide, [0, 1, 2, 4]), (np.zeros((1, 2, 2, 1)), [8]), (wide, [0]), (wide, [0, -1, 0, 0])):
        with pytest.raises(ValueError, match="codes: must be"):
            symmetry(images, np.array(codes))
    codes = np.concatenate([symmetry_codes(1, step, 64, True) for step in range(50)])
    assert ((np.bincount(codes, minlength=8) - 400) ** 2 / 400).sum() < 7 + 5 * np.sqrt(14)
    assert set(symmetry_codes(1, 0, 200, False)) == {0, 1, 2, 3}


def broken_folder(folder, names, first=()):
    """Eight images, the named ones of them no .npy files or with a value that is not finite."""
    (folder / "images").mkdir()
    for index in range(8):
        image = np.random.default_rng(index).random((4, 4))
        np.save(folder / "images" / f"{index}.npy", image * np.nan if index in names else image)
    for index in first:
        (folder / "images" / f"{index}.npy").write_text("no array")
    return DataConfig(source=str(folder / "images"), cache=str(folder / "cache"))


def test_broken_files_are_named_at_once(tmp_path):
    config = broken_folder(tmp_path, (3, 6), (0,))
    with pytest.raises(
        ValueError, match=r"0\.npy: not a whole \.npy file.*3 images are broken: .*0\.npy, .*3\.npy, .*6\.npy"
    ):
        open_dataset(config, (4, 4, 1))
    with pytest.raises(ValueError, match=r"or leave them out with data\.skip_broken = true$"):
        open_dataset(config, (4, 4, 1))


def test_broken_files_are_left_out_by_name(tmp_path, caplog):
    config = dataclasses.replace(broken_folder(tmp_path, (3,), (0,)), skip_broken=True)
    for _ in range(2):  # prepared, and from the cache
        caplog.clear()
        opened = open_dataset(config, (4, 4, 1))
        assert "2 broken images left out" in caplog.text
    skipped = opened.manifest["skipped"]
    assert ["0.npy" in skipped[0], "3.npy" in skipped[1]] == [True, True] and opened.manifest["count"] == 6
    expected = [np.load(tmp_path / "images" / f"{i}.npy").astype(np.float32) for i in (1, 2, 4, 5, 6, 7)]
    np.testing.assert_array_equal(opened.images[..., 0], expected)


def test_labels_stay_with_their_images_where_some_are_left_out(tmp_path):
    for index in range(6):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((4, 4), np.nan if index == 2 else index / 8))
    config = DataConfig(source=str(tmp_path / "images"), cache=str(tmp_path / "cache"), skip_broken=True)
    opened = open_dataset(config, (4, 4, 1))
    assert opened.labels.tolist() == [0, 0, 1, 1, 1]
    assert (opened.images[:, 0, 0, 0] * 8).tolist() == [0, 4, 1, 3, 5]


def test_most_files_broken_are_too_many_to_leave_out(tmp_path):
    config = dataclasses.replace(broken_folder(tmp_path, (1, 2, 3, 4, 5)), skip_broken=True)
    with pytest.raises(ValueError, match=r"5 of 8 images are broken, too many to leave out.*1\.npy"):
        open_dataset(config, (4, 4, 1))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written_names_its_option(tmp_path, monkeypatch, number):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    config = stack(tmp_path, np.zeros((4, 4, 4)))
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        OSError, match=r"cannot be written .*; name another place with data\.cache \(--data\.cache FOLDER"
    ):
        open_dataset(config, (4, 4, 1))
