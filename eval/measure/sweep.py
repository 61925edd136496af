"""Distance against evaluations of the network, for several samplers of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.arrays import read_npy
from core.diffusion.samplers import SAMPLERS
from core.exits import RunError
from core.metrics.frechet import frechet_distance_from_features
from core.metrics.pixels import check_images
from core.reading import read_json
from eval.measure.distance import PROTOCOL_N, cut
from eval.measure.image_sets import ImageSet, is_run, read_image_set
from eval.twins.drawn import draw_from
from eval.twins.features import FeatureName, open_extractor, open_features
from eval.twins.interpreters import Framework, first_framework

SEED = 0
"""Of the choice of real images."""


def spent(sampler: str, budget: int) -> int:
    """Evaluations that a sampler makes of a budget: each step of some takes two but the last, which leaves one over."""
    return budget - 1 if SAMPLERS[sampler].evaluations == 2 and budget % 2 == 0 else budget


def sweep(
    run: str,
    samplers: Sequence[str],
    nfe: Sequence[int],
    n: int,
    extractor: FeatureName,
    framework: Framework | None,
    spacing: str | None,
) -> dict[str, Any]:
    """Draw and measure; images of an earlier sweep are taken from the run's folder.

    Args:
        run: its held-out images are the real ones.
        samplers, nfe: sampling methods, and evaluations of the network an image.
        n: images a side; 0 for as many as are held out, at most the protocol's 2,000.
        extractor: lens, inception or pixels.
        framework: the twin that draws; None for the first that is installed.
        spacing: grid of the steps; the recipe's where None.
    Returns:
        Plain JSON values: floor, and of every point the distance and the seconds of its drawing.
    Raises:
        ValueError: input that the user must change. RunError: a twin failed.
    """
    if not samplers or not nfe:
        raise ValueError("sweep: give at least one of --samplers and one of --nfe")
    if min(nfe) < 1:
        raise ValueError(f"--nfe {min(nfe)}: must be at least 1")
    twin, network, folder = first_framework(framework), open_extractor(extractor), Path(run)
    if not is_run(folder):
        raise ValueError(f"{run}: must be a run, whose held-out images are the real ones")
    real = read_image_set(run, "real", lambda path: path)
    held_out, others = real.all_images(), real.others
    network.check_channels(held_out.shape[3])
    most = min(len(held_out), len(held_out if others is None else others))
    n = n or min(PROTOCOL_N, most)
    if n > most:
        raise ValueError(f"--n {n}: must be at most {most}, the smaller of held-out and training images, for the floor")
    points = [(sampler, count) for sampler in samplers for count in sorted({spent(sampler, b) for b in nfe})]
    part, main = cut(real, ImageSet(run, held_out), n, SEED), network.taps[0]
    rows = []
    with open_features(network, twin) as (features, _):
        reference, spare = (features(images)[main] for images in (part.real, part.spare))
        floor = frechet_distance_from_features(reference, spare[:n])
        for sampler, count in points:
            options: dict[str, str | int] = {"sampler": sampler, "nfe": count}
            options |= {"spacing": spacing} if spacing else {}
            name = "-".join(str(value) for value in options.values())
            drawn = draw_from(folder, n, twin, f"sweep/{twin}/{name}", **options)
            images = read_npy(drawn / "samples.npy")
            check_images(images, str(drawn / "samples.npy"))
            manifest = read_json(drawn / "manifest.json", {"nfe": int, "seconds": float, "spacing": str})
            if manifest["nfe"] != count:
                raise RunError(f"{drawn}: took {manifest['nfe']} evaluations: must be {count}")
            distance = frechet_distance_from_features(features(images)[main], reference)
            rows.append({"sampler": sampler, "nfe": count, "distance": distance, "seconds": manifest["seconds"]})
    return {
        "run": run,
        "n": n,
        "floor": floor,
        "extractor": network.about(),
        "framework": twin,
        "rows": rows,
        "split": real.about["split"],
        "spacing": manifest["spacing"],
    }
