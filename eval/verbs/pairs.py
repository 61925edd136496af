"""The verb `pairs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from core.command_line import output_folder
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Pairs(Interpreters):
    """Restored images against the truth, image by image: a table, pairs.json and a self-contained report.html.

    TRUTH is a set of images as `eval fid` reads it, a run standing for its held-out images. DRAWS is draws.npy of shape
    (N, K, H, W, C), the folder that holds it, or a set of images, one for each true image and in the same order. The
    result has PSNR, SSIM and squared error of each draw, of the mean of the draws and of bicubic interpolation; what an
    astronomer measures on them; and whether the draws spread as the truth does. Every mean has its 95 % interval.

    Examples:
      python -m eval pairs truth.npy restored/draws.npy --inputs inputs.npy --out report
      python -m eval pairs truth.npy restored --pixel-scale 0.117
      python -m eval pairs truth.npy solved --inputs solved/measured.npy --operator blur:1.5 --noise 0.02
    """

    WORDS_FIRST: ClassVar = True

    truth: str
    """True images."""
    draws: str
    """Restored images, one or several for each true image."""
    inputs: str | None = None
    """What the images were restored from, in the same order. By default nothing is interpolated."""
    extractor: Literal["lens", "pixels"] = "lens"
    """lens measures the Einstein radius and other parameters of a lens by the lens extractor. pixels leaves it out and
    takes images of any size and any number of channels."""
    operator: str = ""
    """How --inputs were measured, as for `edit solve`: blur:SIGMA, downscale:K, mask:FILE or psf:FILE. The result then
    has the chi squared of the residual. By default it is left out."""
    noise: float = 0.0
    """Standard deviation of the inputs' noise, in intensity; needed by --operator."""
    pixel_scale: float | None = None
    """Arcsec per pixel of the true images; by default lengths are in pixels."""
    out: str | None = None
    """Folder for pairs.json and report.html; by default the folder `pairs` beside draws.npy."""
    seed: int = 0
    """Seed of the intervals."""
    json: bool = False
    """Print the result as JSON instead of a table."""
    framework: Literal["torch", "tensorflow"] | None = None
    """Framework that evaluates the lens extractor; by default the first that is installed."""

    def execute(self) -> str:
        """Measure, and write both files."""
        from eval.measure.image_sets import read_image_set
        from eval.measure.pair_sets import read_draws, read_inputs, read_measurement
        from eval.measure.pairs import measure_pairs
        from eval.pages.page import write_result
        from eval.pages.pairs_page import pairs_text, write_pairs_page
        from eval.twins.features import open_extractor, open_features
        from eval.twins.interpreters import first_framework

        place = Path(self.draws)
        folder = output_folder(self.out or (place if place.is_dir() else place.parent) / "pairs")
        truth = read_image_set(self.truth, "real", Path).all_images()
        draws = read_draws(self.draws)
        inputs = read_inputs(self.inputs) if self.inputs else None
        measured = read_measurement(self.operator, self.noise, inputs, truth)
        options: dict[str, Any] = {"measured": measured, "pixel_scale": self.pixel_scale, "seed": self.seed}
        if self.extractor == "lens":
            extractor, framework = open_extractor("lens"), first_framework(self.framework)
            extractor.check_channels(truth.shape[3])
            with open_features(extractor, framework) as (features, _):
                result = measure_pairs(truth, draws, inputs, features, **options)
        else:
            result = measure_pairs(truth, draws, inputs, **options)
        result["files"] = {"truth": self.truth, "draws": self.draws, "inputs": self.inputs}
        result["measurement"] = {"operator": self.operator, "noise": self.noise} if self.operator else None
        text = write_result(folder / "pairs.json", result)
        write_pairs_page(folder / "report.html", result, truth, draws, inputs)
        if self.json:
            return text
        notes = [f"warning: {warning}" for warning in result["warnings"]]
        return "\n".join([pairs_text(result), *notes, f"wrote {folder / 'pairs.json'}, {folder / 'report.html'}"])
