"""The verb verify: sources that changed, with the same size and time too, and prepared sets that are damaged."""

import gzip
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.config import DataConfig
from core.data.__main__ import main
from core.data.cache import MANIFEST, SUMS
from core.data.dataset import open_dataset

SHAPE = (4, 4, 1)
END = "nothing changed and nothing is damaged"


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def folder_of(tmp_path):
    for i, image in enumerate(images()):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "set", tmp_path / "set" / "b" / "3.png"


def zip_of(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, image in enumerate(images()):
            np.save(tmp_path / "one.npy", image)
            archive.write(tmp_path / "one.npy", f"{i}.npy")
    return tmp_path / "set.zip", tmp_path / "set.zip"


def npy_of(tmp_path):
    np.save(tmp_path / "set.npy", images())
    return tmp_path / "set.npy", tmp_path / "set.npy"


def npz_of(tmp_path):
    np.savez(tmp_path / "set.npz", images=images(), labels=np.arange(6) % 2)
    return tmp_path / "set.npz", tmp_path / "set.npz"


def idx_of(tmp_path):
    path, labels = tmp_path / "t-images-idx3-ubyte.gz", tmp_path / "t-labels-idx1-ubyte"
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 6, 4, 4) + images().tobytes()))
    labels.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 6) + bytes([0, 1, 2, 0, 1, 2]))
    return path, labels


def picture_of(tmp_path):
    Image.fromarray(images()[0]).save(tmp_path / "set.png")
    return tmp_path / "set.png", tmp_path / "set.png"


SOURCES = {
    "folder": folder_of,
    "zip": zip_of,
    "npy": npy_of,
    "npz": npz_of,
    "idx": idx_of,
    "picture": picture_of,
}


@pytest.fixture(params=SOURCES)
def prepared(request, tmp_path):
    """A source, one of its files, and the folder of the set that was prepared from it."""
    source, file = SOURCES[request.param](tmp_path)
    open_dataset(DataConfig(source=str(source), cache=str(tmp_path / "cache"), held_out=0.0), SHAPE)
    (folder,) = (tmp_path / "cache").iterdir()
    return source, file, folder


def verify(capsys, cache, *words):
    """Exit code, lines of stdout and lines of stderr without progress."""
    capsys.readouterr()
    code = main(["verify", *map(str, words), "--cache", str(cache)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), [line for line in err.splitlines() if line.startswith("error")]


def change(path, write):
    """Write a file anew, with the size and the times that it had."""
    before = path.stat()
    write(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_last_pixel(path):
    """One bit, in the last byte of the last image of a zip or of what the file holds."""
    data = bytearray(path.read_bytes())
    last = data.rfind(b"\x93NUMPY") if path.suffix == ".zip" else -1
    data[last + 128 if last >= 0 else -1] ^= 1
    path.write_bytes(data)


def test_what_did_not_change_is_said_to_be_whole(prepared, capsys):
    source, _, folder = prepared
    count = len(json.loads((folder / SUMS).read_text()))
    assert count == {"set": 6, "set.zip": 6, "t-images-idx3-ubyte.gz": 2}.get(source.name, 1)
    for words in ([], [source], ["--source", source]):
        code, out, error = verify(capsys, folder.parent, *words)
        assert code == 0 and error == [] and out[0].startswith(f"{folder}: whole, ") and out[2:] == [END]
        assert out[1] == f"{source}: {count} files as they were when {folder.name} was prepared"
    os.utime(prepared[1], (1, 1))  # another time is no other content
    assert verify(capsys, folder.parent)[0] == 0


def test_a_source_of_another_content_with_the_same_size_and_time_is_noticed(prepared, capsys):
    source, file, folder = prepared
    change(file, flip_last_pixel)
    code, out, error = verify(capsys, folder.parent)
    assert code == 1 and len(error) == 1 and END not in out and len(out) == 2
    assert out[0].startswith(f"{folder}: whole") and str(file) in out[1]
    if source.suffix not in (".zip", ".png"):  # these are refused when they are opened, or have their own sums
        assert out[1] == f"{file}: changed, with the same size and time since {folder.name} was prepared"
    assert error[0].startswith("error: 1 of these lines")


def test_files_that_came_or_went_are_named(tmp_path, capsys):
    source, file = folder_of(tmp_path)
    open_dataset(DataConfig(source=str(source), cache=str(tmp_path / "cache"), held_out=0.0), SHAPE)
    new = source / "a" / "7.png"
    new.write_bytes(file.read_bytes())
    other = source / "a" / "2.png"
    other.write_bytes(file.read_bytes())
    file.unlink()
    code, out, _ = verify(capsys, tmp_path / "cache")
    assert code == 1 and [line.split(" since ")[0] for line in out[1:]] == [
        f"{other}: changed",
        f"{new}: is new",
        f"{file}: is missing",
    ]
    source.rename(tmp_path / "elsewhere")
    code, out, _ = verify(capsys, tmp_path / "cache")
    assert code == 1 and out[1].startswith(f"{source}: no such file or folder")


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.npy", lambda path: flip(path, -5)),
        ("images.npy", lambda path: path.write_bytes(path.read_bytes()[:-3])),
        ("images.npy", lambda path: path.unlink()),
        ("arrays.npz", lambda path: flip(path, 200)),
        ("arrays.npz", lambda path: path.write_bytes(b"")),
        ("arrays.npz", lambda path: np.savez(path, labels=np.zeros(6, int), hashes=np.zeros((6, 32), np.uint8))),
        ("source_sums.json", lambda path: flip(path, 20)),
        ("source_sums.json", lambda path: path.unlink()),
        ("manifest.json", lambda path: path.write_text(path.read_text()[:80])),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace('"count": 6', '"count": 7'))),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace('"a"', '"c"'))),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace("_sha256", "_sha512"))),
        ("manifest.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_set_is_noticed_and_its_file_is_named(tmp_path, capsys, name, damage):
    source, _ = folder_of(tmp_path)
    open_dataset(DataConfig(source=str(source), cache=str(tmp_path / "cache"), held_out=0.0), SHAPE)
    (folder,) = (tmp_path / "cache").iterdir()
    damage(folder / name)
    for words in ([], [source]):
        code, out, error = verify(capsys, tmp_path / "cache", *words)
        assert code == 1 and len(out) == len(error) == 1, out
        assert out[0].startswith(f"{folder / name}: ")


def test_a_set_of_an_earlier_version_has_no_sums(prepared, capsys):
    source, _, folder = prepared
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest.pop("source_sums_sha256") and manifest.pop("manifest_sha256")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / SUMS).unlink()
    code, out, _ = verify(capsys, folder.parent)
    assert code == 0 and out[0].startswith(f"{folder}: whole") and out[2:] == [END]
    assert out[1].startswith(f"{source}: no sums are known, since {folder.name} was prepared by an earlier version")
    before = (folder / "images.npy").stat()
    open_dataset(DataConfig(source=str(source), cache=str(folder.parent), held_out=0.0), SHAPE)
    assert (folder / "images.npy").stat() == before  # still used as it is
    flip(folder / "images.npy", -1)
    assert verify(capsys, folder.parent)[0] == 1


def test_simulated_sets_other_folders_and_no_set(tmp_path, capsys):
    cache = tmp_path / "cache"
    assert verify(capsys, cache)[0] == 2
    (cache / "mine").mkdir(parents=True)
    (cache / ".set-4x4-0123456789abcdef.1.partial").mkdir()
    code, out, error = verify(capsys, cache)
    assert code == 2 and out == [] and error == [f"error: {cache}: holds no prepared set; a training prepares one"]
    open_dataset(DataConfig(simulate_count=3, cache=str(cache), held_out=0.0), (8, 8, 1))
    code, out, _ = verify(capsys, cache)
    assert code == 0 and out[1:] == ["simulate:lensing: simulated, no files", END]
    assert verify(capsys, cache, "simulate:lensing")[0] == 0
    code, _, error = verify(capsys, cache, tmp_path / "other.npy")
    assert code == 2 and f"holds no prepared set of {tmp_path / 'other.npy'}" in error[0]


def test_labels_that_changed_are_prepared_again(tmp_path):
    """They lie in a file of their own beside IDX images."""
    path, labels = idx_of(tmp_path)
    config = DataConfig(source=str(path), cache=str(tmp_path / "cache"), held_out=0.0)
    assert open_dataset(config, SHAPE).labels.tolist() == [0, 1, 2, 0, 1, 2]
    labels.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 6) + bytes([2, 1, 0, 0, 1, 2]))
    os.utime(labels, (1, 1))
    assert open_dataset(config, SHAPE).labels.tolist() == [2, 1, 0, 0, 1, 2]


def test_images_that_were_left_out_are_verified_too(tmp_path, capsys):
    """In a zip, one whose checksum is wrong has no sum."""
    source, _ = zip_of(tmp_path)
    data = bytearray(source.read_bytes())
    data[data.rfind(b"\x93NUMPY") + 128] ^= 1
    source.write_bytes(data)
    config = DataConfig(source=str(source), cache=str(tmp_path / "cache"), held_out=0.0, skip_broken=True)
    assert len(open_dataset(config, SHAPE).images) == 5
    (folder,) = (tmp_path / "cache").iterdir()
    assert json.loads((folder / SUMS).read_text())["5.npy"] is None
    assert verify(capsys, tmp_path / "cache")[0] == 0
    data[data.rfind(b"\x93NUMPY") + 128] ^= 1
    source.write_bytes(data)
    code, out, _ = verify(capsys, tmp_path / "cache")
    assert code == 1 and out[1].startswith(f"{source}/5.npy: changed")
