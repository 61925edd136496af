"""A training that a signal stops after its current step."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)


class Stopper:
    """Handles signals: the first one requests a stop after the current step, a second one stops at once."""

    signum = 0
    """Number of the signal that requested the stop; 0 before any signal."""

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signum:
            raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)
        self.signum = signum
        logger.info("stopping after this step, to save; a second signal or Ctrl-C stops at once, without saving")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stopper]:
    """Install a Stopper for SIGINT, SIGTERM and SIGHUP, and restore the former handlers at the end.

    An ignored SIGHUP, as under nohup, stays ignored. Only a process's main thread can handle signals.
    """
    stopper, previous = Stopper(), {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                previous[signum] = signal.signal(signum, stopper)
    try:
        yield stopper
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
