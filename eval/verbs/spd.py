"""The verb `spd`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Spd:
    """Generated symmetric positive definite matrices against real ones.

    REAL and GENERATED are each a .npy or .npz file of matrices (N, m, m), a folder with samples.npy, or a simulated
    law: simulate:spd-lognormal, -mixture, -regression or -paper. Every metric stands beside two others: that of a
    Gaussian in the chart, which costs nothing, and that of real matrices against other real ones, over 16 ways to
    halve them.

    Examples:
      python -m eval spd simulate:spd-mixture runs/spd-mixture/samples --json
      python -m eval spd real.npy generated.npy --out comparison
      python -m eval spd held-out.npy generated.npy --train train.npy
      python -m eval spd data/emg.npz rock.npy --split held-out --class-name rock
    """

    WORDS_FIRST: ClassVar = True

    real: str
    """Real matrices. Of a simulated law, twice as many are made as are generated."""
    generated: str
    """Matrices to judge. Those that are not positive definite are counted; none may be NaN or asymmetric."""
    train: str | None = None
    """Matrices that the Gaussian is fitted to; by default REAL."""
    split: Literal["all", "train", "held-out"] = "all"
    """Part of REAL, an .npz file with an array held_out. With held-out the Gaussian is fitted to the train part."""
    class_name: str | None = None
    """Class of REAL, an .npz file with labels; by default all classes together."""
    n: int = 4000
    """Most generated matrices that are measured, and half of the most real ones. Time grows with its square."""
    seed: int = 1
    """Seed of simulated matrices and of every choice. Training simulates with seed 0, unless told otherwise."""
    out: str | None = None
    """Folder for spd.json and spd.png; by default none is written. The picture has ellipses for m of 2 and 3, heat
    maps of the logarithm for larger m, and log-eigenvalues."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def execute(self) -> str:
        """Measure, and write what was named."""
        from core.command_line import output_folder
        from core.spd.picture import save_picture
        from eval.measure.spd import Part, evaluate_spd
        from eval.pages.page import to_json, write_result
        from eval.pages.spd_text import spd_text

        if self.n < 2:
            raise ValueError(f"--n {self.n}: must be at least 2")
        folder = output_folder(Path(self.out)) if self.out else None
        part = Part(self.split, self.class_name)
        result, sets = evaluate_spd(self.real, self.generated, self.train, self.n, self.seed, part)
        notes = []
        if folder:
            write_result(folder / "spd.json", result)
            save_picture(folder / "spd.png", sets)
            notes = [f"wrote {folder / name}" for name in ("spd.json", "spd.png")]
        return to_json(result) if self.json else "\n".join([spd_text(result), *notes])
