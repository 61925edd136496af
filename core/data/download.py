"""Fetching public data sets and other files, and converting pickled data sets.

A file appears under its name only when it is whole.
"""

from __future__ import annotations

import csv
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.command_line import RunError
from core.files import file_hash, publish, write_npy


@dataclass(frozen=True)
class Published:
    """A data set on Google Drive."""

    drive_id: str
    file: str
    """Name of the file it is kept under."""


DATASETS = {
    "lensing": Published("1cJyPQzVOzsCZQctNBuHCqxHnOY7v7UiA", "lensing.zip"),
    "deeplense": Published("1ZEyNMEO43u3qhJAwJeBZxFBEYc_pVYZQ", "deeplense.zip"),
}


class DownloadError(RunError):
    """The network or the server failed: nothing that the user gave is wrong."""


def download(name: str, out: str | Path | None = None, url: str | None = None, retries: int = 3) -> Path:
    """Fetch a published data set; a download that was cut goes on where it stopped.

    Args:
        name: a key of DATASETS.
        out: the zip to write; data/<name>.zip where None. What is there already is checked and kept.
        url: another place to fetch the same zip from.
        retries: further attempts after a cut connection.
    Returns:
        The path of the whole zip.
    Raises:
        ValueError: unknown name, or a file at `out` that is not a whole zip.
        DownloadError: no connection, an answer that is not the file, or a file that is not whole.
        OSError: the disk.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r}: must be one of {', '.join(DATASETS)}")
    path = Path("data", DATASETS[name].file) if out is None else Path(out)
    if path.exists():
        problem = zip_problem(path)
        if problem:
            raise ValueError(f"{path}: exists and is not a whole zip ({problem}); remove it and download again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    arrived = path.with_name(path.name + ".download")
    arrived.unlink(missing_ok=True)
    link = url or f"https://drive.google.com/uc?id={DATASETS[name].drive_id}"
    _fetch(link, arrived, retries)
    problem = zip_problem(arrived)
    if problem:
        arrived.unlink()
        raise DownloadError(
            f"{link}: what came is {problem}; nothing was kept. Try again later, or fetch it with a browser, save "
            f"it as {path} and run this again to check it"
        )
    publish(arrived, path)
    return path


def _fetch(link: str, arrived: Path, retries: int) -> None:
    """gdown to a file; a partial one stays beside it for the next attempt."""
    import gdown
    import requests

    try:
        gdown.download(url=link, output=str(arrived), resume=True, use_cookies=False, timeout=60, retries=retries)
    except gdown.exceptions.DownloadError as error:
        # The rest of gdown's message for a cut connection names an option of its own command line.
        reason = " ".join(str(error).split()).partition(" The received bytes are kept")[0]
        raise DownloadError(
            f"{link}: {reason} Run the same command to go on; if this repeats, remove {arrived}*.part or use a browser."
        ) from error
    except requests.exceptions.HTTPError as error:
        raise DownloadError(f"{error}; check the address, or try again later") from error
    except requests.exceptions.RequestException as error:
        raise DownloadError(
            f"{link}: no connection ({type(error).__name__}); check the network and run the same command to go on"
        ) from error


def download_file(url: str, path: Path, sha256: str, retries: int = 3) -> None:
    """Fetch a file whose content is known; a download that was cut goes on where it stopped.

    Args:
        url: where it is.
        path: file to write; it appears when it is whole.
        sha256: of its content, in hexadecimal.
        retries: further attempts after a cut connection.
    Raises:
        DownloadError: no connection, an answer that is not the file, or a file that is not whole.
        OSError: the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrived = path.with_name(path.name + ".download")
    arrived.unlink(missing_ok=True)
    _fetch(url, arrived, retries)
    found = file_hash(arrived)
    if found != sha256:
        what = "a web page" if _is_web_page(arrived) else f"another file: SHA-256 {found}"
        arrived.unlink()
        raise DownloadError(
            f"{url}: what came is {what} instead of the one with SHA-256 {sha256}; nothing was kept. Try again later"
        )
    publish(arrived, path)


def _is_web_page(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def zip_problem(path: Path) -> str:
    """Why a file is not a whole zip, in a few words, or '' where it is one; reads its directory, not all bytes."""
    if _is_web_page(path):
        return "a web page instead of the file (Google Drive's download quota, or a sign-in page)"
    try:
        with zipfile.ZipFile(path) as archive:
            return "" if archive.infolist() else "an empty zip"
    except zipfile.BadZipFile as error:
        return f"no whole zip: {path.stat().st_size} bytes ({error})"


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds NumPy arrays and numbers, and refuses everything by which a pickle runs code."""

    allowed = frozenset(
        {
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how protocol 2 spells bytes
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Only what NumPy itself writes for an array."""
        module = module.replace("numpy.core.", "numpy._core.")  # files written by NumPy 1
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return super().find_class(module, name)


def convert_pickles(
    folder: str | Path, out: str | Path, trusted: bool = False, progress: Callable[[list[Path]], Any] = iter
) -> int:
    """DeepLenseSim's pickled `[image, mass]` files to plain arrays and parameters.csv; plain files are copied.

    Args:
        folder: read recursively; only .npy files count.
        out: a new or empty folder, which gets the same layout.
        trusted: must be True: pickles can be made to do harm (what is not an array is refused all the same).
        progress: wraps the list of files, as tqdm does.
    Returns:
        Number of files written.
    Raises:
        ValueError: not trusted, out not empty, no files, or a file of another kind.
    """
    folder, out = Path(folder), Path(out)
    if not trusted:
        raise ValueError(f"{folder}: pickled files can do harm; add --i-trust-this-source if you know who made them")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; name a new folder")
    paths = sorted(p for p in folder.rglob("*.npy") if not p.name.startswith("._") and "__MACOSX" not in p.parts)
    if not paths:
        raise ValueError(f"{folder}: no .npy files; give the folder that holds them")
    masses: list[tuple[str, float]] = []
    for path in progress(paths):
        target = out / path.relative_to(folder)
        with open(path, "rb") as stream:
            image, mass = _unpickled(stream, str(path))
        if image is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            continue
        masses.append((path.relative_to(folder).as_posix(), mass))
        write_npy(target, image)
    with open(out / "parameters.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("file", "mass"), *masses])
    return len(paths)


def _unpickled(stream: Any, name: str) -> tuple[Any, float]:
    """The image and mass of an open .npy file, or (None, 0) where the array is a plain one."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(stream)
        if not dtype.hasobject:
            return None, 0.0
        content = _ArraysOnly(stream).load()
        image, mass = np.asarray(content[0]), float(content[1])
    except (ValueError, EOFError, pickle.UnpicklingError, TypeError, IndexError) as error:
        raise ValueError(f"{name}: not a pickled [image, mass] ({error}); remove it") from error
    if image.ndim not in (2, 3) or image.dtype.kind not in "buif":
        raise ValueError(
            f"{name}: not an image: {image.shape} {image.dtype}; must be 2 or 3 axes of numbers; remove it"
        )
    return image, mass
