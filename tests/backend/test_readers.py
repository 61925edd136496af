"""Hostile files in the formats of the frameworks: pickled weights for PyTorch, a graph for TensorFlow."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from core.extractors.inception import inception_shapes
from tests.core.test_readers import ANY, line_of
from tests.inception_weights import write_graph

NAME = "a.bin"


class Code:
    """Unpickled, it would call a function."""

    def __reduce__(self):
        return print, ("loaded",)


def saved(value, new=True):
    """What torch.save writes."""
    import torch

    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def repacked(data):
    """A saved file whose parts are compressed, with one that unpacks to 64 MiB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in old.namelist():
            archive.writestr(name, bytes(64 << 20) if "/data/" in name else old.read(name))
    return stream.getvalue()


def weights_of(case):
    """The bytes of a file by the name of a case."""
    import torch

    whole = {"a": torch.ones(3)}
    cases = {
        "code": lambda: saved({"a": Code()}),
        "code, old format": lambda: saved({"a": Code()}, new=False),
        "plain pickle": lambda: pickle.dumps({"a": Code()}),
        "list": lambda: saved([torch.ones(3)]),
        "numbers as names": lambda: saved({5: torch.ones(3)}),
        "nested": lambda: saved({"model": whole}),
        "cut short": lambda: saved(whole)[:-100],
        "cut short, old format": lambda: saved(whole, new=False)[:-6],
        "expanded": lambda: saved({"a": torch.ones(1).expand(2**40)}),
        "sparse": lambda: saved({"a": torch.eye(3).to_sparse()}),
        "without data": lambda: saved({"a": torch.ones(3, device="meta")}),
        "8 bits": lambda: saved({"a": torch.ones(3).to(torch.float8_e5m2)}),
        "bomb": lambda: repacked(saved(whole)),
    }
    return cases[case]()


CASES = (
    *("code", "code, old format", "plain pickle", "list", "numbers as names", "nested", "cut short"),
    *("cut short, old format", "expanded", "sparse", "without data", "8 bits", "bomb"),
)


@pytest.fixture
def read(backend, request):
    """The backend's reader of its own format; the other backend has none."""
    if backend.name != request.param:
        pytest.skip(f"a format of {request.param}")
    return backend.weights.read_pickle if backend.name == "torch" else backend.inception.read_published


@pytest.mark.parametrize("read", ["torch"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_pickled_weights_with_anything_else_are_refused_in_our_own_words(read, tmp_path, case, capfd):
    (tmp_path / NAME).write_bytes(weights_of(case))
    line = line_of(lambda: read(tmp_path / NAME))
    assert str(tmp_path / NAME) in line and "weights_only" not in line and "trust" not in line
    assert "loaded" not in capfd.readouterr().out


@pytest.mark.parametrize("read", ["torch", "tensorflow"], indirect=True)
@pytest.mark.parametrize("kind", [kind for kind in ANY if kind not in ("folder", "missing")])
def test_another_file_under_the_name(read, tmp_path, kind):
    (tmp_path / NAME).write_bytes(ANY[kind])
    assert str(tmp_path / NAME) in line_of(lambda: read(tmp_path / NAME))


@pytest.mark.parametrize("read", ["torch", "tensorflow"], indirect=True)
def test_what_is_no_file(read, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "missing"):
        assert str(tmp_path / name) in line_of(lambda name=name: read(tmp_path / name))


@pytest.mark.parametrize("read", ["torch"], indirect=True)
def test_whole_weights_are_read(read, tmp_path):
    import torch

    tensors = {"a": torch.nn.Parameter(torch.ones(3)), "b": torch.ones(2, 3).T, "c": torch.ones(2).bfloat16()}
    for new in (True, False):
        (tmp_path / NAME).write_bytes(saved(tensors, new))
        found = read(tmp_path / NAME)
        assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
            "a": ((3,), "float32"),
            "b": ((3, 2), "float32"),
            "c": ((2,), "float32"),
        }


@pytest.mark.parametrize("read", ["tensorflow"], indirect=True)
def test_a_graph_that_claims_another_shape_makes_no_array(read, tmp_path):
    name, shape = next(iter(inception_shapes().items()))
    write_graph(tmp_path / NAME, {name: np.zeros(shape, np.float32)})
    data = (tmp_path / NAME).read_bytes()
    assert "not the weights of this network" in line_of(lambda: read(tmp_path / NAME))
    size = b"\x08" + bytes([shape[0]])  # Dim.size, a number of one byte
    assert data.count(b"\x12\x02" + size) == 1
    (tmp_path / NAME).write_bytes(data.replace(b"\x12\x02" + size, b"\x12\x02\x08\x7f"))
    assert f"{name} has shape" in line_of(lambda: read(tmp_path / NAME))
