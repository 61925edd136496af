"""Recipes in and out: a TOML file on the way in, resolved JSON on the way out.

The JSON is `recipe.json` in the run folder and in every checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from core.config import Recipe, require
from core.config.nearest import nearest
from core.reading import read_text, reading, shown

T = TypeVar("T")


def option_names(cls: Any, prefix: str = "") -> list[str]:
    """The names of a dataclass's values, those of its tables with the table's name: training.steps."""
    names = []
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            names += option_names(kind, f"{prefix}{name}.")
        elif typing.get_origin(kind) is not typing.ClassVar:
            names.append(f"{prefix}{name}")
    return names


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Check a TOML or JSON value against a field's type; lists become tuples."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        require(value in args, where, value, "one of " + ", ".join(map(str, args)))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is tuple:
        if where in ("model.sample_size", "data.beside_size") and isinstance(value, int):
            value = (value, value)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} = {shown(value)}: must be a list")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ValueError(f"{where} = {shown(value)}: must be a list of {len(args)}")
        return tuple(_convert(v, args[0], where) for v in value)
    if (kind is not bool and isinstance(value, bool)) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{where} = {shown(value)}: must be {kind.__name__}")
    if isinstance(value, int) and abs(value) >= 2**63:
        limit = f"at most {2**63 - 1}" if value > 0 else f"at least {1 - 2**63}"
        raise ValueError(f"{where} = {shown(value)}: must be {limit}")
    return float(value) if kind is float else value


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """A configuration dataclass from a nested dict.

    Args:
        cls: Recipe or one of its parts.
        values: keys as the dataclass has them; missing keys take their defaults.
        where: prefix of keys in messages.
    Raises:
        ValueError: unknown key (naming the nearest known one), wrong type, value out of range.
    """
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else key
        if key not in hints:
            others = [other for other in option_names(Recipe) if not other.startswith(f"{where}.")]
            raise ValueError(f"unknown key {shown(name)}{nearest(key, hints, others)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ValueError(f"{name} = {shown(value)}: must be a table")
            arguments[key] = from_dict(typing.cast(type, hints[key]), value, name)
        else:
            arguments[key] = _convert(value, hints[key], name)
    config = cls(**arguments)  # the tables' own messages come first
    for key, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}.{key} = {value}: must be finite")
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dict of plain JSON values (tuples become lists)."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a .toml file or a resolved recipe.json.

    Raises:
        ValueError: unreadable file, unknown key, wrong value; the message starts with the path.
    """
    path = Path(path)
    with reading(path, "a recipe", "mend it"):
        text = read_text(path)
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        if not isinstance(values, dict) or not values:
            raise ValueError(f"{path}: holds no table: must have one at least, such as [model]")
        try:
            return from_dict(Recipe, values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
