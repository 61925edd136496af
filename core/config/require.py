"""The check that every table makes of its values."""

from collections.abc import Callable
from operator import attrgetter


def require(ok: bool, where: str, value: object, allowed: str) -> None:
    """Raise ValueError where a value is not what it must be."""
    if not ok:
        from core.reading import shown  # with NumPy, which --help does without

        raise ValueError(f"{where} = {shown(value)}: must be {allowed}")


def requirements(config: object, table: str = "") -> Callable[[bool, str, str], None]:
    """require() for the keys of a table: (whether a value is right, its key, what is allowed)."""

    def need(ok: bool, key: str, allowed: str) -> None:
        require(ok, f"{table}.{key}" if table else key, attrgetter(key)(config), allowed)

    return need
