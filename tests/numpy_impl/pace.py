"""What lets the NumPy twin stand for a framework: its name, the time that it takes, and a log of what it did."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from core.exits import RunError


@dataclass
class Pace:
    """Settings of this process; with `seconds` above 0 the twin stands for another one."""

    framework: str = "numpy"
    seconds: float = 0.0
    """Time of an optimiser step or of drawing a batch."""
    shift: float = 0.0
    """Added to every image, in [0, 1]."""
    threads: int = 1
    more_threads: int = 0
    """Said on top of `threads`, as by a framework that does not obey."""

    def act(self, what: str, step: int | None = None) -> None:
        """Note an action in calls.log and take its time; fail where FAKE_FAILURE is `FRAMEWORK STEP`."""
        if self.seconds:
            with Path("calls.log").open("a") as file:
                file.write(f"{what} {self.framework}\n")
            if f"{self.framework} {step}" == os.environ.get("FAKE_FAILURE"):
                raise RunError("the disk is on fire")
            time.sleep(self.seconds)


PACE = Pace()
