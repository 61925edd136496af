"""Guarded reads: every error names the file, and no size in a file is believed."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from core.arrays import read_npz
from core.files import write_npz
from core.reading import check_memory, free_memory, reading


@pytest.mark.parametrize(
    "error, message",
    [
        (KeyError("mu"), "F: not a list (KeyError: 'mu'); mend it"),
        (RecursionError("x"), "F: not a list (nested too deeply); mend it"),
        (OverflowError("big"), "F: not a list (OverflowError: big); mend it"),
        (ValueError("a\nb\x1b[2J"), "F: not a list (a b [2J); mend it"),
        (ValueError("F[3]: is bad"), "F[3]: is bad"),
        (PermissionError(13, "Permission denied"), "F: cannot be read: Permission denied"),
        (OSError("no picture"), "F: not a list (no picture); mend it"),
        (MemoryError(), "F: does not fit into memory; mend it"),
        (ValueError("x" * 1000), f"F: not a list ({'x' * 180}); mend it"),
    ],
)
def test_every_error_becomes_one_line_that_names_the_file(error, message):
    with pytest.raises(ValueError) as caught, reading("F", "a list", "mend it"):
        raise error
    assert str(caught.value) == message


def npy(header):
    """The bytes of a .npy file with this header and 64 bytes of content."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)


def test_npz_gives_what_was_written(tmp_path):
    arrays = {"a": np.arange(12.0).reshape(3, 4).T, "b": np.array("text"), "c": np.zeros((0, 3), np.uint8)}
    write_npz(tmp_path / "a.npz", arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.writeable


@pytest.mark.parametrize(
    "header, message",
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", "where its header says"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-8,)}", "shape"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (7,)}", "where its header says"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (8,)}", "pickled objects"),
        ("(" * 9000, "not a whole"),
        ("{'descr': '<f8'}", "not a whole"),
    ],
)
def test_npz_believes_no_header(tmp_path, header, message):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy(header))
    with pytest.raises(ValueError, match=message) as caught:
        read_npz(tmp_path / "a.npz")
    assert str(caught.value).startswith(f"{tmp_path}/a.npz: not a whole .npz file of plain arrays (")


def test_npz_of_another_kind(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", stream.getvalue())
        archive.writestr("a.npy", stream.getvalue())
    for name, content in (("array", stream.getvalue()), ("text", b"text"), ("empty", b"")):
        (tmp_path / f"{name}.npz").write_bytes(content)
    for name in ("twice", "array", "text", "empty", "missing"):
        with pytest.raises(ValueError, match=f"/{name}.npz: "):
            read_npz(tmp_path / f"{name}.npz")


def test_memory_that_is_not_there(monkeypatch):
    check_memory("F", 1000)
    monkeypatch.setattr("core.reading.free_memory", lambda: 2**30)
    with pytest.raises(ValueError, match=r"F: needs 2\.0 GiB of memory where 1\.0 GiB are free"):
        check_memory("F", 2**31)
    assert free_memory() > 0


def test_free_memory_keeps_the_limit_of_the_process():
    program = (
        "import resource; from core.reading import free_memory; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        "print(free_memory() <= 2**31)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
