"""The distance of two Gaussians of known moments by `eval fid` in three ways: one number, of all images of both sides.

The images have 4 x 4 pixels, which `--extractor pixels` takes as the features. So the Fréchet distance for infinite N
has a closed form, and the distance expected at a finite N is a mean over many draws.
"""

import json

import numpy as np
import pytest

from core.metrics.frechet import frechet_distance_from_features
from eval.__main__ import main
from tests.peers.metrics_exactness import pytorch_fid, torch_fidelity_fid

pytestmark = pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # pytorch-fid's sqrtm

N = 120
SEEDS = range(6)
SHIFT, WIDTHS = 0.01, (0.02, 0.03)
"""Shift of the 16 means, and standard deviations of the real and of the generated pixels."""
CLOSED_FORM = 16 * (SHIFT**2 + (WIDTHS[1] - WIDTHS[0]) ** 2)
DRAWS = 600


def gaussian(rng, count, generated):
    """Rows of 16 independent pixels."""
    return 0.5 + SHIFT * generated + WIDTHS[generated] * rng.standard_normal((count, 16))


def expected(n, generated=True):
    """The mean distance of n real rows to n generated ones, or to n other real ones."""
    rng = np.random.default_rng(12345)
    pairs = ((gaussian(rng, n, False), gaussian(rng, n, generated)) for _ in range(DRAWS))
    return float(np.mean([frechet_distance_from_features(*pair) for pair in pairs]))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of every seed: the results plain, through saved statistics and with --train, and the rows of both sides."""
    results = []
    for seed in SEEDS:
        folder, rng = tmp_path_factory.mktemp("seed"), np.random.default_rng(seed)
        rows = {"real": gaussian(rng, N, False), "drawn": gaussian(rng, N, True), "train": gaussian(rng, 2 * N, False)}
        for name, values in rows.items():
            np.save(folder / f"{name}.npy", values.reshape(-1, 4, 4, 1))
        real, drawn, train = (str(folder / f"{name}.npy") for name in rows)
        ways = {
            "plain": [real, drawn, "--save-statistics", str(folder / "real.npz")],
            "statistics": [str(folder / "real.npz"), drawn],
            "train": [real, drawn, "--train", train],
            "half": [real, drawn, "--n", str(N // 2)],
        }
        result = {}
        for way, words in ways.items():
            out = folder / f"{way}.json"
            words += ["--extractor", "pixels", "--framework", "torch", "--out", str(out), "--seed", str(seed)]
            assert main(["fid", *words]) == 0
            result[way] = json.loads(out.read_text())
        results.append((result, rows["real"], rows["drawn"]))
    return results


def test_the_three_ways_give_one_number_of_all_images(found):
    for ways, _, _ in found:
        plain, statistics, train = (ways[way] for way in ("plain", "statistics", "train"))
        assert plain["n"] == statistics["n"] == train["n"] == {"real": N, "generated": N}
        interval = plain["frechet"]
        assert statistics["frechet"]["value"] == pytest.approx(interval["value"], rel=1e-9)
        assert train["frechet"] == {**interval, "at_floor_n": train["frechet"]["value"]}
        assert interval["low"] < statistics["frechet"]["value"] < interval["high"]


def test_the_number_is_that_of_the_peers_on_all_images(found):
    for ways, real, drawn in found:
        for peer in (pytorch_fid, torch_fidelity_fid):
            assert ways["plain"]["frechet"]["value"] == pytest.approx(peer(real, drawn), rel=1e-6)


def test_the_intervals_hold_the_distance_expected_at_their_n(found):
    whole, half = expected(N), expected(N // 2)
    assert 2 * expected(2 * N) - whole == pytest.approx(CLOSED_FORM, rel=0.05)  # the excess falls as 1 / N
    for way, mean in (("plain", whole), ("train", whole), ("half", half)):
        inside = [ways[way]["frechet"]["low"] < mean < ways[way]["frechet"]["high"] for ways, _, _ in found]
        assert sum(inside) >= len(SEEDS) - 1
    values = [ways["plain"]["frechet"]["value"] for ways, _, _ in found]
    assert np.mean(values) == pytest.approx(whole, rel=0.1) and half > 1.2 * whole


def test_every_floor_is_the_one_expected_at_the_n_that_it_states(found):
    for way, n in (("plain", N // 2), ("train", N), ("half", N // 2)):
        floors = [ways[way]["floor"] for ways, _, _ in found]
        assert all(floor["n"] == {"real": n, "other": n} for floor in floors)
        assert np.mean([floor["mean"] for floor in floors]) == pytest.approx(expected(n, False), rel=0.15)
    beside = [ways["plain"]["frechet"]["at_floor_n"] for ways, _, _ in found]
    assert np.mean(beside) == pytest.approx(expected(N // 2), rel=0.1)
