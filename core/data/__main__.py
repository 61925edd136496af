"""`python -m core.data download | info | simulate | convert-pickles`: results on stdout, progress on stderr.

Everything heavy is imported by the verb that needs it, so that --help answers at once; no framework.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from core.data.sources import Source

EXAMPLES = """examples:
  python -m core.data download lensing
  python -m core.data info data/lensing.zip --out data/lensing.png
  python -m core.data info simulate:lensing --json
  python -m core.data simulate --preset lensing --count 1000 --size 64 --out data/simulated.npz
  python -m core.data convert-pickles Model_I Model_I_plain --i-trust-this-source

exit codes: 0 done; 1 the run failed (network, disk); 2 input to change; 130 interrupted"""


def _bar(items: Any) -> Any:
    from tqdm import tqdm

    return tqdm(items, unit="image", leave=False)


def download(name: Literal["lensing", "deeplense"], /, out: Path | None = None, url: str | None = None) -> None:
    """Fetch a published data set from Google Drive; a cut download goes on where it stopped.

    Args:
        name: lensing: 10,000 images, a zip of 304 MB; deeplense: three classes, 37,500 images.
        out: Zip to write; data/NAME.zip where not given.
        url: Another address of the same zip.
    """
    from core.data import download as module

    path = module.download(name, out, url)
    print(f"{path}: {path.stat().st_size} bytes")


def convert_pickles(folder: Path, out: Path, /, i_trust_this_source: bool = False) -> None:
    """Turn DeepLenseSim's pickled [image, mass] files into plain .npy files and parameters.csv.

    Args:
        folder: Folder with the pickled files.
        out: New folder.
        i_trust_this_source: You know who made the files: a pickle can be made to do harm.
    """
    from core.data import download as module

    count = module.convert_pickles(folder, out, i_trust_this_source, _bar)
    print(f"{out}: {count} files")


def simulate(
    out: Path,
    preset: Literal["lensing", "model-1"] = "lensing",
    count: int = 1000,
    size: int = 64,
    seed: int = 0,
    classes: tuple[Literal["no", "sphere", "vort"], ...] = ("no", "sphere", "vort"),
    field_of_view: float = 7.5,
) -> None:
    """Simulate gravitational lenses with labels and true parameters.

    Args:
        out: An .npz file to write, or a new folder: CLASS/NUMBER.npy and parameters.csv.
        preset: Look-alike of the lensing set, or DeepLenseSim's Model I.
        count: Number of images.
        size: Height and width in pixels.
        seed: Image i depends on the seed and on i, not on the count.
        classes: Substructure classes, in equal shares.
        field_of_view: Side of an image in arcsec.
    """
    import numpy as np

    from core.data import lenses
    from core.files import write_atomically

    is_file = out.suffix == ".npz"
    if not is_file and out.exists() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"--out {out}: exists and is not an empty folder; name a new folder or an .npz file")
    images, labels, parameters = lenses.simulate(
        preset, count, (size, size), seed, classes, field_of_view, progress=_bar
    )
    if is_file:

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as stream:
                arrays = {"images": images, "labels": labels, "class_names": np.array(classes), **parameters}
                np.savez(stream, allow_pickle=False, **arrays)

        write_atomically(out, write)
    else:
        files = [f"{classes[label]}/{index}.npy" for index, label in enumerate(labels)]
        for file, image in zip(files, images, strict=True):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            np.save(out / file, image, allow_pickle=False)
        rows = zip(files, *(values.tolist() for values in parameters.values()), strict=True)
        lines = [",".join(["file", *parameters]), *(",".join(map(str, row)) for row in rows)]
        (out / "parameters.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {count} images")


def info(path: str, /, out: Path | None = None, json: bool = False, count: int = 1000, size: int = 64) -> None:
    """Count, shape, statistics, classes and duplicates of images; draws a sample grid and a histogram.

    Args:
        path: Folder, zip, .npy, .npz or IDX file, or simulate:lensing, simulate:model-1.
        out: PNG to draw.
        json: Print JSON instead of a table.
        count: Images to simulate, for simulate:PRESET.
        size: Height and width in pixels, for simulate:PRESET.
    """
    from json import dumps

    import numpy as np

    from core.data.dataset import fingerprint

    source = _open(path, count, size)
    total = len(source.names)
    values = np.empty((total, *source.shape), np.float32)
    hashes = set()
    for index in _bar(range(total)):
        image = source.read(index)
        hashes.add(fingerprint(image))
        values[index] = image
    classes = None
    if source.labels is not None:
        counts = np.bincount(source.labels, minlength=len(source.class_names))
        classes = dict(zip(source.class_names, counts.tolist(), strict=True))
    if out is not None:
        _draw(values, path, out)
    facts = {
        "source": path, "count": total, "shape": list(source.shape), "dtype": str(source.dtype),
        "min": float(values.min()), "max": float(values.max()), "mean": float(values.mean(dtype=np.float64)),
        "std": float(values.std(dtype=np.float64)), "median": float(np.median(values, overwrite_input=True)),
        "classes": classes, "duplicates": total - len(hashes), "parameters": sorted(source.parameters),
        "picture": None if out is None else str(out),
    }  # fmt: skip
    if json:
        print(dumps(facts))
    else:
        print("\n".join(f"{key:<10} {value}" for key, value in facts.items() if value not in (None, [])))


def _open(path: str, count: int, size: int) -> Source:
    from core.config import DataConfig
    from core.data.dataset import simulated
    from core.data.sources import open_source

    if path.startswith("simulate:"):
        return simulated(DataConfig(source=path, simulate_count=count), (size, size, 1))
    return open_source(path)


def _draw(values: Any, title: str, path: Path) -> None:
    """Up to 36 images spread over the set, stretched together to [0, 1], beside the histogram of all values."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from core.files import write_atomically
    from core.images import grid

    sample = values[np.unique(np.linspace(0, len(values) - 1, 36).astype(int))].astype(np.float64)
    low, high = sample.min(), sample.max()
    sheet = grid((sample - low) / max(high - low, 1e-300))
    heights, edges = np.histogram(values, bins=200)
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    left.set_axis_off()
    left.set_title(f"{len(sample)} of {len(values)} images", fontsize=9)
    right.stairs(heights, edges, fill=True, color="0.3")
    right.set_yscale("log")
    right.set_xlabel("pixel value")
    right.set_ylabel("pixels")
    right.set_title(title, fontsize=9)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    import tyro

    verbs: dict[str, Any] = {
        "download": download, "info": info, "simulate": simulate, "convert-pickles": convert_pickles
    }  # fmt: skip
    try:
        tyro.extras.subcommand_cli_from_dict(verbs, prog="python -m core.data", description=EXAMPLES, args=argv)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
