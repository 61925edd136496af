"""The study `conditioning`: do drawn lenses have the Einstein radius on which they were conditioned?
 Lenses are drawn at Einstein radii spread over the training range, with their other parameters as in the training
images. The lens extractor, which knows nothing of the network, then measures the parameters of each image.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from eval.twins.interpreters import Framework, Interpreters
from eval.verbs import main

COLUMNS = 9
"""Einstein radii in the picture's grid."""


@dataclass(frozen=True, kw_only=True)
class ConditioningStudy(Interpreters):
    """Draw lenses of known Einstein radius, and measure it with the lens extractor: table, picture, conditioning.json.

    Examples:
      python -m eval conditioning --checkpoint runs/lens-conditional-torch
    """

    checkpoint: str
    """Run or checkpoint of a network conditioned on theta_e (data.condition), trained on simulated lenses."""
    out: str = "runs/conditioning"
    """Folder for conditioning.json, conditioning.md and conditioning.png."""
    n: int = 448
    """Images a guidance scale, at least 9."""
    guidance: tuple[float, ...] = (1.0, 2.0)
    """Guidance scales; 1 is no guidance."""
    seed: int = 0
    """Seed of the noise and of the parameters other than the Einstein radius."""
    framework: Framework = "torch"
    """Framework that draws and evaluates the lens extractor."""
    threads: int = 0
    """CPU threads; 0 for the framework's choice."""

    def __post_init__(self) -> None:
        if self.n < COLUMNS or not self.guidance:
            raise ValueError(
                f"--n {self.n}, --guidance {self.guidance}: must be at least {COLUMNS}, and one scale or more"
            )

    def execute(self) -> str:
        """Draw, measure, and write the three files; the table."""
        import numpy as np

        from core.diffusion.process import make_process
        from core.diffusion.samplers import make_table
        from core.extractors.lens import LENS_PARAMETERS
        from core.files import file_hash, write_atomically, write_text_atomic
        from core.random import generator
        from eval.pages.page import write_result
        from eval.studies.conditioned_network import RADIUS, agreement, markdown, open_network, picture
        from eval.twins.client import Worker

        worker = Worker(self.framework, threads=self.threads, timeout=3600)
        network = open_network(self.checkpoint, worker, self.seed)
        with worker:
            known = network.source.data["condition"]
            low, high = (float(known[key][known["names"].index(RADIUS)]) for key in ("min", "max"))
            ladder = np.linspace(low, high, COLUMNS)
            # In another order than the images', so that every batch has all radii.
            radii = low + (high - low) * generator(self.seed, "rows", 1).permutation(self.n) / (self.n - 1)
            images, true = network.simulated(self.n)
            seen, strips, evaluations = {"simulated": (true, network.found(images))}, {}, {}
            for scale in self.guidance:
                images, wanted = network.draw(range(self.n), radii, scale)
                seen[f"guidance {scale:g}"] = (wanted, network.found(images))
                # One image at all radii: the same noise, the same other parameters.
                strips[scale] = np.concatenate([network.draw([0], ladder[i : i + 1], scale)[0] for i in range(COLUMNS)])
                table = make_table(make_process(network.source.process), network.sampling(scale))
                evaluations[f"guidance {scale:g}"] = table.network_evaluations
        names = [name for name in known["names"] if name in LENS_PARAMETERS]
        result = {
            "checkpoint": self.checkpoint,
            "weights_sha256": file_hash(*network.source.files),
            "n": self.n,
            "seed": self.seed,
            "framework": self.framework,
            "sampling": dataclasses.asdict(network.recipe.sampling),
            "radii": [low, high],
            "network_evaluations": evaluations,
            "scores": {key: {name: agreement(x[name], y[name]) for name in names} for key, (x, y) in seen.items()},
        }
        folder, text = Path(self.out), markdown(result)
        write_result(folder / "conditioning.json", result)
        write_text_atomic(folder / "conditioning.md", text)
        write_atomically(folder / "conditioning.png", lambda path: path.write_bytes(picture(seen, strips, ladder)))
        return text


if __name__ == "__main__":
    sys.exit(main(ConditioningStudy, "python -m eval.studies.conditioning"))
