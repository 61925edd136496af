"""Networks that come with the software: `pretrained:NAME` stands for the checkpoint in core/pretrained/NAME.

The weights are averaged ones in float16. There is no training state. `card.md` is the model card.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "pretrained"
PREFIX = "pretrained:"
MOST_BYTES = 4_000_000
"""Largest size of a folder in bytes, all files together."""


def is_pretrained(path: str | Path) -> bool:
    """Whether a path has the form pretrained:NAME. A folder of such a name is named by its absolute path."""
    return str(path).startswith(PREFIX)


def pretrained_names() -> list[str]:
    """The names of all networks that come with the software, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/training_state.json"))


def pretrained_folder(path: str | Path) -> Path:
    """The checkpoint folder of pretrained:NAME.

    Raises:
        ValueError: there is no network of this name; the message lists the names.
    """
    name, known = str(path).removeprefix(PREFIX), pretrained_names()
    if name not in known:
        listed = ", ".join(f"{PREFIX}{name}" for name in known) or "none so far"
        raise ValueError(f"{path}: no network of this name comes with the software: must be one of: {listed}")
    return FOLDER / name


def results_folder(path: str | Path) -> Path:
    """The folder for results of a run or checkpoint: itself, and runs/pretrained-NAME for pretrained:NAME."""
    return Path("runs", str(path).replace(":", "-")) if is_pretrained(path) else Path(path)


def refuse_pretrained(path: str | Path, flag: str) -> None:
    """Raise ValueError where a flag that names a folder to write or a run to continue has pretrained:NAME."""
    if is_pretrained(path):
        raise ValueError(f"{flag} {path}: is a network that comes with the software: must be a folder of your own")
