"""The verb `fetch`: an extractor's published weights, checked and kept as one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.command_line import name_the_word, read_flags
from core.twin import Twin


@dataclass(frozen=True)
class FetchCommand:
    """Download an extractor's published weights, check them, and keep them as one safetensors file.

    PyTorch converts the weights of pytorch-fid, TensorFlow those of Google's graph. Both write the same file, and both
    frameworks read it. It is kept in ~/.cache/diptych, or in the folder that DIPTYCH_CACHE names.

    Examples:
      python -m PACKAGE fetch inception
      python -m PACKAGE fetch inception --url https://mirror.example/the-same-file
    """

    name: str = ""
    """Extractor whose weights are fetched: inception. The first word after `fetch` names it too."""
    url: str = ""
    """Another address of the same file, where the usual one is out of reach. Its SHA-256 is checked too."""


def fetch(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    command = read_flags(
        FetchCommand(), twin.package, name_the_word(FetchCommand, argv, "fetch", "name", "extractor"), "fetch"
    )
    from core.data.download import download_file
    from core.extractors.features import EXTRACTORS, default_weights
    from core.files import file_hash, keep_sum, sum_file, write_tensors

    published = twin.published()
    if command.name not in published:
        raise ValueError(f"fetch {command.name or '(nothing)'}: must be one of {', '.join(published)}")
    name = next(name for name in EXTRACTORS if name == command.name)
    file, path = published[name], EXTRACTORS[name].weights_file()
    if path.exists():
        try:
            default_weights(name)
        except ValueError as error:
            raise ValueError(f"{error}; remove the file and fetch again") from error
        print(f"{path}: is there already, SHA-256 {file_hash(path)}")
        return 0
    arrived = path.with_name(Path(file.url).name)
    download_file(command.url or file.url, arrived, file.sha256)
    try:
        tensors = file.read(arrived)
        sum_file(path).unlink(missing_ok=True)
        write_tensors(path, tensors)
        keep_sum(path)
    finally:
        arrived.unlink()
    print(f"wrote {path}: {len(tensors)} tensors, SHA-256 {file_hash(path)}")
    return 0
