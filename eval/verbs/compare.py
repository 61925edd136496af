"""The verb `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.command_line import output_folder
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Compare(Interpreters):
    """Hold generated images against real ones: a table, compare.json and a self-contained report.html.

    A set of images is a run, a folder with samples.npy and manifest.json, a folder or zip of .npy files or pictures, or
    a .npy, .npz or IDX file. Floats must lie in [0, 1]; integers are divided by the largest value of their type. A run
    as --real stands for its held-out images, as --train for its training images, as --generated for 2,000 drawn images.

    Examples:
      python -m eval compare --real held_out.npy --generated runs/a/samples runs/b/samples --out report
      python -m eval compare --real held_out.npy --generated torch=a.npy tf=b.npy --train train.npy --out report --json
    """

    real: str
    """Real images, held out of training. At least twice as many as generated uses all of them."""
    generated: tuple[str, ...]
    """One or more sets of generated images, each PATH or NAME=PATH."""
    out: str
    """Folder for compare.json and report.html."""
    train: str | None = None
    """Training images, to look for copies among the generated ones; by default nobody looks."""
    pixel_scale: float | None = None
    """Arcsec per pixel; by default lengths are in pixels."""
    seed: int = 0
    """Seed of the random cuts of the real set."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def execute(self) -> str:
        """Compare, and write both files."""
        from eval.measure.compare import PROTOCOL_N, REAL, compare
        from eval.measure.image_sets import read_image_set, read_named
        from eval.pages.compare_page import comparison_text, write_compare_page
        from eval.pages.page import write_result
        from eval.twins.drawn import draw_from
        from eval.twins.interpreters import first_framework

        def draw(run: Path) -> Path:
            return draw_from(run, PROTOCOL_N, first_framework(None))

        folder = output_folder(self.out)
        real = read_image_set(self.real, "real", draw).all_images()
        sets = read_named(self.generated, (REAL, "train"), draw)
        generated = {name: one.all_images() for name, one in sets.items()}
        train = read_image_set(self.train, "real", draw) if self.train else None
        seen = None if train is None else train.all_images() if train.others is None else train.others
        result = compare(real, generated, seen, pixel_scale=self.pixel_scale, seed=self.seed)
        result["manifests"] = {name: one.about for name, one in sets.items()}
        text = write_result(folder / "compare.json", result)
        write_compare_page(folder / "report.html", result, real, generated, seen)
        if self.json:
            return text
        notes = [f"warning: {warning}" for warning in result["warnings"]]
        return "\n".join([comparison_text(result), *notes, f"report: {folder / 'report.html'}"])
