"""The verb `utility`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from core.command_line import output_folder
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Utility(Interpreters):
    """What generated images are worth for training: a small model learns from them and is tested on real ones.

    REAL and GENERATED are images with classes or parameters: a run, a folder that `sample` wrote, class folders, or an
    .npz file as `core.data simulate` writes it. A run as REAL stands for its training images and, for the test, its
    held-out images. Of other real images a third is kept for the test. A run as GENERATED stands for 2,000 images drawn
    from it. The model learns every class and parameter that both sides have, from N generated images and from N real
    ones; each score has its 95 % interval.

    Examples:
      python -m eval utility runs/lenses runs/lenses --out utility
      python -m eval utility real.npz samples --n 250 1000 --learn class theta_e
    """

    WORDS_FIRST: ClassVar = True

    real: str
    """Real images with classes or parameters."""
    generated: str
    """Generated images with classes or parameters."""
    n: tuple[int, ...] = ()
    """Numbers of training images, each from 20 to half of the smaller set. By default 125, 250, 500, 1,000 and 2,000 as
    far as that allows."""
    learn: tuple[str, ...] = ()
    """What to learn: class, or names of parameters. By default all that both sides have."""
    repetitions: int = 10
    """Trainings for each number, each on other images. More make the intervals narrower."""
    out: str = "runs/utility"
    """Folder for utility.json and report.html."""
    seed: int = 0
    """Seed of the choice of images."""
    json: bool = False
    """Print the result as JSON instead of a table."""
    framework: Literal["torch", "tensorflow"] | None = None
    """Framework that draws from a run; by default the first that is installed."""

    def execute(self) -> str:
        """Train, test, and write both files."""
        from eval.measure.distance import PROTOCOL_N
        from eval.measure.labelled import read_labelled, read_real
        from eval.measure.utility import measure_utility
        from eval.pages.page import write_result
        from eval.pages.utility_page import utility_text, write_utility_page
        from eval.twins.drawn import draw_from
        from eval.twins.interpreters import first_framework

        def draw(run: Path) -> Path:
            return draw_from(run, PROTOCOL_N, first_framework(self.framework))

        folder = output_folder(self.out)
        train, test = read_real(self.real, self.seed)
        generated = read_labelled(self.generated, draw)
        result = measure_utility(train, test, generated, self.n, self.repetitions, self.seed, self.learn)
        result["files"] = {"real": self.real, "generated": self.generated}
        text = write_result(folder / "utility.json", result)
        write_utility_page(folder / "report.html", result)
        if self.json:
            return text
        notes = [f"warning: {warning}" for warning in result["warnings"]]
        return "\n".join([utility_text(result), *notes, f"wrote {folder / 'utility.json'}, {folder / 'report.html'}"])
