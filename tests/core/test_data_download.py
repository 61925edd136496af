"""Downloads from a server on this machine that cuts, lies and refuses; the command line."""

import csv
import dataclasses
import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import download as module
from core.data.__main__ import main
from core.data.download import DownloadError, download
from core.data.lenses import simulate
from core.data.sources import open_source
from tests.file_server import serving

CHUNK = 512 * 1024
"""What gdown writes at a time; the part of a chunk that a cut leaves is not kept."""

ROOT = Path(module.__file__).parents[2]


def whole_zip(size=1_500_000):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("Samples/sample1.npy", np.random.default_rng(0).bytes(size))
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as running:
        yield running


def test_a_whole_zip_arrives_once(tmp_path, server):
    server.body = whole_zip()
    path = download("lensing", tmp_path / "new" / "a.zip", server.url, retries=0)
    assert path.read_bytes() == server.body
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.zip", "a.zip.sha256"]
    requests = len(server.ranges)
    assert download("lensing", path, server.url, retries=0) == path and len(server.ranges) == requests


def test_a_cut_download_goes_on_where_it_stopped(tmp_path, server):
    server.body, server.cut = whole_zip(), 700_000
    with pytest.raises(DownloadError, match=f"{CHUNK} bytes") as caught:
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    assert "\n" not in str(caught.value) and not (tmp_path / "a.zip").exists()
    server.cut = None
    download("lensing", tmp_path / "a.zip", server.url, retries=0)
    assert server.ranges[-1] == f"bytes={CHUNK}-"
    assert (tmp_path / "a.zip").read_bytes() == server.body and len(list(tmp_path.iterdir())) == 2


def test_a_cut_download_is_tried_again_at_once(tmp_path, server, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda *_: 0.01)  # the pause between attempts
    server.body, server.cut = whole_zip(), 700_000
    assert download("lensing", tmp_path / "a.zip", server.url, retries=2).read_bytes() == server.body


def test_a_web_page_is_not_kept_as_the_zip(tmp_path, server):
    server.body, server.kind = b"<!DOCTYPE html><html>Google Drive - Quota exceeded</html>", "text/html"
    with pytest.raises(DownloadError, match="quota"):
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_zip_is_not_kept(tmp_path, server):
    server.body = whole_zip()[:-40]
    with pytest.raises(DownloadError, match="zip"):
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    assert list(tmp_path.iterdir()) == []


def damaged(body):
    """The zip with one bit of its image flipped; its directory is whole."""
    return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]


def test_a_zip_that_was_altered_on_the_way_is_not_kept(tmp_path, server):
    server.body = damaged(whole_zip())
    with pytest.raises(DownloadError, match=r"not a whole zip .*Bad CRC-32 for file 'Samples/sample1\.npy'"):
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_not_made_whole_with_this_one(tmp_path, server):
    server.body, server.cut = damaged(whole_zip()), 700_000
    with pytest.raises(DownloadError, match="incomplete"):
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    server.body, server.cut = whole_zip(), None
    with pytest.raises(DownloadError, match="Bad CRC-32"):
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    assert download("lensing", tmp_path / "a.zip", server.url, retries=0).read_bytes() == server.body


def test_an_archive_that_is_there_is_read_to_the_last_byte(tmp_path, server, capsys, caplog):
    body, path = whole_zip(), tmp_path / "a.zip"
    words = ["download", "lensing", "--out", str(path), "--url", server.url]
    for other in (damaged(body), body[:-1], body[:1_000_000], body + b"\0"):
        (tmp_path / "a.zip.sha256").unlink(missing_ok=True)
        path.write_bytes(other)
        if other != body + b"\0":  # without a sum, what stands behind a zip's end belongs to it
            assert main(words) == 2
            assert f"{path}: exists and is not a whole zip" in capsys.readouterr().err
        path.write_bytes(body)
        caplog.clear()
        assert main(words) == 0  # now its sum is known
        assert f"{path}: no published SHA-256 is known" in caplog.text
        caplog.clear()
        assert main(words) == 0 and "published" not in caplog.text
        capsys.readouterr()
        line = (tmp_path / "a.zip.sha256").read_text()
        assert line == f"{hashlib.sha256(body).hexdigest()}  a.zip\n"
        path.write_bytes(other)
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"{path}: exists and is another file: SHA-256 {hashlib.sha256(other).hexdigest()} instead" in error
        assert path.read_bytes() == other and error.count("\n") == 1
    assert server.ranges == []
    path.unlink()
    server.body = whole_zip(600_000)  # another edition: the old sum goes with the old file
    assert main(words) == 0
    (tmp_path / "a.zip.sha256").write_text("nonsense")
    assert main(words) == 2 and "a.zip.sha256: not a line of sha256sum" in capsys.readouterr().err


def test_a_published_sum_is_held_against_the_archive(tmp_path, server, monkeypatch):
    server.body = whole_zip()
    known = dataclasses.replace(module.DATASETS["lensing"], sha256=hashlib.sha256(server.body).hexdigest())
    monkeypatch.setitem(module.DATASETS, "lensing", known)
    assert download("lensing", tmp_path / "a.zip", server.url, retries=0).read_bytes() == server.body
    server.body = whole_zip(600_000)
    with pytest.raises(DownloadError, match=f"another file: SHA-256 .* instead of the one with SHA-256 {known.sha256}"):
        download("lensing", tmp_path / "b.zip", server.url, retries=0)


def test_a_refusal_and_no_connection(tmp_path, server):
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        download("lensing", tmp_path / "a.zip", server.url, retries=0)
    with pytest.raises(DownloadError, match="no connection"):
        download("lensing", tmp_path / "a.zip", "http://127.0.0.1:9/a.zip", retries=0)
    assert not (tmp_path / "a.zip").exists()


def test_google_drives_quota_page_is_one_line(tmp_path, monkeypatch):
    """gdown's own error for it has several paragraphs."""
    import gdown

    links = []

    def refuse(url, **_):
        links.append(url)
        raise gdown.exceptions.FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users\n\nCheck.")

    monkeypatch.setattr(gdown, "download", refuse)
    with pytest.raises(DownloadError, match="Failed to retrieve file url: Too many users Check") as caught:
        download("lensing", tmp_path / "a.zip")
    assert "\n" not in str(caught.value)
    assert links == ["https://drive.google.com/uc?id=1cJyPQzVOzsCZQctNBuHCqxHnOY7v7UiA"]


def test_a_full_disk_is_exit_code_1(tmp_path, monkeypatch, capsys):
    import gdown

    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gdown, "download", full)
    assert main(["download", "deeplense", "--out", str(tmp_path / "a.zip")]) == 1
    assert "No space left on device" in capsys.readouterr().err and not (tmp_path / "a.zip").exists()


def test_download_arguments(tmp_path):
    with pytest.raises(ValueError, match="data set 'mnist': must be one of lensing, deeplense"):
        download("mnist")
    (tmp_path / "a.zip").write_bytes(b"<html>quota</html>")
    with pytest.raises(ValueError, match=r"a\.zip"):
        download("lensing", tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w"):
        pass
    assert module.zip_problem(tmp_path / "b.zip") == "an empty zip"


def test_simulate_writes_what_the_sources_read(tmp_path, capsys):
    options = ["--count", "6", "--size", "16", "--seed", "3", "--classes", "no", "vort", "--preset", "model-1"]
    images, labels, parameters = simulate("model-1", 6, (16, 16), 3, ("no", "vort"))
    for out in (tmp_path / "a.npz", tmp_path / "folder"):
        assert main(["simulate", "--out", str(out), *options]) == 0
        assert capsys.readouterr().out == f"{out}: 6 images\n"
        source = open_source(out, channels=1)
        order = np.argsort(labels, kind="stable") if out.is_dir() else np.arange(6)
        np.testing.assert_array_equal([source.read(i) for i in range(6)], images[order])
        assert source.class_names == ("no", "vort") and source.labels.tolist() == labels[order].tolist()
    np.testing.assert_array_equal(open_source(tmp_path / "a.npz").parameters["exposure"], parameters["exposure"])
    with open(tmp_path / "folder" / "parameters.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [float(row["source_x"]) for row in rows] == parameters["source_x"].tolist()
    assert [row["file"] for row in rows[:3]] == ["no/0.npy", "vort/1.npy", "no/2.npy"]
    assert main(["simulate", "--out", str(tmp_path / "folder")]) == 2
    assert main(["simulate", "--out", str(tmp_path / "b.npz"), "--count", "0"]) == 2
    assert "count = 0: must be at least 1" in capsys.readouterr().err


def test_info(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 8), dtype=np.uint8)
    images[3] = images[0]
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, 0, 0, 1, 1, 1]), class_names=["x", "y"])
    assert main(["info", str(tmp_path / "a.npz"), "--json", "--out", str(tmp_path / "a.png")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["count"], facts["shape"], facts["dtype"], facts["duplicates"]) == (7, [6, 8, 1], "uint8", 1)
    assert facts["classes"] == {"x": 3, "y": 4} and facts["median"] == np.median(images)
    assert facts["std"] == pytest.approx(images.std()) and facts["mean"] == pytest.approx(images.mean())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1100, 550)
    assert main(["info", "simulate:lensing", "--count", "3", "--size", "16"]) == 0
    text = capsys.readouterr().out
    assert "count      3" in text and "{'no': 1, 'sphere': 1, 'vort': 1}" in text
    assert main(["info", str(tmp_path / "missing")]) == 2
    assert main(["info", "simulate:nothing"]) == 2


def test_the_command_line_answers_without_loading_what_it_does_not_need():
    command = [sys.executable, "-X", "importtime", "-m", "core.data", "download", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--url" in done.stdout
    loaded = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert not loaded & {"numpy", "matplotlib", "PIL", "gdown", "requests", "torch", "tensorflow", "keras"}
    wrong = subprocess.run([*command[:1], "-m", "core.data", "download", "mnist"], cwd=ROOT, capture_output=True)
    assert wrong.returncode == 2


def test_info_names_broken_images_or_leaves_them_out(tmp_path, capsys):
    for index in range(6):
        np.save(tmp_path / f"{index}.npy", np.full((4, 4), np.nan if index in (2, 4) else index / 8))
    assert main(["info", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "2 images are broken" in said and said.endswith("leave them out with --skip-broken")
    assert main(["info", str(tmp_path), "--json", "--skip-broken"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["count"] == 4 and len(facts["skipped"]) == 2 and "2.npy" in facts["skipped"][0]
