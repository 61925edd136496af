"""The verb `fid`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from core.exits import RunError
from eval.measure.request import DistanceRequest
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Fid(DistanceRequest, Interpreters):
    """The Fréchet distance of generated images from real ones, with everything that it depends on.

    REAL and GENERATED are each a run, a folder with samples.npy, a folder or zip of .npy files or pictures, a .npy,
    .npz or IDX file, features made by any network (.npz with `features`, one row an image), or saved statistics (.npz
    with mu and sigma, as pytorch-fid and clean-fid publish them). With the distance come the N of either side, its
    interval, its floor (real images against other real images), KID, precision, recall, density and coverage. Images of
    one channel are given to Inception three times over. Two sets whose distance would mean nothing are refused;
    whatever weakens the number is printed as a warning.

    Examples:
      python -m eval fid runs/lens-64-torch runs/lens-64-torch --out fid.json
      python -m eval fid real.zip images --fit resize --extractor inception
      python -m eval fid real-dinov2.npz generated-dinov2.npz
      python -m eval fid runs/lens-64-torch runs/lens-64-torch --expect published.json
    """

    WORDS_FIRST: ClassVar = True

    out: str | None = None
    """File for the result, JSON; by default none is written."""
    expect: str | None = None
    """Published result file to reproduce; exit code 1 where it is not reproduced."""
    save_statistics: str | None = None
    """.npz file for the mean and covariance of the real images' features; by default none is written."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def execute(self) -> str:
        """Measure, write, and hold against the published result."""
        from eval.measure.fid import REPRODUCED, differences, evaluate, read_result
        from eval.pages.fid_text import fid_text
        from eval.pages.page import to_json, write_result

        expected = read_result(Path(self.expect)) if self.expect else None
        result, gaussian = evaluate(self)
        notes = []
        if self.save_statistics:
            save_statistics(Path(self.save_statistics), result, gaussian)
            notes.append(f"wrote {self.save_statistics}")
        if self.out:
            write_result(Path(self.out), result)
            notes.append(f"wrote {self.out}")
        if expected is not None:
            apart = differences(expected, result)
            if apart:
                raise RunError(f"{self.expect}: not reproduced: " + "; ".join(apart))
            notes.append(f"{self.expect}: reproduced, to {REPRODUCED:g}")
        return to_json(result) if self.json else "\n".join([fid_text(result), *notes])


def save_statistics(path: Path, result: Mapping[str, Any], gaussian: Mapping[str, Any]) -> None:
    """Write the real images' mean and covariance as pytorch-fid and clean-fid do (mu, sigma), with what they are of.

    Raises:
        ValueError: a side is saved statistics.
    """
    import json

    import numpy as np

    from core.files import write_npz

    if not gaussian:
        raise ValueError(f"--save-statistics {path}: nothing to save: one side is saved statistics already")
    of_real = {key: result["real"].get(key) for key in ("split", "normalise", "data_sha256")}
    about = json.dumps({"n": result["n"]["real"], "extractor": result["extractor"], **of_real})
    write_npz(path, {"about": np.array(about), **gaussian})
