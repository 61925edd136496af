"""The picture of docs/math.md: its exact flow against the monotone map between the two distributions on the line."""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from core.diffusion.process import make_process
from eval.studies.math_picture import CENTRES, DEVIATION, FLOW_STEPS, PROCESS, MathPicture, trajectories
from eval.verbs import main


def test_the_flow_drawn_is_the_map_that_keeps_every_quantile():
    """On a line the flow keeps the order of points, so that x_0 = F^-1 of the quantile of x_T, in closed form."""
    process, start = make_process(PROCESS), np.linspace(-1.9, 1.9, 7)[:, None]
    _, states = trajectories(process, "dpmsolver++3m", FLOW_STEPS, start)
    for x_T, x_0 in zip(start[:, 0], states[-1], strict=True):
        q = norm.cdf(
            x_T, process.signal[-1] * CENTRES, np.hypot(process.signal[-1] * DEVIATION, process.noise[-1])
        ).mean()
        expected = brentq(lambda x, q=q: norm.cdf(x, CENTRES, DEVIATION).mean() - q, -2, 2)
        assert abs(x_0 - expected) < 0.01


def test_the_picture_is_written(tmp_path):
    assert main(MathPicture, "math_picture", ["--out", str(tmp_path / "math.png")]) == 0
    assert (tmp_path / "math.png").read_bytes().startswith(b"\x89PNG")
