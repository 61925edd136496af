"""Images drawn from a run by its twin's verb `sample`, and drawn again only where the folder holds others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint import WEIGHTS_FILE, resolve_checkpoint
from core.checkpoints.pretrained import is_pretrained, results_folder
from core.files import file_hash
from core.reading import read_json
from eval.twins.client import run_verb
from eval.twins.interpreters import Framework


def weights_hash(run: Path) -> str:
    """SHA-256 of the averaged weights of a run's last checkpoint, as manifest.json of its images names it."""
    return file_hash(resolve_checkpoint(run) / "unet" / WEIGHTS_FILE)


def holds(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether a folder's manifest.json has these values."""
    path = folder / "manifest.json"
    manifest = read_json(path) if path.is_file() else {}
    return bool(manifest) and all(manifest.get(key) == value for key, value in made_from.items())


def draw_from(run: Path, n: int, framework: Framework, name: str = "fid-samples", **sampling: str | int) -> Path:
    """The folder with the first n images of seed 0 that a run draws.

    Args:
        run: the run's folder, or pretrained:NAME, whose images lie in runs/pretrained-NAME.
        n: how many images.
        framework: the twin that draws.
        name: name of the folder of images.
        sampling: flags of `sample` in place of the recipe's values, such as sampler and nfe.
    Raises:
        ValueError: an option that the user must change. RunError: the twin failed.
    """
    out, network = results_folder(run) / name, run if is_pretrained(run) else run.resolve()
    made_from = {"framework": framework, "n": n, "seed": 0, "weights_sha256": weights_hash(run)}
    if not holds(out, made_from | sampling):
        words = ["sample", str(network), "--n", str(n), "--seed", "0", "--out", str(out.resolve()), "--overwrite"]
        flags = [word for key, value in sampling.items() for word in (f"--{key}", str(value))]
        run_verb(framework, words + flags)
    return out
