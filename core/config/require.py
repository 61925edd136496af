"""What every table checks its values with. Imports nothing."""


def require(ok: bool, where: str, value: object, allowed: str) -> None:
    """Raise ValueError where a value is not what it must be."""
    if not ok:
        raise ValueError(f"{where} = {value!r}: must be {allowed}")
