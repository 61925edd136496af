"""`python -m core.data info`: what a source holds, in numbers and pictures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config.require import require

if TYPE_CHECKING:
    from core.data.source import Source


@dataclass(frozen=True)
class Info:
    """Say count, shape, statistics, classes and duplicates of a set of images; draw a sample and a histogram.

    Examples:
      python -m core.data info data/lensing.zip --out data/lensing.png
      python -m core.data info simulate:lensing --json
      python -m core.data info sharp --beside blurred
    """

    path: str
    """Folder, zip, image, .npy, .npz or IDX file, or simulate:lensing, simulate:model-1. May stand first."""
    out: Path | None = None
    """PNG file to draw; nothing is drawn where not given."""
    json: bool = False
    """Print JSON in place of a table."""
    count: int = 1000
    """Images to simulate, for simulate:PRESET."""
    size: int = 64
    """Height and width in pixels, for simulate:PRESET."""
    beside: str = ""
    """Images to pair with these, as data.beside does: a folder or zip by file name, a file of images by order. Their
    number, shape and smallest and largest value are shown."""
    skip_broken: bool = False
    """Leave out images that cannot be read, up to half of them, and list them. By default they are an error."""

    def __post_init__(self) -> None:
        require(self.count >= 2, "--count", self.count, "at least 2")
        require(self.size >= 2, "--size", self.size, "at least 2")


def info(command: Info) -> None:
    """Run the verb."""
    import numpy as np

    source, skipped = _open(command), list[str]()
    partners = _partners(command, source) if command.beside else None
    if command.skip_broken:
        source, skipped = source.without_broken()
    total = len(source.names)
    values, hashes = _read(source)
    classes = None
    if source.labels is not None:
        counts = np.bincount(source.labels, minlength=len(source.class_names))
        classes = dict(zip(source.class_names, counts.tolist(), strict=True))
    if command.out is not None:
        _draw(values, command.path, command.out)
    facts = {
        "source": command.path,
        "count": total,
        "shape": list(source.shape),
        "dtype": str(source.dtype),
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean(dtype=np.float64)),
        "std": float(values.std(dtype=np.float64)),
        "median": float(np.median(values, overwrite_input=True)),
        "classes": classes,
        "duplicates": total - len(hashes),
        "beside": partners,
        "skipped": skipped,
        "parameters": sorted(source.parameters),
        "picture": None if command.out is None else str(command.out),
    }
    if command.json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{key:<10} {value}" for key, value in facts.items() if value not in (None, [])))


def _open(command: Info) -> Source:
    from core.config import DataConfig
    from core.data.dataset import simulated
    from core.data.sources import open_source
    from core.reading import check_memory

    if command.path.startswith("simulate:"):
        config = DataConfig(source=command.path, simulate_count=command.count)
        check_memory(f"--count {command.count} --size {command.size}", 4 * command.count * command.size**2)
        return simulated(config, (command.size, command.size, 1))
    return open_source(command.path)


def _partners(command: Info, source: Source) -> str:
    """The images beside those of the source, in words."""
    from core.data.formats import describe
    from core.data.pairs import paired
    from core.data.sources import open_source

    found = paired(command.beside, open_source(command.beside), command.path, source)
    values, _ = _read(found)
    kind = "by name" if found.one_a_file else "by order"
    shown = describe(found.shape, found.dtype)
    return f"{len(found.names)} pairs {kind}, {shown}, {values.min():.6g} to {values.max():.6g}, in {command.beside}"


def _read(source: Source) -> tuple[Any, set[bytes]]:
    """All images, (N, H, W, C) float32, and their hashes."""
    import numpy as np
    from tqdm import tqdm

    from core.data.pixels import fingerprint
    from core.data.source import BrokenImageError
    from core.reading import check_memory

    shape = (len(source.names), *source.shape)
    check_memory(source.identity["path"], 4 * math.prod(shape))
    values, hashes = np.empty(shape, np.float32), set()
    try:
        for index in tqdm(range(len(source.names)), unit="image", leave=False):
            image = source.read(index)
            hashes.add(fingerprint(image))
            values[index] = image
    except BrokenImageError as error:
        raise ValueError(f"{error}; repair them, or leave them out with --skip-broken") from error
    return values, hashes


def _draw(values: Any, title: str, path: Path) -> None:
    """Up to 36 images spread over the set, stretched together to [0, 1], beside the histogram of all values."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from core.files import write_atomically
    from core.images import grid, note_of_strips

    sample = values[np.unique(np.linspace(0, len(values) - 1, 36).astype(int))].astype(np.float64)
    low, high = sample.min(), sample.max()
    sheet = grid((sample - low) / max(high - low, 1e-300))
    heights, edges = np.histogram(values, bins=200)
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    left.set_axis_off()
    left.set_title(
        f"{len(sample)} of {len(values)} images. {note_of_strips(sample.shape[-1])}".rstrip(" ."), fontsize=9
    )
    right.stairs(heights, edges, fill=True, color="0.3")
    right.set_yscale("log")
    right.set_xlabel("pixel value")
    right.set_ylabel("pixels")
    right.set_title(title, fontsize=9)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
