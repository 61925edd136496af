"""Fetching public data sets and other files.

A file appears under its name only when it is whole.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from core.command_line import RunError
from core.files import file_hash, publish


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
