"""A pickled array read as data: an interpreter of the few opcodes that NumPy writes for it.

A pickle is a program for a stack machine. pickletools splits it into opcodes and runs nothing. This module gives each
opcode its meaning for arrays and numbers alone; no name in the pickle is imported or called.
Source: Python's pickletools.py, which documents each opcode; NumPy's ndarray.__reduce_ex__ and dtype.__reduce__.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_BYTES = 2**25
"""Size of the largest pickled file; also of all bytes that a pickle of protocol 2 spells as text."""
MAX_OPCODES = 512
"""Length of the longest pickle; NumPy writes fewer than 200 opcodes for an image and a mass."""
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
GLOBALS = (
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "numpy._core.numeric _frombuffer",
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",
)
INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
TEXT = ("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8")
LITERALS = (*INTEGERS, *TEXT, "BINFLOAT")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


@dataclass(frozen=True)
class _Global:
    """A name of NumPy, as a mere name."""

    name: str


@dataclass(eq=False)
class _Dtype:
    """A dtype, whole when BUILD has set its byte order."""

    code: str
    order: str = ""


@dataclass(eq=False)
class _Array:
    """Numbers, or the two objects of the file, or None before BUILD."""

    content: np.ndarray | tuple[Any, Any] | None = None


def interpret(pickled: bytes) -> tuple[Any, Any]:
    """The two objects of a pickled object array of shape (2,).

    Args:
        pickled: the pickle, of protocol 2 to 5, as NumPy writes it.
    Returns:
        Two objects, each an array of numbers with 0 to 3 axes, an int or a float.
    Raises:
        ValueError: anything else, with what was found.
    """
    stream = io.BytesIO(pickled)
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    decoded = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count == MAX_OPCODES:
            raise ValueError(f"more than {MAX_OPCODES} opcodes")
        if opcode.name == "PROTO" and argument not in (2, 3, 4, 5):
            raise ValueError(f"protocol {argument}: must be 2 to 5")
        if opcode.name not in ("PROTO", "FRAME", "STOP"):
            _step(stack, memo, opcode.name, argument)
        if opcode.name == "REDUCE" and isinstance(stack[-1], bytes):
            decoded += len(stack[-1])
            if decoded > MAX_BYTES:
                raise ValueError(f"decodes more than {MAX_BYTES} bytes")
    if stream.tell() != len(pickled):
        raise ValueError(f"{len(pickled) - stream.tell()} bytes after the pickle's end")
    match stack:
        case [_Array(content=(image, mass))]:
            return image, mass
    raise ValueError("it is no array of two objects")


def _step(stack: list[Any], memo: dict[int, Any], name: str, argument: Any) -> None:
    """One opcode; `argument` as pickletools decodes it."""
    if name in LITERALS:
        stack.append(argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in ("EMPTY_LIST", "MARK"):
        stack.append([] if name == "EMPTY_LIST" else MARK)
    elif name in TUPLES:
        stack.append(tuple(_take(stack, TUPLES[name])))
    elif name == "TUPLE":
        stack.append(tuple(_take_to_mark(stack)))
    elif name == "APPENDS":
        items = _take_to_mark(stack)
        if not isinstance(_top(stack), list):
            raise ValueError("APPENDS on what is no list")
        stack[-1].extend(items)
    elif name in ("BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = _top(stack)
    elif name == "BINGET":
        if argument not in memo:
            raise ValueError(f"memo {argument} is not set")
        stack.append(memo[argument])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        parts = [argument] if name == "GLOBAL" else _take(stack, 2)
        stack.append(_global(" ".join(part if isinstance(part, str) else "?" for part in parts)))
    elif name == "REDUCE":
        stack.append(_call(*_take(stack, 2)))
    elif name == "BUILD":
        (state,) = _take(stack, 1)
        _build(_top(stack), state)
    else:
        raise ValueError(f"opcode {name}")


def _top(stack: list[Any]) -> Any:
    if not stack:
        raise ValueError("its stack is empty")
    return stack[-1]


def _take(stack: list[Any], count: int) -> list[Any]:
    """The last `count` values, removed."""
    if len(stack) < count:
        raise ValueError("takes more than its stack holds")
    start = len(stack) - count
    taken = stack[start:]
    del stack[start:]
    return taken


def _take_to_mark(stack: list[Any]) -> list[Any]:
    """The values above the last mark, removed with it."""
    for place in reversed(range(len(stack))):
        if stack[place] is MARK:
            return _take(stack, len(stack) - place)[1:]
    raise ValueError("its stack has no mark")


def _global(name: str) -> _Global:
    """A name that NumPy writes; NumPy 1 wrote numpy.core where NumPy 2 writes numpy._core."""
    current = name.replace("numpy.core.", "numpy._core.", 1)
    if current not in GLOBALS:
        raise ValueError(f"asks for {ascii(name.replace(' ', '.'))[1:-1][:80]}")
    return _Global(current)


def _call(function: Any, arguments: Any) -> Any:
    """What the named function makes of the arguments that NumPy writes."""
    match function, arguments:
        case _Global("_codecs encode"), (str(text), "latin1"):  # how protocol 2 spells bytes
            return text.encode("latin1")
        case _Global("numpy dtype"), (str(code), 0, 1) if code in (*DTYPES, "O8"):
            return _Dtype(code)
        case _Global("numpy._core.multiarray _reconstruct"), (_Global("numpy ndarray"), (0,), b"b"):
            return _Array()
        case _Global("numpy._core.multiarray scalar"), (dtype, data):
            return _Array(_numbers(data, dtype, (), "C"))
        case _Global("numpy._core.numeric _frombuffer"), (data, dtype, shape, "C" | "F" as order):
            return _Array(_numbers(data, dtype, shape, order))
        case _Global(name), _:
            raise ValueError(f"calls {name.replace(' ', '.')} with arguments that NumPy does not write")
    raise ValueError("calls what is no function")


def _build(target: Any, state: Any) -> None:
    """Complete a dtype or an array, once, with the state that NumPy writes."""
    match target, state:
        case _Dtype(order=""), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0 | 63):
            if (order == "|") != (target.code in ("b1", "i1", "u1", "O8")):
                raise ValueError(f"dtype {order}{target.code}")
            target.order = order
        case _Array(content=None), (1, (2,), _Dtype(code="O8", order="|"), 0, [first, second]):
            target.content = (_number_or_array(first), _number_or_array(second))
        case _Array(content=None), (1, shape, dtype, 0 | 1 as fortran, data):
            target.content = _numbers(data, dtype, shape, "F" if fortran else "C")
        case _:
            raise ValueError("BUILD with a state that NumPy does not write")


def _number_or_array(value: Any) -> Any:
    if isinstance(value, _Array) and isinstance(value.content, np.ndarray):
        return value.content
    if isinstance(value, int | float):
        return value
    raise ValueError("holds an object that is neither a number nor an array of numbers")


def _numbers(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Bytes as an array, where dtype and shape ask for exactly these bytes."""
    if not isinstance(dtype, _Dtype) or dtype.code not in DTYPES or not dtype.order:
        raise ValueError("an array of a dtype that is not numbers")
    if not isinstance(shape, tuple) or len(shape) > 3 or not all(type(n) is int and 0 < n <= MAX_BYTES for n in shape):
        raise ValueError("a shape that is not up to 3 whole numbers from 1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array that is not made of bytes")
    exact = np.dtype(dtype.order + dtype.code)
    if math.prod(shape) * exact.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and dtype {exact}")
    return np.frombuffer(data, exact).reshape(shape, order=order)
