"""Fetching public data sets and other files.

A file appears under its name only when it is whole. Beside an archive stands its SHA-256, in a file that
`sha256sum --check` reads; an archive that is there already must still have it.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.exits import RunError
from core.files import file_hash, keep_sum, kept_sum, publish, sum_file
from core.reading import reading

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A data set on Google Drive."""

    drive_id: str
    file: str
    """Name of the file it is kept under."""
    sha256: str | None
    """SHA-256 of the archive, in hexadecimal; None where nobody has published one."""


DATASETS = {
    "lensing": Published("1cJyPQzVOzsCZQctNBuHCqxHnOY7v7UiA", "lensing.zip", None),
    "deeplense": Published("1ZEyNMEO43u3qhJAwJeBZxFBEYc_pVYZQ", "deeplense.zip", None),
}
"""Neither publisher states a sum. The checksum of each entry in the archive is compared, and the sum is then kept."""


class DownloadError(RunError):
    """The network or the server failed: nothing that the user gave is wrong."""


def download(name: str, out: str | Path | None = None, url: str | None = None, retries: int = 3) -> Path:
    """Fetch a published data set; a download that was cut goes on where it stopped.

    Args:
        name: a key of DATASETS.
        out: the zip to write; data/<name>.zip where None. What is there already is read to the last byte, and kept.
        url: another place to fetch the same zip from.
        retries: further attempts after a cut connection.
    Returns:
        The path of the whole zip.
    Raises:
        ValueError: unknown name, or a file at `out` that is not the whole zip.
        DownloadError: no connection, an answer that is not the file, or a file that is not whole.
        OSError: the disk.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r}: must be one of {', '.join(DATASETS)}")
    published = DATASETS[name]
    path = Path("data", published.file) if out is None else Path(out)
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder; name the zip to write")
    wanted = published.sha256 or (kept_sum(path) if path.exists() else None)

    def problem_of(file: Path) -> str:
        return _content_problem(file, wanted) if wanted else zip_problem(file)

    if path.exists():
        if problem := problem_of(path):
            raise ValueError(f"{path}: exists and is {problem}; remove it and download again")
    else:
        link = url or f"https://drive.google.com/uc?id={published.drive_id}"
        hint = f", or fetch it with a browser, save it as {path} and run this again to check it"
        sum_file(path).unlink(missing_ok=True)
        _fetch_whole(link, path, problem_of, hint, retries)
    if not wanted:
        log.warning("%s: no published SHA-256 is known; its entries' checksums are right; its sum is now kept", path)
        keep_sum(path)
    return path


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
    _fetch_whole(url, path, lambda arrived: _content_problem(arrived, sha256), "", retries)


def _fetch_whole(link: str, path: Path, problem_of: Callable[[Path], str], hint: str, retries: int) -> None:
    """A download that gets its name where `problem_of` finds nothing, and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrived = path.with_name(path.name + ".download")
    arrived.unlink(missing_ok=True)
    _fetch(link, arrived, retries)
    problem = problem_of(arrived)
    if problem:
        arrived.unlink()
        raise DownloadError(f"{link}: what came is {problem}; nothing was kept. Try again later{hint}")
    publish(arrived, path)


def _fetch(link: str, arrived: Path, retries: int) -> None:
    """gdown to a file; a partial one stays beside it for the next attempt."""
    import gdown
    import requests

    if not link.startswith(("http://", "https://")):
        raise ValueError(f"--url {link}: must start with http:// or https://")
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


def _content_problem(path: Path, sha256: str) -> str:
    """What a file is in place of the one with this SHA-256, in a few words, or ''."""
    found = file_hash(path)
    if found == sha256:
        return ""
    what = "a web page" if _is_web_page(path) else f"another file: SHA-256 {found}"
    return f"{what} instead of the one with SHA-256 {sha256}"


def _is_web_page(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def zip_problem(path: Path) -> str:
    """Why a file is not a whole zip, in a few words, or '' where the checksum of every entry is right."""
    from tqdm import tqdm

    if _is_web_page(path):
        return "a web page instead of the file (Google Drive's download quota, or a sign-in page)"
    try:
        with reading(path, "a whole zip", f"it has {path.stat().st_size} bytes"), zipfile.ZipFile(path) as archive:
            for entry in tqdm(archive.infolist(), desc=f"Checking {path.name}", unit="file", leave=False):
                with archive.open(entry) as stream:
                    while stream.read(1 << 20):
                        pass
            return "" if archive.infolist() else "an empty zip"
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")
