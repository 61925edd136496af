"""Posterior sampling by a trained network: images that fit a linear measurement, several draws of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.diffusion.grids import Level
from core.diffusion.posterior import Observed, Posterior
from core.diffusion.samplers import SAMPLERS, grid_of, make_table
from core.diffusion.table import SamplingTable, run
from core.inference.editing import SHOWN_DRAWS, Edited, Editor, Images
from core.inference.sampling import KeyedNoise, Part


def solve(
    editor: Editor, measured: Images, observed: Observed, shape: tuple[int, int, int], originals: Images | None = None
) -> Edited:
    """Draw images that fit measurements; the result does not depend on the batch size.

    Args:
        editor: an unconditional network and its options, for N editor.draws images. Noise is drawn on the host.
        measured: (N, h, w, C) measurements, in intensity.
        observed: the operator, its noise and the method.
        shape: (H, W, C) of the images.
        originals: (N, H, W, C) in [0, 1], the images that were measured; None where they are not known.
    """
    table, levels = make_table(editor.process, editor.sampling), grid_of(editor.process, editor.sampling)
    check_sampler(editor.sampling.sampler, observed.method, table, levels)
    inputs = np.arange(len(measured)).repeat(editor.draws)
    noise = editor.noise(np.broadcast_to(0.0, (len(inputs), *shape)))
    found = np.empty((len(inputs), *shape), editor.dtype)
    for part in noise.batches(editor.sampling.batch_size):
        posterior = _posterior(editor, observed, measured[inputs[part]], part, table, levels)
        found[part] = _batch(posterior, table, noise, part, editor.progress)
    images = editor.to_images(found)
    facts: dict[str, Any] = {"method": observed.method, "draws": editor.draws, "noise_of_measurement": observed.noise}
    facts |= {"step": observed.step} if observed.method == "dps" else {}
    facts["residual_chi_squared"] = float(chi_squared(images, measured[inputs], observed).mean())
    if originals is not None:
        facts["residual_chi_squared_of_truth"] = float(chi_squared(originals, measured, observed).mean())
    draws = images.reshape(len(measured), editor.draws, *shape)
    factor = shape[0] // measured.shape[1]
    shown = np.clip(measured, 0, 1).repeat(factor, axis=1).repeat(factor, axis=2)
    columns = [shown] if originals is None else [shown, originals]
    columns += [draws[:, draw] for draw in range(min(editor.draws, SHOWN_DRAWS))]
    return Edited(draws, columns, table, editor, facts)


def _posterior(
    editor: Editor, observed: Observed, y: Images, part: Part, table: SamplingTable, levels: list[Level]
) -> Posterior:
    """The network of a batch with its measurements y."""
    bound = editor.network.bind(part, table.nfe)

    def pull_back(x: Images, t: float, v: Callable[[Images], Images]) -> tuple[Images, Images]:
        return bound.vector_jacobian(x, np.full(len(x), t, x.dtype), v)

    return Posterior(observed, y, pull_back, table.rows, levels)


def _batch(
    posterior: Posterior, table: SamplingTable, noise: KeyedNoise, part: Part, progress: Callable[[int], object]
) -> Images:
    """The images of a batch, in the network's range."""

    def after(row: int, x: Images, x_0: Images) -> Images:
        progress(len(part))
        return posterior.after(row, x, x_0)

    return run(table, posterior.network, noise("x_T", part), lambda row: noise("sampler", part, row), after=after)


def check_sampler(sampler: str, method: str, table: SamplingTable, levels: list[Level]) -> None:
    """Refuse a sampler that a method cannot guide.

    Raises:
        ValueError: the message names samplers that it can.
    """
    if method == "dps" and not SAMPLERS[sampler].keeps_image_alone:
        able = [name for name, row in SAMPLERS.items() if row.keeps_image_alone]
        raise ValueError(f"--sampler {sampler}: must be {' or '.join(able)} with --method dps")
    if table.nfe != len(levels):
        able = [name for name, row in SAMPLERS.items() if row.evaluations == 1]
        raise ValueError(f"--sampler {sampler}: must be one of {', '.join(able)}, which evaluate once a step")


def chi_squared(images: Images, measured: Images, observed: Observed) -> NDArray[np.float64]:
    """Squared residual over the noise's variance, a measured value, of each image (N,); 1 on average for the truth."""
    residual = observed.residual(measured, images.astype(np.float64)) / observed.noise
    count = np.broadcast_to(observed.operator.valid, measured.shape[1:]).sum()
    summed: NDArray[np.float64] = np.sum(residual**2, axis=(1, 2, 3)) / count
    return summed
