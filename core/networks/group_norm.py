"""GroupNorm, an added offset before it and SiLU after it in one function, compiled for the CPU from group_norm.cpp.

It reads the images twice where a framework's operations read them six times or more. The file is compiled on first use
where there is a C++ compiler, and kept in the user's cache. DIPTYCH_KERNEL=off leaves it out.
Source: Wu & He 2018 (GroupNorm).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.files import cache_folder, temporary_beside

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("group_norm.cpp")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
TYPES = {"float32": "float", "float64": "double"}
INTEGER, NUMBER, ARRAY = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
INPUTS = [*[ARRAY] * 4, *[INTEGER] * 5, NUMBER, INTEGER]
ARGUMENTS = {"forward": [*INPUTS, *[ARRAY] * 4, INTEGER], "backward": [*INPUTS, *[ARRAY] * 8, INTEGER]}


def has_kernel() -> bool:
    """Whether the compiled function is there; the first call builds it."""
    return _library() is not None


@dataclass(frozen=True)
class GroupNorm:
    """act(normalised(x + offset) · weight + bias) of images (B, P, C), channels last, of P pixels.

    An array is the address of its first value, or None. All have the dtype of x and are contiguous: weight and bias
    (weight_rows, C), offset (B, C) or None.
    """

    dtype: str
    """float32 or float64."""
    shape: tuple[int, int, int]
    """(B, P, C)."""
    groups: int
    """Number of groups, which divides C."""
    weight_rows: int
    """1, or B where each image has a weight and a bias of its own."""
    eps: float
    """Added to the variance."""
    silu: bool
    """Whether act is SiLU; otherwise there is none."""
    threads: int
    """Number of CPU threads; the result does not depend on it."""

    def forward(self, x: int, offset: int | None, weight: int, bias: int, *outputs: int) -> None:
        """Write mean (B, groups), rstd (B, groups), channel_mean (B, C), which backward() takes, and y (B, P, C)."""
        self._call("forward", x, offset, weight, bias, *outputs)

    def backward(self, x: int, offset: int | None, weight: int, bias: int, *arrays: int | None) -> None:
        """Write gradients.

        Args:
            x, offset, weight, bias: as in forward().
            arrays: mean, rstd, channel_mean and dy (B, P, C); then the outputs dx (B, P, C), and d_weight, d_bias and
                d_offset (B, C), the last of which may be None.
        """
        self._call("backward", x, offset, weight, bias, *arrays)

    def _call(self, kind: Literal["forward", "backward"], *arrays: int | None) -> None:
        sizes = (*self.shape, self.groups, self.weight_rows, self.eps, self.silu)
        _function(kind, self.dtype)(*arrays[:4], *sizes, *arrays[4:], self.threads)


@functools.cache
def _function(kind: str, dtype: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(_library(), f"group_norm_{kind}_{TYPES[dtype]}")
    function.argtypes, function.restype = ARGUMENTS[kind], None  # type: ignore[attr-defined]
    return function


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled file; None where it is switched off, or cannot be built, which is logged."""
    if os.environ.get("DIPTYCH_KERNEL") == "off":
        return None
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        logger.info("GroupNorm is not compiled: there is no C++ compiler. Training takes up to 1.4 times as long")
        return None
    key = hashlib.sha256("\0".join([SOURCE.read_text(), compiler, *FLAGS, _processor()]).encode()).hexdigest()[:16]
    path = cache_folder() / f"group_norm-{key}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(path) as temporary:
                subprocess.run([compiler, *FLAGS, "-o", temporary, SOURCE], check=True, capture_output=True, text=True)
                os.replace(temporary, path)
            logger.info("GroupNorm is compiled; the file is %s", path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip().splitlines()[-1:] if isinstance(error, subprocess.CalledProcessError) else [error]
        logger.info("GroupNorm is not compiled (%s). Training takes up to 1.4 times as long", *said or ["no message"])
        return None


def _processor() -> str:
    """What a compiled file depends on: the processor's instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()
