"""Pickled [image, mass] files: those that NumPy writes give its arrays; all others are refused and never run."""

import csv
import io
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.data.__main__ import main
from core.data.pickles import convert_pickles, image_and_mass
from core.data.sources import open_source

ROOT = Path(__file__).parents[2]
IMAGE = np.random.default_rng(0).random((5, 7))
IMAGES = {
    **{code: (IMAGE * 100).astype(code) for code in ("f2", "<f4", ">f4", "f8", ">f8", "i1", "u1", "i2", ">u2", "i8")},
    "bool": IMAGE > 0.5,
    "fortran": np.asfortranarray(IMAGE),
    "strided": IMAGE[:, ::2],
    "channels": IMAGE[None],
    "large": np.resize(IMAGE, (300, 260)),
}
MASSES = {
    "float64": np.float64(1e-23),
    "float32": np.float32(0.1),
    "int16": np.int16(-300),
    "array": np.array(2.5),
    "float": -1.5,
    "int": 70000,
    "long": -(2**40),
    "bool": True,
}


def objects(*content):
    array = np.empty(len(content), object)
    array[:] = content
    return array


def npy(pickled, shape=(2,), descr="|O"):
    """A .npy file with this content."""
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickled


def as_numpy_1(pickled, protocol):
    """The module names of NumPy 1; lengths of text and frames are made to fit."""
    renamed = pickled.replace(b"numpy._core.", b"numpy.core.")
    if protocol < 4:
        return renamed
    for name in (b"multiarray", b"numeric"):
        long, short = bytes([len(name) + 12]), bytes([len(name) + 11])
        renamed = renamed.replace(b"\x8c" + long + b"numpy.core." + name, b"\x8c" + short + b"numpy.core." + name)
    frames = [i for i in range(len(renamed)) if renamed[i : i + 1] == b"\x95"][:1]
    assert frames == [2]
    size = int.from_bytes(pickled[3:11], "little")
    removed = pickled[: 11 + size].count(b"numpy._core.")
    return renamed[:3] + (size - removed).to_bytes(8, "little") + renamed[11:]


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("names", ("numpy 1", "numpy 2"))
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_files_of_numpy_give_what_numpy_loads(protocol, names):
    pairs = [(image, MASSES["float64"]) for image in IMAGES.values()] + [(IMAGE, mass) for mass in MASSES.values()]
    for pair in pairs:
        pickled = pickle.dumps(objects(*pair), protocol=protocol)
        assert b"numpy._core." in pickled
        data = npy(as_numpy_1(pickled, protocol) if names == "numpy 1" else pickled)
        image, mass = image_and_mass(data)
        expected = np.load(io.BytesIO(data), allow_pickle=True)
        native = expected[0].astype(expected[0].dtype.newbyteorder("="))  # NumPy does so but in protocol 5
        np.testing.assert_array_equal(image, native, strict=True)
        assert type(mass) is float and mass == float(expected[1])
        assert image.flags.f_contiguous == expected[0].flags.f_contiguous


@pytest.mark.parametrize("version", ((1, 0), (2, 0), (3, 0)))
def test_each_version_of_npy(version):
    for content in (objects(IMAGE, 1.0), IMAGE):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, content, version)
        found = image_and_mass(stream.getvalue())
        if content is IMAGE:
            assert found is None
        else:
            np.testing.assert_array_equal(found[0], IMAGE, strict=True)


def test_pickled_images_are_converted_only_when_asked(tmp_path, capsys):
    images = np.random.default_rng(0).random((3, 8, 8))
    for name in ("axion", "cdm"):
        (tmp_path / "in" / name).mkdir(parents=True)
    for i, image in enumerate(images):
        np.save(tmp_path / "in" / "axion" / f"{i}.npy", objects(image, 10.0**-i))
    np.save(tmp_path / "in" / "cdm" / "0.npy", images[0] / 2)
    command = ["convert-pickles", str(tmp_path / "in"), str(tmp_path / "out")]
    assert main(command) == 2 and not (tmp_path / "out").exists()
    assert "--i-trust-this-source" in capsys.readouterr().err
    assert main([*command, "--i-trust-this-source"]) == 0
    source = open_source(tmp_path / "out")
    assert source.class_names == ("axion", "cdm") and source.labels.tolist() == [0, 0, 0, 1]
    for i in range(4):
        np.testing.assert_array_equal(source.read(i)[..., 0], images[i] if i < 3 else images[0] / 2)
    with open(tmp_path / "out" / "parameters.csv", newline="") as table:
        assert [float(row["mass"]) for row in csv.DictReader(table)] == [1.0, 0.1, 0.01]
    with pytest.raises(ValueError, match="not empty"):
        convert_pickles(tmp_path / "in", tmp_path / "out", trusted=True)
    with pytest.raises(ValueError, match=r"no \.npy files"):
        convert_pickles(tmp_path / "none", tmp_path / "other", trusted=True)


class Reduced:
    """Pickled as a call with arguments, and a state for BUILD where there is one."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


GOOD = pickle.dumps(objects(IMAGE, np.float64(1)), protocol=3)
FIELDS = np.dtype([("x", "O")])
BYTES_OF_IMAGE = IMAGE.tobytes()


def changed(old, new, data=GOOD):
    assert data.count(old) == 1
    return data.replace(old, new)


def dump(*content):
    return pickle.dumps(objects(*content), protocol=3)


def state(shape, dtype, data):
    """An array of crafted state."""
    return Reduced(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


def scalar(dtype, data):
    return Reduced(np._core.multiarray.scalar, (dtype, data))


HOSTILE = {
    "os.system": (lambda touch: dump(IMAGE, Reduced(__import__("os").system, (touch,))), "asks for posix.system"),
    "exec": (lambda touch: dump(Reduced(exec, (f"import os; os.system({touch!r})",)), 1.0), "asks for builtins.exec"),
    "os.system, protocol 0": (lambda touch: b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.", "asks for os.system"),
    "a name of NumPy": (lambda _: dump(IMAGE, Reduced(np.dot, (IMAGE, IMAGE))), "asks for numpy"),
    "instance": (lambda _: b"\x80\x03(i__main__\nA\n.", "opcode INST"),
    "extension": (lambda _: b"\x80\x03\x82\x01.", "opcode EXT1"),
    "persistent": (lambda _: b"\x80\x03K\x01Q.", "opcode BINPERSID"),
    "object of a class": (lambda _: b"\x80\x03cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
    "ndarray called": (lambda _: b"\x80\x03cnumpy\nndarray\nK\x01\x85R.", "calls numpy.ndarray with"),
    "call of a number": (lambda _: b"\x80\x03K\x01)R.", "calls what is no function"),
    "dtype with fields": (lambda _: dump(np.zeros((2, 2), FIELDS), 1.0), "calls numpy.dtype with"),
    "dtype with an address": (lambda _: dump(IMAGE, scalar(np.dtype("O"), b"\x41" * 8)), "dtype that is not numbers"),
    "image of addresses": (lambda _: dump(state((2, 2), np.dtype("O"), b"\x41" * 32), 1.0), "dtype that is not numb"),
    "text": (lambda _: dump(np.array([["a"]]), 1.0), "calls numpy.dtype with"),
    "complex": (lambda _: dump(IMAGE * 1j, 1.0), "calls numpy.dtype with"),
    "dates": (lambda _: dump(IMAGE.astype("M8[s]"), 1.0), "calls numpy.dtype with"),
    "objects in objects": (lambda _: dump(objects(1, 2), 1.0), "neither a number nor an array"),
    "a long message": (lambda _: b"\x80\x03I" + b"x" * 10**5 + b"\n.", "invalid literal"),
    "list": (lambda _: dump([1.0], 1.0), "opcode APPEND"),
    "dict": (lambda _: dump({}, 1.0), "opcode EMPTY_DICT"),
    "None": (lambda _: dump(IMAGE, None), "neither a number nor an array"),
    "one object": (lambda _: dump(IMAGE), "opcode APPEND"),
    "three objects": (lambda _: dump(IMAGE, 1.0, 2.0), "a dtype that is not numbers"),
    "too few bytes": (lambda _: dump(state((5, 8), np.dtype("f8"), BYTES_OF_IMAGE), 1.0), "280 bytes for an array"),
    "too many bytes": (lambda _: dump(state((5, 6), np.dtype("f8"), BYTES_OF_IMAGE), 1.0), "280 bytes for an array"),
    "no bytes, huge": (lambda _: dump(state((2**40, 0), np.dtype("f8"), b""), 1.0), "up to 3 whole numbers"),
    "huge": (lambda _: dump(state((2**25, 2**25), np.dtype("f8"), b"0"), 1.0), "1 bytes for an array"),
    "negative": (lambda _: dump(state((-5, -7), np.dtype("f8"), BYTES_OF_IMAGE), 1.0), "up to 3 whole numbers"),
    "4 axes": (lambda _: dump(state((1, 1, 5, 7), np.dtype("f8"), BYTES_OF_IMAGE), 1.0), "up to 3 whole numbers"),
    "scalar of 4 bytes": (lambda _: dump(IMAGE, scalar(np.dtype("f8"), b"0000")), "4 bytes for an array"),
    "bytes as text": (lambda _: dump(IMAGE, scalar(np.dtype("f8"), "00000000")), "not made of bytes"),
    "mass no float": (lambda _: dump(IMAGE, 2**1100), "no float holds"),
    "mass of two": (lambda _: dump(IMAGE, np.ones(2)), "not a mass"),
    "1 axis": (lambda _: dump(IMAGE[0], 1.0), "not an image"),
    "no image": (lambda _: dump(1.0, 1.0), "not an image"),
    "BUILD of a number": (lambda _: b"\x80\x03K\x01)b.", "BUILD with a state"),
    "BUILD of a name": (lambda _: b"\x80\x03cnumpy\nndarray\n)b.", "BUILD with a state"),
    "BUILD twice": (lambda _: changed(b"tq\x18b", b"tq\x18bh\x18b"), "BUILD with a state"),
    "BUILD of a dtype twice": (lambda _: changed(b"tq\x0cb", b"tq\x0cbh\x0cb"), "BUILD with a state"),
    "dtype without order": (lambda _: b"\x80\x03cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x89\x88"
                            b"\x87RC\x0800000000\x86R.", "dtype that is not numbers"),
    "recursion": (lambda _: b"\x80\x03]q\0(h\0h\0e.", "no array of two objects"),
    "recursion in an array": (lambda _: changed(b"]q\x0d(", b"]q\x0d(h\x0dh\x0detb."), "neither a number nor an array"),
    "array in itself": (lambda _: changed(b"]q\x0d(", b"]q\x0d(h\x05h\x05etb."), "neither a number nor an array"),
    "deep": (lambda _: b"\x80\x03)" + b"\x85" * 10**6 + b".", "more than 512 opcodes"),
    "memo": (lambda _: changed(b"h\x14C", b"h\xfeC"), "memo 254 is not set"),
    "empty stack": (lambda _: b"\x80\x03\x85.", "takes more than its stack holds"),
    "memo of nothing": (lambda _: b"\x80\x03q\0.", "stack is empty"),
    "no mark": (lambda _: b"\x80\x03K\x01t.", "no mark"),
    "append to a number": (lambda _: b"\x80\x03K\x01(K\x01K\x01e.", "APPENDS on what is no list"),
    "bytes of 4 GiB": (lambda _: b"\x80\x03B\xff\xff\xff\xff00.", "expected 4294967295 bytes"),
    "bytes of 8 EiB": (lambda _: b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f00.", "expected"),
    "text over and over": (lambda _: b"\x80\x03c_codecs\nencode\nq\0X\0\0\0\x01" + b"a" * 2**24 + b"X\x06\0\0\0latin1"
                           b"\x86q\x01R" + b"h\0h\x01R" * 150 + b".", "decodes more than"),
    "truncated": (lambda _: GOOD[:-20], ""),
    "nothing": (lambda _: b"", "exhausted"),
    "more after the end": (lambda _: GOOD + b"0", "1 bytes after"),
    "protocol 6": (lambda _: changed(b"\x80\x03", b"\x80\x06"), "protocol 6"),
    "unknown opcode": (lambda _: b"\x80\x03\xff.", "unknown"),
    "line breaks in a name": (lambda _: b"\x80\x04\x8c\x03o\ns\x8c\x01a\x93.", "asks for o\\ns.a"),
}  # fmt: skip
"""Pickles, and what the message says; `touch` is a command that would leave a file."""


def test_hostile_pickles_are_refused_and_never_run(tmp_path):
    """All in a second process with limits, where a crash, an allocation or an endless loop would end it."""
    touched = tmp_path / "touched"
    for i, (make, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "a.npy").write_bytes(npy(make(f"touch {touched}")))
    program = (
        "import sys; from core.data.__main__ import main\n"
        f"for i in range({len(HOSTILE)}):\n"
        f"    folder = {str(tmp_path)!r} + f'/{{i}}'\n"
        "    print(main(['convert-pickles', folder, folder + '-out', '--i-trust-this-source']), flush=True)\n"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=environment, preexec_fn=limit
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2"] * len(HOSTILE)
    lines = [line for line in done.stderr.splitlines() if line.strip() and "image/s" not in line]  # no progress bars
    assert len(lines) == len(HOSTILE), done.stderr[-2000:]
    for i, (case, (_, message)) in enumerate(HOSTILE.items()):
        assert f"/{i}/a.npy: not a pickled [image, mass] (" in lines[i] and message in lines[i], (case, lines[i])
        assert len(lines[i]) < 200 + len(f"error: {tmp_path}/{i}/a.npy: not a pickled [image, mass] (); remove it")
        assert not (tmp_path / f"{i}-out" / "a.npy").exists()
    assert not touched.exists()


def test_the_hostile_command_would_run_if_it_were_unpickled(tmp_path):
    """What the test above rests on."""
    pickle.loads(HOSTILE["os.system"][0](f"touch {tmp_path / 'touched'}"))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no .npy file"),
        (b"\x93NUMPY\x04\x00", "no .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 10000, "header"),
        (npy(GOOD, descr=[("x", "|O")]), "header"),
        (npy(GOOD, descr="<c16"), "dtype <c16"),
        (npy(GOOD, shape=(3,)), r"shape \(3,\)"),
        (npy(GOOD, shape=(2, 1)), r"shape \(2, 1\)"),
        (npy(GOOD + bytes(2**25)), "more than 33554432 bytes"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        image_and_mass(data)


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_damaged_files_are_read_or_refused(protocol):
    """Cut anywhere, and with random bytes changed: an image and a mass, or a ValueError."""
    whole = npy(pickle.dumps(objects(IMAGE[:2, :2], np.float64(1)), protocol=protocol))
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            image_and_mass(whole[:end])
    generator = np.random.default_rng(protocol)
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in generator.integers(128, len(whole), generator.integers(1, 4)):
            damaged[place] = generator.integers(256)
        try:
            found = image_and_mass(bytes(damaged))
        except ValueError:
            continue
        assert isinstance(found[0], np.ndarray) and found[0].dtype.kind in "buif" and isinstance(found[1], float)
