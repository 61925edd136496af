"""How a command ends: its exit code, and one line of what went wrong.

Exit codes: 0 success; 1 the run failed; 2 the user must change input or options; 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

FRAMEWORKS = ("torch", "tensorflow", "tensorflow-cpu", "keras")
"""Packages of the frameworks, by the names of their distributions."""

WRONG_PATH = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Errors of a path that was given: a file where a folder must be, or a name that no file can have."""


class RunError(RuntimeError):
    """A run that failed although its input is right. The command line prints the message and exits with code 1."""


def end(run: Callable[[], int | None], argv: Sequence[str] = ()) -> int:
    """Run a program and return its exit code; an error becomes one line on stderr.

    Too little memory gives code 2, and the line names the option of `argv` with the largest number.
    A ValueError gives code 2, a path of the wrong kind and a missing framework too. A RunError or another OSError
    gives 1, and Ctrl-C 130.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return run() or 0
    except ValueError as error:
        return _fail(error, 2)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    except ModuleNotFoundError as error:
        if error.name not in FRAMEWORKS:
            raise
        return _fail(
            f"{sys.executable}: this Python has no {error.name}; take the one of its environment, or make envs", 2
        )
    except (OSError, RunError) as error:
        return _fail(error, 2 if getattr(error, "errno", None) in WRONG_PATH else 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _out_of_memory(error):
            raise
        largest = _largest_number(argv)
        lower = f"lower {largest}" if largest else "lower the size, the batch size or the number of images"
        reason = f" ({error!s:.150})" if str(error) else ""
        return _fail(f"out of memory{reason}; {lower}", 2)


def _out_of_memory(error: Exception) -> bool:
    """Whether Python or a framework could not allocate; on a CPU, PyTorch has no class of its own for it."""
    names = ("OutOfMemoryError", "ResourceExhaustedError")
    return isinstance(error, MemoryError) or type(error).__name__ in names or "DefaultCPUAllocator" in str(error)


def _largest_number(argv: Sequence[str]) -> str:
    """The option with the largest whole number, such as --n 1000000, seeds apart; empty where there is none."""
    found = []
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag.startswith("--") and "seed" not in flag and value.isdecimal():
            found.append((int(value[:4000]), f"{flag} {value:.40}"))
    return max(found, default=(0, ""))[1]


def _fail(error: Any, code: int) -> int:
    message = str(error)
    if isinstance(error, OSError) and error.filename:
        message = f"{error.filename}: {error.strerror}"
    line = "".join(c if c.isprintable() else " " for c in message)
    print("error: " + " ".join(line.split()), file=sys.stderr)
    return code
