"""The verb fetch against a server on this machine that cuts, lies and refuses; over a NumPy twin."""

import hashlib
import io
import os
import resource
import signal
from contextlib import redirect_stderr

import numpy as np
import pytest

from core.commands.main import main
from core.extractors import features as module
from core.extractors.features import Facts
from core.files import file_hash
from core.reading import read_tensors
from core.twin import Published
from tests import command_line
from tests.file_server import serving

CHUNK = 512 * 1024
"""What gdown writes at a time; the part of a chunk that a cut leaves is not kept."""

VALUES = np.random.default_rng(0).random(300_000, np.float32)


def read_published(path):
    """The published format here: 32-bit values and nothing else."""
    if path.stat().st_size % 4:
        raise ValueError(f"{path}: not whole values")
    return {"a": np.fromfile(path, np.float32)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda *_: 0.01)  # gdown's pause between attempts
    with serving(monkeypatch) as running:
        running.body, running.kind = VALUES.tobytes(), "application/octet-stream"
        running.sha256 = hashlib.sha256(running.body).hexdigest()
        yield running


@pytest.fixture
def cache(tmp_path, monkeypatch):
    def check(tensors, where):
        if tensors.keys() != {"a"}:
            raise ValueError(f"{where}: not the weights")

    monkeypatch.setitem(
        module.EXTRACTORS,
        "inception",
        Facts(("2048",), "2048", lambda: module.cache_folder() / "w.safetensors", check, 1, int),
    )
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(server, cache, monkeypatch):
    """A function that runs one call of the command line: exit code, stdout, stderr."""
    published = Published(server.url.replace("a.zip", "pt-6726825d.pth"), server.sha256, read_published)
    monkeypatch.setattr("tests.numpy_impl.inception.PUBLISHED", published)

    return lambda *argv: command_line.run("fetch", *argv)


def error(run, code: int, *argv) -> str:
    """The one line of an error, where nothing went to stdout."""
    found, out, err = run(*argv)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert found == code and len(lines) == 1 and out == "", (found, out, err)
    return lines[0]


def test_the_weights_arrive_once_as_one_file(run, server, cache):
    code, out, err = run("inception")
    path = cache / "w.safetensors"
    assert code == 0, err
    assert out == f"wrote {path}: 1 tensors, SHA-256 {file_hash(path)}\n"
    np.testing.assert_array_equal(read_tensors(path)["a"], VALUES)
    assert sorted(p.name for p in cache.iterdir()) == ["w.safetensors", "w.safetensors.sha256"]
    requests = len(server.ranges)
    code, out, _ = run("--name", "inception")
    assert code == 0 and out == f"{path}: is there already, SHA-256 {file_hash(path)}\n"
    assert len(server.ranges) == requests


def test_a_cut_download_goes_on_where_it_stopped(run, server, cache):
    server.cut = 700_000
    assert run("inception")[0] == 0
    assert server.ranges[0] is None and set(server.ranges[1:]) == {f"bytes={CHUNK}-"}
    np.testing.assert_array_equal(read_tensors(cache / "w.safetensors")["a"], VALUES)


def test_what_came_before_an_interrupt_is_used_by_the_next_call(run, server, cache, monkeypatch):
    server.cut = 700_000
    with monkeypatch.context() as patch:
        patch.setattr("core.data.download.download_file.__defaults__", (0,))  # no further attempts
        assert f"incomplete: received {CHUNK} bytes" in error(run, 1, "inception")
    assert not (cache / "w.safetensors").exists()
    server.cut = None
    assert run("inception")[0] == 0
    assert server.ranges[-1] == f"bytes={CHUNK}-" and sorted(p.name for p in cache.iterdir()) == [
        "w.safetensors",
        "w.safetensors.sha256",
    ]


def test_another_file_is_not_kept(run, server, cache):
    server.body = VALUES[:-1].tobytes()
    line = error(run, 1, "inception")
    assert f"what came is another file: SHA-256 {hashlib.sha256(server.body).hexdigest()} instead" in line
    assert server.sha256 in line and list(cache.iterdir()) == []


def test_a_web_page_is_not_kept(run, server, cache):
    server.body, server.kind = b"<!DOCTYPE html><html>Rate limit</html>", "text/html"
    assert "what came is a web page instead of the one" in error(run, 1, "inception")
    assert list(cache.iterdir()) == []


def test_a_server_that_fails_and_none(run, server, cache):
    server.status = 503
    assert "503" in error(run, 1, "inception")
    assert "Download failed after 3 retries" in error(run, 1, "inception", "--url", "http://127.0.0.1:9/a")
    assert list(cache.iterdir()) == []


def test_another_address_has_the_same_hash(run, server, cache):
    assert run("inception", "--url", server.url)[0] == 0
    server.body = b"1234"
    (cache / "w.safetensors").unlink()
    assert "another file" in error(run, 1, "inception", "--url", server.url)


@pytest.mark.parametrize("limit", [100_000, 1_200_000])  # bytes: the download and the safetensors file do not fit
def test_a_full_disk_is_one_line(run, server, cache, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        line = error(run, 1, "inception")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "File too large" in line
    assert not (cache / "w.safetensors").exists() and not list(cache.glob(".*"))
    assert run("inception")[0] == 0
    assert sorted(p.name for p in cache.iterdir()) == ["w.safetensors", "w.safetensors.sha256"]


def test_weights_that_the_twin_refuses_are_not_kept(server, cache, monkeypatch):
    server.body = b"12345"
    published = Published(server.url, hashlib.sha256(server.body).hexdigest(), read_published)
    monkeypatch.setattr("tests.numpy_impl.inception.PUBLISHED", published)
    err = io.StringIO()
    with redirect_stderr(err):
        assert main("tests.numpy_impl", ["fetch", "inception"]) == 2
    assert "not whole values" in err.getvalue() and list(cache.iterdir()) == []


def test_fetched_weights_of_which_a_bit_changed_are_refused(run, cache):
    assert run("inception")[0] == 0
    path = cache / "w.safetensors"
    wanted, data = file_hash(path), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert f"{path}: changed since it was fetched, when its SHA-256 was {wanted}" in error(run, 2, "inception")
    with pytest.raises(ValueError, match="changed since it was fetched"):
        module.default_weights("inception")
    (cache / "w.safetensors.sha256").unlink()  # fetched by an earlier version
    assert module.default_weights("inception")[0] == path


def test_what_is_refused(run, cache):
    assert "fetch (nothing): must be one of inception" in error(run, 2)
    assert "fetch resnet: must be one of inception" in error(run, 2, "resnet")
    assert "takes one extractor" in error(run, 2, "inception", "resnet")
    cache.mkdir()
    (cache / "w.safetensors").write_bytes(b"damaged")
    line = error(run, 2, "inception")
    assert "w.safetensors: not a whole safetensors file" in line and line.endswith("; remove the file and fetch again")


def test_the_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DIPTYCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.cache_folder() == tmp_path / ".cache" / "diptych"
    monkeypatch.setenv("DIPTYCH_CACHE", os.fspath(tmp_path / "b"))
    assert module.cache_folder() == tmp_path / "b"
