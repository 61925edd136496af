"""The verb `race`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.command_line import output_folder
from eval.measure.race_table import ContestantName, SetName
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Race(Interpreters):
    """Train both frameworks and other software for the same time on the same images, and measure what they draw:
    race.md, report.html, and a plot for each set.

    The other software is installed once, into .venvs/race. All contestants train on the CPU, one after another. A race
    that was cut off goes on where it stopped. See docs/race.md.

    Examples:
      python -m eval race --seed 0 --seed 1 --seed 2
      python -m eval race --set lens-64 --minutes 30 --contestant torch --contestant tensorflow
    """

    REPEATED: ClassVar[bool] = True

    set: tuple[SetName, ...] = ()
    """Images to train on. May be given several times. Default: lens-32."""
    minutes: tuple[float, ...] = ()
    """Length of each training, in minutes. May be given several times. Default: 3."""
    contestant: tuple[ContestantName, ...] = ()
    """Who takes part. May be given several times. Default: all."""
    seed: tuple[int, ...] = ()
    """Seed of a training and of its images. May be given several times. Default: 0."""
    n: int = 2000
    """Images that each contestant draws. One that would take over ten minutes draws 1,000, and all are then measured
    at 1,000."""
    threads: int = 2
    """CPU threads of each contestant."""
    out: str = "runs/race"
    """Folder of results, images and pages."""

    def execute(self) -> str:
        """Race, or what is left of it."""
        from eval.measure.machine import leaving_on_signals
        from eval.measure.race import race
        from eval.measure.race_table import CONTESTANTS
        from eval.pages.race_page import race_text, write_race_page

        contestants = self.contestant or tuple(CONTESTANTS)
        folder, sets, minutes = output_folder(self.out), self.set or ("lens-32",), self.minutes or (3.0,)
        with leaving_on_signals():
            results = race(sets, minutes, contestants, self.seed or (0,), self.n, self.threads, folder)
        return f"{race_text(results)}\n\nwrote {write_race_page(folder, results)}"
