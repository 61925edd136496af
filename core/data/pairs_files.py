"""`python -m core.data pairs`: the held-out pairs of a recipe, written to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.config.require import require

SHOWN = 16
"""Largest number of pairs in the picture."""


@dataclass(frozen=True)
class Pairs:
    """Write the held-out pairs of a recipe with data.beside: inputs.npy, truth.npy, pairs.png and pairs.json.

    inputs.npy has the images beside as they are stored, which `edit translate` prepares. truth.npy has the prepared
    images, in the same order.

    Examples:
      python -m core.data pairs configs/lens-pairs.toml --n 2000 --out data/pairs
      python -m core.data pairs runs/mine --n 100 --shuffle --out data/shuffled
    """

    config: Path
    """Recipe (.toml or recipe.json), or the folder of a run. May stand first."""
    out: Path
    """New folder to write."""
    n: int = 1000
    """Number of pairs."""
    first: int = 0
    """Index of the first held-out pair."""
    shuffle: bool = False
    """Give each image the input of the image before it, to measure how much the inputs matter."""

    def __post_init__(self) -> None:
        require(self.n >= 1, "--n", self.n, "at least 1")
        require(self.first >= 0, "--first", self.first, "at least 0")


def pairs(command: Pairs) -> None:
    """Run the verb."""
    import dataclasses

    import numpy as np

    from core.config.recipes import load_recipe
    from core.data.dataset import open_dataset, open_images
    from core.data.pairs import degraded, open_beside
    from core.files import write_json, write_npy
    from core.images import grid, save_png, shown_as
    from core.reading import check_memory

    out, path = command.out, command.config / "recipe.json" if command.config.is_dir() else command.config
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"--out {out}: exists and is not an empty folder; name a new folder")
    recipe = load_recipe(path)
    data, shape, channels = recipe.data, recipe.image_shape, recipe.model.condition_channels
    if not data.beside:
        raise ValueError(f"{path}: data.beside = '': must name the images beside those of data.source")
    dataset = open_dataset(data, shape, channels)
    there = len(dataset.held_out)
    if command.first + command.n > there:
        raise ValueError(
            f"--first {command.first} --n {command.n}: must be at most {there} together, the number of held-out pairs"
        )
    chosen = dataset.held_out[command.first : command.first + command.n]
    beside = open_beside(data, open_images(data, shape), channels)
    source = beside or degraded(data, dataset.images, dataset.manifest["sha256"])
    size = 4 * command.n * (int(np.prod(shape)) + int(np.prod(source.shape)))
    check_memory(f"--n {command.n}", 2 * size)
    given = np.roll(chosen, 1) if command.shuffle else chosen
    inputs, truth = np.stack([source.read(int(i)) for i in given]), np.stack([dataset.images[i] for i in chosen])
    write_npy(out / "inputs.npy", inputs)
    write_npy(out / "truth.npy", truth)
    small = np.stack([dataset.beside[i] for i in given[:SHOWN]])  # type: ignore[index]
    columns = np.stack([shown_as(small, shape), truth[:SHOWN]], axis=1).reshape(-1, *shape)
    save_png(out / "pairs.png", grid(columns, columns=8))
    facts = {key: value for key, value in dataclasses.asdict(data).items() if key.startswith("beside")}
    facts |= {"source": data.source, "field_of_view": data.field_of_view, "data_sha256": dataset.manifest["sha256"]}
    write_json(out / "pairs.json", {**facts, "shuffled": command.shuffle, "indices": chosen.tolist()})
    print(f"wrote {out / 'inputs.npy'}, {out / 'truth.npy'}, {out / 'pairs.png'}")
