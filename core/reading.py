"""Files read behind one guard: JSON, text, arrays, tensors. A file may hold anything, and no size in it is believed.

`reading` makes one line of whatever goes wrong. core.files writes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def reading(path: str | Path, expected: str, advice: str = "write it again") -> Iterator[None]:
    """Make one ValueError of whatever goes wrong in the block; an error that names the file stays as it is.

    Args:
        path: the file, or a name that begins with it.
        expected: what the file should be, such as "a whole .npz file".
        advice: what to do about it.
    Raises:
        ValueError: the file cannot be read, or is damaged, or is something else, or does not fit into memory.
    """
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path}: does not fit into memory; {advice}") from error
    except OSError as error:
        reason = (
            f"cannot be read: {error.strerror}" if error.strerror else f"not {expected} ({_reason(error)}); {advice}"
        )
        raise ValueError(f"{path}: {reason}") from error
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not {expected} ({_reason(error)}); {advice}") from error


def _reason(error: Exception) -> str:
    """What an error says, in at most 180 printable characters."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
    return "".join(c if c.isprintable() else " " for c in text)[:180]


def check_memory(name: str | Path, needed: int) -> None:
    """Raise ValueError where `needed` bytes, to be allocated for the file `name`, are not free."""
    free = free_memory() if needed >= 2**24 else needed  # less is always there
    if needed > free:
        raise ValueError(f"{name}: needs {needed / 2**30:.1f} GiB of memory where {free / 2**30:.1f} GiB are free")


def free_memory() -> int:
    """Bytes of main memory that can be had without swapping, and no more than the limits of container and process."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):  # "max" stands for none
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(limits if address_space == resource.RLIM_INFINITY else [*limits, address_space])


def check_file(path: Path, times: int) -> None:
    """Demand a regular file that fits into memory so many times over; called inside `reading`."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError("a folder or a device")
    check_memory(path, times * path.stat().st_size)


def read_text(path: Path) -> str:
    """The text of a file of JSON or TOML; called inside `reading`."""
    check_file(path, 32)  # an empty list of 3 bytes becomes an object of 64
    return path.read_text(encoding="utf-8")


def read_json(path: Path, kinds: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        kinds: keys that it must have, with the type of each value; a float must be finite.
    Raises:
        ValueError: missing, cut short, not an object, or without these keys; the message names the file.
    """
    with reading(path, "valid JSON", "the file may be cut short"):
        values = json.loads(read_text(path))
        if not isinstance(values, dict):
            raise ValueError(f"{path}: holds no JSON object")
        check_kinds(path, values, kinds or {})
    return values


def check_kinds(name: str | Path, values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise ValueError where a key is missing or of another type; `name` begins the message."""
    words = {bool: "true or false", int: "an integer", float: "a finite number", str: "a text"}
    words |= {list: "a list", dict: "an object"}
    for key, kind in kinds.items():
        value: Any = values.get(key)
        right = type(value) is kind or (kind is float and type(value) is int)
        if not right or (kind is float and not math.isfinite(float(value))):
            found = shown(value) if key in values else "missing"
            raise ValueError(f"{name}: {key} is {found}: must be {words[kind]}; write the file again")


def shown(value: object) -> str:
    """A value for a message, in at most 80 printable characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = f"a value of type {type(value).__name__}"
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_lines(path: Path, check: Callable[[str, dict[str, Any]], object]) -> list[dict[str, Any]]:
    """The JSON objects of a file with one object a line.

    Lines at the end that are no JSON were cut short when a program was killed. They are left out, with a warning.

    Args:
        path: the file.
        check: called with a name for messages and each object; raises ValueError for one that is not as it must be.
    Raises:
        ValueError: a line that is no JSON before one that is, another value than such an object, or a file that cannot
            be read; the message names file and line.
    """
    found, damaged = [], ""
    with reading(path, "lines of JSON objects", "remove the file"):
        check_file(path, 32)
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            name = f"{path}, line {number}"
            try:
                with reading(name, "a JSON object"):
                    values = json.loads(line)
            except ValueError as error:
                damaged = damaged or str(error)
                continue
            if damaged:
                raise ValueError(f"{damaged}, or remove the line")
            if not isinstance(values, dict):
                raise ValueError(f"{name}: holds no JSON object: remove the line")
            check(name, values)
            found.append(values)
    if damaged:
        logger.warning("%s; it is left out, with what follows it", damaged)
    return found


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file; bfloat16 becomes float32.

    Raises:
        ValueError: missing, cut short, damaged or too large; the message names the file.
    """
    from safetensors.numpy import load_file

    with reading(path, "a whole safetensors file", "use another checkpoint"):
        check_file(path, 2)
        try:
            tensors = dict(load_file(path))
        except TypeError:  # safetensors' NumPy reader does not know bfloat16
            tensors = _read_bfloat16(path)
        return tensors


def _read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file with bfloat16 tensors: the upper halves of float32."""
    import numpy as np
    from safetensors import deserialize

    found, kinds = {}, {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
    check_file(path, 4)
    for name, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        kind = tensor["dtype"]
        if kind not in kinds:
            raise ValueError(f"{path}: {shown(name)} is of type {kind}, not of floating point")
        value = np.frombuffer(tensor["data"], kinds[kind])
        if kind == "BF16":
            value = (value.astype(np.uint32) << 16).view(np.float32)
        found[name] = value.reshape(tensor["shape"])
    logger.warning("%s: bfloat16 weights are made float32", path)
    return found
