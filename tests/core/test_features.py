"""Features: batches, memory, reading ahead, errors, the file, and the verb over the NumPy twin."""

import json
import os
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.data.sources import open_source
from core.exits import RunError
from core.extractors import features as module
from core.extractors.features import (
    Facts,
    choose_taps,
    extract,
    first_batch_size,
    in_unit_range,
    read_images,
    write_features,
)
from core.files import file_hash, write_json, write_tensors
from core.reading import free_memory
from core.worker.tasks import FeaturesTask
from tests import command_line
from tests.feature_file import read_features


def moments(images: np.ndarray) -> dict[str, np.ndarray]:
    """An extractor in closed form: mean and mean of squares of every image, (B, 1) and (B, 2)."""
    flat = images.reshape(len(images), -1)
    mean, squares = flat.mean(axis=1, keepdims=True), (flat**2).mean(axis=1, keepdims=True)
    return {"2048": mean, "logits": np.concatenate([mean, squares], axis=1)}


class Reader:
    """Gives images and records which were requested."""

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(0).random((count, 4, 5, 1))
        self.asked: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def __call__(self, start: int, stop: int) -> np.ndarray:
        self.asked.append((start, stop))
        self.threads.add(threading.get_ident())
        return self.images[start:stop]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_batches_are_put_together_in_order(batch_size):
    reader, done = Reader(10), []
    found = extract(moments, reader, 10, batch_size, ["logits", "2048"], done.append)
    assert list(found) == ["logits", "2048"]
    for tap, rows in moments(reader.images).items():
        np.testing.assert_array_equal(found[tap], rows)
    assert sum(done) == 10 and max(done) == min(batch_size, 10)


def test_the_next_batch_is_read_while_one_is_evaluated():
    reader, seen = Reader(6), []
    second = threading.Event()

    def slow(images):
        if not seen:
            assert second.wait(10), "nothing was read ahead"
        seen.append(len(images))
        return moments(images)

    def read(start, stop):
        if start:
            second.set()
        return reader(start, stop)

    extract(slow, read, 6, 2, ["2048"])
    assert seen == [2, 2, 2] and reader.asked == [(0, 2), (2, 4), (4, 6)]  # one ahead, not all
    assert threading.get_ident() not in reader.threads


def test_a_batch_that_does_not_fit_is_halved():
    sizes = []

    def small(images):
        sizes.append(len(images))
        if len(images) > 3:
            raise MemoryError("a tensor of 4 TB")
        return moments(images)

    reader = Reader(40)
    found = extract(small, reader, 40, 16, ["2048"])
    np.testing.assert_array_equal(found["2048"], moments(reader.images)["2048"])
    assert sizes[:4] == [16, 8, 4, 2] and set(sizes[4:]) <= {1, 2}

    def none(images):
        raise MemoryError("a tensor of 4 TB")

    with pytest.raises(RunError, match=r"\(4, 5, 1\).*memory"):
        extract(none, reader, 40, 16, ["2048"])


def test_features_that_are_not_finite_end_the_run():
    def broken(images):
        return {"2048": np.full((len(images), 2), np.nan)}

    with pytest.raises(RunError, match=r"images 0 to 1.* 2048"):
        extract(broken, Reader(4), 4, 2, ["2048"])


def test_an_error_of_reading_is_handed_on():
    def read(start, stop):
        if start >= 4:
            raise ValueError("b.npy: truncated")
        return Reader(9)(start, stop)

    with pytest.raises(ValueError, match=r"b\.npy: truncated"):
        extract(moments, read, 9, 2, ["2048"])


def test_the_first_batch_follows_the_memory(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 12 * 2 * (24 << 20))
    assert first_batch_size("inception", "cpu", "float32") == 8
    assert first_batch_size("inception", "cpu", "float64") == 4
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    assert first_batch_size("inception", "cpu", "float32") == 1
    monkeypatch.setattr(module, "free_memory", lambda: 1 << 50)
    assert first_batch_size("inception", "cpu", "float32") == 32
    assert first_batch_size("inception", "NVIDIA H100", "float32") == 256


def test_free_memory_is_part_of_all_memory():
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert everything / 1000 < free_memory() <= everything


def test_integers_are_divided_by_their_maximum_and_nothing_is_rounded():
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(in_unit_range(steps, "a"), (steps / 255).astype(np.float32))
    np.testing.assert_array_equal(in_unit_range(steps.astype(np.uint16) * 257, "a"), (steps / 255).astype(np.float32))
    fine = np.linspace(0, 1, 60, dtype=np.float64).reshape(4, 5, 3)
    assert in_unit_range(fine, "a").dtype == np.float32
    np.testing.assert_array_equal(in_unit_range(fine, "a"), fine.astype(np.float32))
    for image in (fine * 255, fine - 0.1, steps.astype(np.int16) - 3):
        with pytest.raises(ValueError, match=r"^a: .*\[0, 1\]"):
            in_unit_range(image, "a")


def test_taps_are_chosen_by_name():
    assert choose_taps("inception", "") == ("2048",)
    assert choose_taps("inception", "64, logits") == ("64", "logits")
    for taps in ("pool", "64,64", "64,"):
        with pytest.raises(ValueError, match=r"must be some of 64, 192, 768, 2048, logits_unbiased, logits"):
            choose_taps("inception", taps)


def test_the_file_holds_what_was_written(tmp_path):
    rows = np.random.default_rng(0).random((5, 3))
    write_features(tmp_path / "a.npz", {"2048": rows, "64": rows[:, :1]}, {"n": 5, "name": "Häuser"})
    found, manifest = read_features(tmp_path / "a.npz")
    assert manifest == {"n": 5, "name": "Häuser"} and found.keys() == {"2048", "64"}
    assert found["2048"].dtype == np.float32
    np.testing.assert_array_equal(found["2048"], rows.astype(np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_the_task_keeps_its_extractor(tmp_path, monkeypatch):
    made = []
    checked = []
    facts = Facts(
        ("2048", "logits"),
        "2048",
        lambda: module.cache_folder() / "w.safetensors",
        lambda w, where: checked.append(where),
        1,
        int,
    )
    monkeypatch.setitem(module.EXTRACTORS, "inception", facts)
    write_tensors(tmp_path / "w.safetensors", {"a": np.ones(2, np.float32)})

    def make(name, weights, resize, dtype):
        made.append((name, sorted(weights), resize, dtype))
        return moments

    task = FeaturesTask(make)
    images = np.random.default_rng(0).random((5, 4, 4, 1))
    options = {
        "extractor": "inception",
        "weights": str(tmp_path / "w.safetensors"),
        "resize": "clean",
        "dtype": "float64",
        "taps": ["logits"],
        "batch_size": 2,
    }
    for _ in range(2):
        found, _ = task({"images": images}, options)
        assert found.keys() == {"logits"}
        np.testing.assert_array_equal(found["logits"], moments(images)["logits"])
    assert made == [("inception", ["a"], "clean", "float64")] and checked == [options["weights"]]
    task({"images": images}, {**options, "resize": "legacy"})
    assert len(made) == 2


# The verb, over a twin whose extractor is `moments`.


@pytest.fixture(autouse=True)
def extractor(monkeypatch):
    """The NumPy twin's extractor is `moments`."""
    monkeypatch.setattr("tests.numpy_impl.extractors.make_extractor", lambda *_: moments)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The fetched weights, in a cache of our own."""

    def check(tensors, where):
        if "a" not in tensors:
            raise ValueError(f"{where}: not the weights")

    facts = Facts(("2048", "logits"), "2048", lambda: module.cache_folder() / "w.safetensors", check, 1 << 20, int)
    monkeypatch.setitem(module.EXTRACTORS, "inception", facts)
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    write_tensors(tmp_path / "cache" / "w.safetensors", {"a": np.ones(2, np.float32)})
    return tmp_path / "cache" / "w.safetensors"


def run(*argv) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call of the command line, with the extractor whose facts are a stand-in's."""
    return command_line.run(*argv, "--extractor", "inception")


def refused(code: int, *argv) -> str:
    """The one line of an error."""
    found, out, err = run(*argv)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert found == code and len(lines) == 1 and out == "", (found, out, err)
    return lines[0]


def sample_folder(path) -> np.ndarray:
    """A folder as `sample` writes it."""
    images = np.random.default_rng(3).random((7, 8, 8, 1), np.float32)
    path.mkdir()
    np.save(path / "samples.npy", images)
    Image.new("L", (3, 3)).save(path / "grid.png")
    write_json(path / "manifest.json", {"sampler": "ddim", "steps": 5})
    return images


def test_the_verb_writes_features_and_manifest(tmp_path, weights):
    images = sample_folder(tmp_path / "out")
    code, out, err = run("features", tmp_path / "out", "--out", tmp_path / "new" / "f.npz", "--taps", "2048,logits")
    assert code == 0, err
    assert out == f"wrote {tmp_path / 'new' / 'f.npz'}: 2048 (7, 1), logits (7, 2)\n" and "7/7" in err
    found, manifest = read_features(tmp_path / "new" / "f.npz")
    for tap, rows in moments(images).items():
        np.testing.assert_array_equal(found[tap], rows)
    expected = {
        "extractor": "inception",
        "resize": "clean",
        "taps": ["2048", "logits"],
        "n": 7,
        "dtype": "float32",
        "weights": str(weights),
        "weights_sha256": file_hash(weights),
        "samples": {"sampler": "ddim", "steps": 5},
        "framework": "numpy",
        "version": np.__version__,
        "numpy": np.__version__,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["images"]["stored"] == "8x8x1 float32" and "python" in manifest
    assert manifest["images"]["path"] == str(tmp_path / "out" / "samples.npy")


def test_the_verb_reads_pictures_arrays_and_zips(tmp_path, weights):
    pixels = np.random.default_rng(4).integers(0, 256, (5, 6, 8, 3), np.uint8)
    (tmp_path / "pictures").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / "pictures" / f"{index}.png")
            archive.write(tmp_path / "pictures" / f"{index}.png", f"{index}.png")
    np.savez(tmp_path / "a.npz", images=pixels)
    np.save(tmp_path / "a.npy", (pixels / 255).astype(np.float32))
    expected = moments((pixels / 255).astype(np.float32))["2048"]
    for name in ("pictures", "a.zip", "a.npz", "a.npy"):
        code, _, err = run("features", "--out", tmp_path / "f.npz", tmp_path / name, "--overwrite", "--batch-size", 2)
        assert code == 0, err
        found, manifest = read_features(tmp_path / "f.npz")
        assert found.keys() == {"2048"} and manifest["samples"] is None and manifest["taps"] == ["2048"]
        np.testing.assert_array_equal(found["2048"], expected)
    source = open_source(tmp_path / "a.zip")
    np.testing.assert_array_equal(read_images(source, 1, 3), (pixels[1:3] / 255).astype(np.float32))


def test_weights_by_name(tmp_path, weights):
    sample_folder(tmp_path / "out")
    common = ("features", tmp_path / "out", "--out", tmp_path / "f.npz", "--overwrite", "--weights")
    np.savez(tmp_path / "published.npz", a=np.ones(2))
    write_tensors(tmp_path / "other.safetensors", {"b": np.ones(2, np.float32)})
    code, _, err = run(*common, tmp_path / "published.npz")
    assert code == 0, err
    _, manifest = read_features(tmp_path / "f.npz")
    assert manifest["weights_sha256"] == file_hash(tmp_path / "published.npz")
    assert "other.safetensors: not the weights" in refused(2, *common, tmp_path / "other.safetensors")
    assert "gone.pth: no such file" in refused(2, *common, tmp_path / "gone.pth")
    assert "gone.safetensors: no such file" in refused(2, *common, tmp_path / "gone.safetensors")
    weights.unlink()
    line = refused(2, "features", tmp_path / "out", "--out", tmp_path / "g.npz")
    assert line == "error: no weights of inception: fetch them with python -m torch_impl fetch inception (or tf_impl)"


def test_what_the_verb_refuses(tmp_path, weights):
    sample_folder(tmp_path / "out")
    out = ("--out", tmp_path / "f.npz")
    assert "no images given" in refused(2, "features", *out)
    assert "--out (none): must be a file that ends in .npz" in refused(2, "features", tmp_path / "out")
    assert "f.npy: must be a file that ends" in refused(2, "features", tmp_path / "out", "--out", tmp_path / "f.npy")
    assert "nothing: no such file or folder" in refused(2, "features", tmp_path / "nothing", *out)
    assert "takes one source of images" in refused(2, "features", "a", "b", *out)
    assert "--taps pool: must be some of 2048, logits" in refused(
        2, "features", tmp_path / "out", *out, "--taps", "pool"
    )
    assert "--batch-size -1: must be at least 0" in refused(2, "features", tmp_path / "out", *out, "--batch-size", -1)
    np.save(tmp_path / "big.npy", np.full((2, 8, 8, 1), 7.0))
    line = refused(2, "features", tmp_path / "big.npy", *out)
    assert "big.npy[0]: values from 7 to 7" in line and not (tmp_path / "f.npz").exists()
    (tmp_path / "f.npz").write_text(json.dumps({}))
    assert "exists already; name another --out, or give --overwrite" in refused(2, "features", tmp_path / "out", *out)


def test_a_full_disk_leaves_the_old_file(tmp_path, weights, monkeypatch):
    sample_folder(tmp_path / "out")
    command = ("features", tmp_path / "out", "--out", tmp_path / "f.npz", "--overwrite")
    assert run(*command)[0] == 0
    before = (tmp_path / "f.npz").read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(1, *command)
    assert (tmp_path / "f.npz").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"f.npz", "out", "cache"}
