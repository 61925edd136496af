"""Every layout on disk that is read, against the arrays it was written from, and every fault against its message."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.data import formats
from core.data.formats import read_idx, to_hwc
from core.data.sources import open_source

RNG = np.random.default_rng(0)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def idx(array, code=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def lensing_set(count=12):
    """The layout of the real lensing set, resource forks included."""
    images = RNG.random((count, 1, 10, 10))
    files = {f"Samples/sample{i + 1}.npy": npy(image) for i, image in enumerate(images)}
    files |= {f"__MACOSX/Samples/._sample{i + 1}.npy": b"\0\5\x16\7 not an array" for i in range(count)}
    return images, files | {"Samples/.DS_Store": b"junk"}


@pytest.mark.parametrize("zipped", [False, True])
def test_the_lensing_set(tmp_path, zipped):
    images, files = lensing_set()
    source = open_source(pack(tmp_path / "l.zip", files) if zipped else write(tmp_path / "l", files), channels=1)
    assert (source.shape, source.dtype, source.labels, source.class_names) == ((10, 10, 1), np.float64, None, ())
    assert len(source.names) == 12 and source.names[1].endswith("Samples/sample2.npy")  # natural order
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(12)]), images.transpose(0, 2, 3, 1))
    again = open_source(tmp_path / ("l.zip" if zipped else "l"))
    assert again.identity == source.identity


def test_identity_follows_the_files(tmp_path):
    _, files = lensing_set(3)
    folder = write(tmp_path / "l", files)
    before = open_source(folder).identity
    write(folder, {"Samples/sample4.npy": files["Samples/sample1.npy"]})
    assert open_source(folder).identity != before


@pytest.mark.parametrize("zipped", [False, True])
def test_class_folders_are_labels_and_splits_are_not(tmp_path, zipped):
    files, values = {}, {}
    for k, (split, kind) in enumerate([(s, c) for s in ("train", "val") for c in ("no", "sphere", "vort")]):
        for i in range(2):
            name = f"dataset/{split}/{kind}/{i + 1}.npy"
            values[name] = k + i / 10
            files[name] = npy(np.full((1, 6, 6), values[name]))
    source = open_source(pack(tmp_path / "d.zip", files) if zipped else write(tmp_path / "d", files))
    assert source.class_names == ("no", "sphere", "vort") and source.labels.dtype == np.int64
    for i, name in enumerate(source.names):
        key = name[name.index("dataset/") :]
        assert source.class_names[source.labels[i]] == key.split("/")[2]
        assert (source.read(i) == values[key]).all()


def picture(array, suffix, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, {"tif": "TIFF", "jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return stream.getvalue()


@pytest.mark.parametrize("suffix, options", [("png", {}), ("bmp", {}), ("tif", {}), ("webp", {"lossless": True})])
def test_pictures(tmp_path, suffix, options):
    images = RNG.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    files = {f"{i}.{suffix}": picture(image, suffix, **options) for i, image in enumerate(images)}
    for source in (open_source(write(tmp_path / "p", files)), open_source(pack(tmp_path / "p.zip", files), 3)):
        assert (source.shape, source.dtype) == ((6, 8, 3), np.uint8)
        np.testing.assert_array_equal(np.stack([source.read(i) for i in range(3)]), images)


def test_other_pictures(tmp_path):
    grey16 = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    for suffix in ("png", "tif"):
        source = open_source(write(tmp_path / f"g{suffix}", {f"a.{suffix}": picture(grey16, suffix)}))
        assert (source.shape, source.dtype) == ((5, 7, 1), np.uint16)
        np.testing.assert_array_equal(source.read(0)[..., 0], grey16)
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    source = open_source(write(tmp_path / "j", {"a.jpg": picture(smooth, "jpg", quality=95)}))
    assert np.abs(source.read(0)[..., 0].astype(int) - smooth).max() < 12
    opaque = np.dstack([smooth, smooth, smooth, np.full_like(smooth, 255)])
    source = open_source(write(tmp_path / "o", {"a.png": picture(opaque, "png")}))
    np.testing.assert_array_equal(source.read(0), opaque[..., :3])
    floats = RNG.random((4, 5), dtype=np.float32)
    np.testing.assert_array_equal(
        open_source(write(tmp_path / "f", {"a.tif": picture(floats, "tif")})).read(0)[..., 0], floats
    )
    opaque[0, 0, 3] = 10
    with pytest.raises(ValueError, match=r"a\.png.*transparent"):
        open_source(write(tmp_path / "o", {"a.png": picture(opaque, "png")}))
    stream = io.BytesIO()
    Image.new("CMYK", (4, 4)).save(stream, "TIFF")
    with pytest.raises(ValueError, match="CMYK"):
        open_source(write(tmp_path / "c", {"a.tif": stream.getvalue()}))


@pytest.mark.parametrize(
    "shape, channels", [((4, 6, 8), None), ((4, 6, 8, 3), 3), ((4, 3, 6, 8), 3), ((4, 5, 6, 6), 5)]
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_stacks(tmp_path, shape, channels, suffix):
    images = RNG.random(shape, dtype=np.float32)
    path = tmp_path / f"a.{suffix}"
    np.save(path, images) if suffix == "npy" else np.savez(
        path, images=images, labels=np.arange(4) % 2, mass=np.ones(4)
    )
    source = open_source(path, channels)
    expected = images[..., None] if images.ndim == 3 else images
    expected = expected.transpose(0, 2, 3, 1) if channels and shape[1] == channels else expected
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(4)]), expected)
    if suffix == "npz":
        assert source.labels.tolist() == [0, 1, 0, 1] and source.class_names == ("0", "1")
        assert list(source.parameters) == ["mass"]


def test_npz_as_image_benchmarks_publish_it(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8), arr_1=np.array([2, 0, 1]))
    source = open_source(tmp_path / "a.npz")
    assert (source.shape, source.dtype) == ((8, 8, 3), np.uint8) and source.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_with_labels_beside_it(tmp_path, suffix):
    images = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)
    squeeze = gzip.compress if suffix else bytes
    write(
        tmp_path,
        {
            f"train-images-idx3-ubyte{suffix}": squeeze(idx(images)),
            f"train-labels-idx1-ubyte{suffix}": squeeze(idx(np.array([3, 1, 0, 2, 9], np.uint8))),
        },
    )
    source = open_source(tmp_path / f"train-images-idx3-ubyte{suffix}")
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(5)])[..., 0], images)
    assert source.labels.tolist() == [3, 1, 0, 2, 9] and len(source.class_names) == 10
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").unlink()
    assert open_source(tmp_path / f"train-images-idx3-ubyte{suffix}").labels is None


def test_idx_of_real_values(tmp_path):
    values = RNG.random((2, 3, 4))
    path = write(tmp_path, {"a-idx3": idx(values.astype(">f8"), 14)}) / "a-idx3"
    np.testing.assert_array_equal(read_idx(path), values)


@pytest.mark.parametrize(
    "shape, channels, expected",
    [
        ((6, 8), None, (6, 8, 1)),
        ((1, 6, 8), None, (6, 8, 1)),
        ((6, 8, 1), None, (6, 8, 1)),
        ((3, 6, 8), None, (6, 8, 3)),
        ((6, 8, 3), None, (6, 8, 3)),
        ((7, 6, 8), 7, (6, 8, 7)),
        ((6, 8, 7), 7, (6, 8, 7)),
        ((1, 2, 3), 1, (2, 3, 1)),
        ((3, 6, 8), 1, (6, 8, 3)),
        ((7, 6, 8), None, None),
        ((7, 9, 9), None, (9, 9, 7)),
        ((9, 9, 7), None, (9, 9, 7)),
        ((4, 4, 1), None, (4, 4, 1)),
        ((7, 16, 20), None, (16, 20, 7)),
        ((16, 20, 7), None, (16, 20, 7)),
        ((64, 16, 16), None, (16, 16, 64)),
        ((3, 6, 3), None, None),
        ((3, 6, 3), 3, None),
        ((6, 6, 6), 6, None),
        ((2, 2, 2, 2), None, None),
        ((5,), None, None),
        ((0, 4), None, None),
    ],
)
def test_layouts(shape, channels, expected):
    array = np.arange(np.prod(shape)).reshape(shape)
    if expected is None:
        with pytest.raises(ValueError, match=r"name: shape .*(ambiguous|must be)"):
            to_hwc(array, "name", channels)
        return
    result = to_hwc(array, "name", channels)
    assert result.shape == expected
    if array.ndim == 3:
        moved = np.moveaxis(array, 0, -1) if shape[1:] == expected[:2] and shape != expected else array
        np.testing.assert_array_equal(result, moved)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


GOOD = npy(np.zeros((4, 4)))
FAULTS = [
    ({"a.npy": GOOD, "b.npy": npy(np.array([[0.0, np.nan]] * 2))}, r"b\.npy: 2x2x1 float64 where .*a\.npy is 4x4x1"),
    ({"a.npy": GOOD, "b.npy": npy(np.full((4, 4), np.inf))}, r"b\.npy: 16 of 16 values are not finite; repair"),
    ({"a.npy": GOOD, "b.npy": npy(np.zeros((4, 4), np.float32))}, r"b\.npy: 4x4x1 float32 where"),
    ({"a.npy": GOOD[:-3]}, r"a\.npy: not a whole \.npy file \(253 bytes where its header says 256\)"),
    ({"a.npy": GOOD[:40]}, r"a\.npy: not a whole \.npy file"),
    ({"a.npy": b"hello"}, r"a\.npy: not a whole \.npy file"),
    ({"a.npy": npy(np.array([np.zeros((4, 4)), Bomb()], object))}, r"a\.npy: holds pickled objects.*convert-pickles"),
    ({"a.npy": npy(np.zeros((4, 4), complex))}, r"a\.npy: dtype complex128"),
    ({"a.npy": npy(np.zeros((9, 4, 8)))}, r"a\.npy: shape \(9, 4, 8\) is ambiguous"),
    ({"a.npy": npy(np.zeros((3, 8, 8)))}, r"a\.npy: 3 channels where the network takes 1; convert the images"),
    ({"a.npy": GOOD, "b.png": b""}, r"holds images of several kinds \(\.npy, \.png\); keep one kind"),
    ({"a.png": b"\x89PNG nothing"}, r"a\.png: not a whole picture"),
    ({"a.png": picture(RNG.integers(0, 255, (64, 64), dtype=np.uint8), "png")[:900]}, r"a\.png: not a whole picture"),
    ({"a.txt": b"", "b.csv": b""}, r"no images \(found: \.csv, \.txt\)"),
    ({"__MACOSX/a.npy": GOOD}, r"no images; it must hold"),
    ({"no/a.npy": GOOD, "b.npy": GOOD}, r"b\.npy: lies beside class folders"),
]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("files, message", FAULTS, ids=range(len(FAULTS)))
def test_faults_are_named_in_one_line(tmp_path, files, message, zipped):
    path = pack(tmp_path / "d.zip", files) if zipped else write(tmp_path / "d", files)
    with pytest.raises(ValueError, match=message) as caught:
        source = open_source(path, channels=1)
        for i in range(len(source.names)):
            source.read(i)
    assert "\n" not in str(caught.value)


def test_a_format_that_is_added_opens_from_a_folder_a_zip_and_alone(tmp_path, monkeypatch):
    """A row of FORMATS is all there is to it."""

    def raw(data, name, channels):
        return np.frombuffer(data[2:], np.uint8).reshape(data[0], data[1], -1)

    monkeypatch.setitem(formats.FORMATS, ".raw", raw)
    images = RNG.integers(0, 255, (3, 4, 5, 2), np.uint8)
    files = {f"{name}/{i}.raw": bytes([4, 5]) + images[i].tobytes() for i, name in enumerate(("no", "vort", "vort"))}
    alone = tmp_path / "one.RAW"
    alone.write_bytes(files["vort/2.raw"])
    for path in (write(tmp_path / "d", files), pack(tmp_path / "d.zip", files)):
        source = open_source(path, channels=2)
        assert np.array_equal([source.read(i) for i in range(3)], images)
        assert source.labels.tolist() == [0, 1, 1] and source.class_names == ("no", "vort")
    source = open_source(alone, channels=2)
    assert len(source.names) == 1 and np.array_equal(source.read(0), images[2])
    with pytest.raises(ValueError, match=r"2 channels.* 1"):
        open_source(alone, channels=1)


def test_an_empty_folder_a_missing_path_and_an_unknown_kind(tmp_path):
    for path, message in (
        (tmp_path, "no images"),
        (tmp_path / "x", "no such file"),
        (tmp_path / "a.txt", "unknown kind"),
    ):
        if path.suffix:
            path.write_text("")
        with pytest.raises(ValueError, match=message):
            open_source(path)
        (tmp_path / "a.txt").unlink(missing_ok=True)
    (tmp_path / "a.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(ValueError, match="a broken link"):
        open_source(tmp_path)


def test_broken_zips(tmp_path):
    _, files = lensing_set(3)
    data = pack(tmp_path / "a.zip", files).read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.zip"):
        open_source(tmp_path / "cut.zip")
    at = data.index(b"sample1.npy") + 200
    (tmp_path / "bad.zip").write_bytes(data[:at] + bytes(b ^ 255 for b in data[at : at + 50]) + data[at + 50 :])
    with pytest.raises(ValueError, match=r"bad\.zip/Samples/sample1\.npy"):
        open_source(tmp_path / "bad.zip").read(0)


def save(path, **arrays):
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "name, make, message",
    [
        ("a.npy", lambda p: np.save(p, np.zeros((8, 8))), r"shape \(8, 8\); a file of images must be"),
        ("a.npy", lambda p: np.save(p, np.zeros((80, 80, 3))), "looks like one picture"),
        ("a.npy", lambda p: np.save(p, np.zeros((16, 16, 7))), "looks like one picture"),
        ("a.npy", lambda p: np.save(p, np.array([Bomb()], object)), "holds pickled objects.*convert-pickles"),
        ("a.npy", lambda p: p.write_bytes(npy(np.zeros((4, 8, 8)))[:-9]), r"not a whole \.npy file"),
        ("a.npy", lambda p: p.write_bytes(b""), r"not a whole \.npy file"),
        ("a.npz", lambda p: p.write_bytes(b"PK nothing"), r"not a whole \.npz file"),
        ("a.npz", lambda p: save(p, x=np.zeros(3)), "holds x; must hold an array named images or arr_0"),
        ("a.npz", lambda p: save(p, images=np.zeros((2, 8, 8)), labels=np.zeros(3, int)), "must be 2 integers from 0"),
        ("a.npz", lambda p: save(p, images=np.zeros((2, 8, 8)), mass=np.zeros(3)), r"mass is \(3,\) float64"),
        ("a.npz", lambda p: save(p, images=np.zeros((2, 8, 8)), o=np.array([Bomb()])), "of plain arrays"),
        (
            "a.npz",
            lambda p: save(p, images=np.zeros((2, 8, 8)), labels=np.array([0, 1]), class_names=np.array(["no"])),
            "1 class_names for labels up to 1",
        ),
        ("a-idx3-ubyte", lambda p: p.write_bytes(b"\0\0\7\3" + bytes(20)), "magic number 00000703"),
        ("a-idx3-ubyte", lambda p: p.write_bytes(b""), "magic number"),
        ("a-idx3-ubyte", lambda p: p.write_bytes(idx(np.zeros((2, 3, 4), np.uint8))[:-1]), "39 bytes where its .* 40"),
        ("a-idx3-ubyte", lambda p: p.write_bytes(b"\0\0\x08\3" + bytes(5)), "9 bytes where its header says"),
        ("a-idx3-ubyte.gz", lambda p: p.write_bytes(b"<html>quota</html>"), "not a whole gzip"),
        (
            "a-idx3-ubyte.gz",  # 2^31 values by its header, of which 2^20 are there
            lambda p: p.write_bytes(
                gzip.compress(b"\0\0\x08\3" + struct.pack(">3I", 2**11, 2**10, 2**10) + bytes(2**20))
            ),
            "more than it can hold",
        ),
        (
            "a-idx3-ubyte.gz",
            lambda p: p.write_bytes(gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)))[:-9]),
            "not a whole gzip",
        ),
    ],
)
def test_faults_of_single_files(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)
