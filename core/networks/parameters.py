"""One parameter of a network: its shape, kind and initialiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["conv", "linear", "embedding", "norm", "bias"]


@dataclass(frozen=True)
class ParamSpec:
    """One parameter: its shape (OIHW for convolutions, (out, in) for linear layers), kind and initialiser."""

    shape: tuple[int, ...]
    kind: Kind
    init: Literal["fan_avg", "uniform", "normal", "ones", "zeros"]
    bound: float = 0.0  # of uniform: in [-bound, bound)


def check_tensors(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Demand exactly these parameters: equal names, equal shapes, finite values of floating point.

    Raises:
        ValueError: a parameter is missing, left over, of another shape or type, or not finite; the message names it.
    """
    missing, extra = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or extra:
        listed = [f"missing {', '.join(missing[:4])}" + (" ..." if len(missing) > 4 else "")] if missing else []
        listed += [f"left over {', '.join(extra[:4])}" + (" ..." if len(extra) > 4 else "")] if extra else []
        counts = f"{len(missing)} missing, {len(extra)} left over ({'; '.join(listed)})"
        raise ValueError(f"{where}: not the weights of this network: {counts}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{where}: {name} has shape {weights[name].shape}, the network needs {shape}")
        if weights[name].dtype.kind != "f":
            raise ValueError(f"{where}: {name} is of type {weights[name].dtype}, not of floating point")
        if not np.isfinite(weights[name]).all():
            raise ValueError(f"{where}: {name} holds values that are not finite")
