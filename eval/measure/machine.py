"""The machine while something is timed: its state, and the processes that are stopped on it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
"""Linux alone has this file."""


def refuse_spinning() -> None:
    """Demand that threads without work give their core away.

    Raises:
        ValueError: OMP_WAIT_POLICY is ACTIVE.
    """
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        raise ValueError("OMP_WAIT_POLICY=ACTIVE: waiting threads take cores from the others; unset it, or say PASSIVE")


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Leave on SIGTERM and SIGHUP as on Ctrl-C, through every `finally`, so that no stopped process stays behind."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    main = threading.current_thread() is threading.main_thread()  # other threads cannot handle signals
    previous = {signum: signal.signal(signum, leave) for signum in (signal.SIGTERM, signal.SIGHUP) if main}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def cpuinfo() -> str:
    """The text of /proc/cpuinfo, or nothing."""
    with contextlib.suppress(OSError):
        return CPUINFO.read_text(encoding="utf-8")
    return ""


def machine() -> dict[str, Any]:
    """System, processor, cores, and how busy the machine is now."""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo(), re.MULTILINE)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


class Watch:
    """The machine before the first measurement, and how busy and how fast it was after each."""

    def __init__(self) -> None:
        self.before = machine()
        self.loads: list[float] = []
        self.mhz: list[float] = []

    def note(self) -> None:
        """Note load and clock as they are now."""
        self.loads.append(os.getloadavg()[0])
        clocks = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo(), re.MULTILINE)]
        if clocks:
            self.mhz.append(statistics.fmean(clocks))

    def record(self) -> dict[str, Any]:
        """machine() before, and `load_during` and `mhz`: smallest, median, largest, or null where unknown."""
        return {**self.before, "load_during": _range(self.loads), "mhz": _range(self.mhz)}


def _range(values: list[float]) -> list[float] | None:
    """Smallest, median and largest, or None where there is none."""
    return [round(v, 2) for v in (min(values), statistics.median(values), max(values))] if values else None
