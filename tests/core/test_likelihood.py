"""Likelihood of images: batches, keyed noise, groups of levels, errors and the verb, over networks in closed form."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from core.config import ProcessConfig
from core.diffusion.bound import quantised
from core.diffusion.predictions import conversions
from core.diffusion.process import make_process
from core.exits import RunError
from core.inference.likelihood import BoundOptions, FlowOptions, bound, flow_bits, mean_and_error, strata
from core.inference.sampling import Conditioned
from tests.command_line import RECIPE, run
from tests.core.test_diffusion_likelihood import DEVIATION, MEAN, optimal_fraction
from tests.numpy_impl.sampler import Network

PROCESS = make_process(ProcessConfig(100, beta_start=1e-3, beta_end=0.2, variance="learned", loss="hybrid"))


class GaussianNetwork:
    """The optimal network for pixels N(MEAN, DEVIATION^2); signal and noise at a fractional t are the flow's."""

    def __init__(self, process=PROCESS, extra=0, shift=0.0):
        self.process, self.extra, self.shift = process, extra, shift
        """`shift` of the mean, (N, 1, 1, 1) or a number."""

    def bind(self, part):
        shift = self.shift if np.isscalar(self.shift) else self.shift[part]
        return type(self)(self.process, self.extra, shift)

    def gain(self, t):
        half = np.interp(t, self.process.time, np.log(self.process.signal / self.process.noise))[:, None, None, None]
        signal, noise = 1 / np.hypot(1, np.exp(-half)), 1 / np.hypot(1, np.exp(half))
        return signal, noise / (signal**2 * DEVIATION**2 + noise**2)

    def evaluate(self, x, t):
        signal, gain = self.gain(t)
        eps = gain * (x - signal * (MEAN + self.shift))
        if self.extra == 0:
            return eps
        fraction = np.array([optimal_fraction(self.process, int(level))[0] for level in t])
        return np.concatenate([eps, np.broadcast_to(fraction[:, None, None, None], eps.shape)], axis=-1)

    def vector_jacobian(self, x, t, v):
        return self.evaluate(x, t), self.gain(t)[1] * v[..., : x.shape[-1]]


def pictures(count, shape=(4, 4, 1)):
    return np.clip(0.5 + (MEAN + DEVIATION * np.random.default_rng(3).standard_normal((count, *shape))) / 2, 0, 1)


def test_runs_of_levels_hold_every_level_once():
    for T, K in ((1000, 0), (1000, 50), (1000, 999), (1000, 1), (7, 3)):
        edges = strata(T, K)
        assert edges[0] == 1 and edges[-1] == T and np.all(np.diff(edges) >= 1) and len(edges) == (K or T - 1) + 1
    for K in (-1, 100):
        with pytest.raises(ValueError, match=r"--levels .*: must be in \[0, 99\]"):
            strata(100, K)


def test_the_bound_does_not_depend_on_the_batch_and_sums_its_terms():
    images, options = pictures(5), BoundOptions(levels=7, clip=False, seed=3)
    calls = []
    found = bound(GaussianNetwork(), PROCESS, images, options, 2, "float64", calls.append)
    assert found["divergences"].shape == (5, 7) and len(calls) == 3 * 8
    assert found["total"] == pytest.approx(
        found["prior"] + found["decoder"] + found["divergences"].sum(axis=1), rel=1e-14
    )
    whole = bound(GaussianNetwork(), PROCESS, images, options, 64, "float64")
    assert all(np.array_equal(found[name], whole[name]) for name in found)
    other = bound(GaussianNetwork(), PROCESS, images, dataclasses.replace(options, seed=4), 64, "float64")
    assert not np.array_equal(other["total"], whole["total"])


def test_drawn_levels_are_without_bias_and_their_error_says_so():
    """Over 400 draws of one image the estimate from few levels is within five standard errors of the whole bound."""
    images, network = np.repeat(pictures(1), 400, axis=0), GaussianNetwork()
    full, full_error = mean_and_error(
        bound(network, PROCESS, images, BoundOptions(clip=False), 400, "float64")["total"]
    )
    drawn = BoundOptions(levels=5, clip=False, seed=1)
    few, error = mean_and_error(bound(network, PROCESS, images, drawn, 400, "float64")["total"])
    assert error > 2 * full_error and abs(few - full) < 5 * math.hypot(error, full_error)


def test_the_bound_and_the_flow_give_the_entropy_of_gaussian_images():
    """With the optimal variance: the means over the same images agree within five standard errors of the difference."""
    images = pictures(64, (8, 8, 1))
    bits = -np.log2(
        2 / 255 * np.exp(-0.5 * ((2 * images - 1 - MEAN) / DEVIATION) ** 2) / (DEVIATION * math.sqrt(2 * math.pi))
    )
    expected = bits.reshape(64, -1).mean(axis=1)  # narrow bins
    learned = bound(GaussianNetwork(extra=1), PROCESS, images, BoundOptions("learned", clip=False), 64, "float64")[
        "total"
    ]
    small = bound(GaussianNetwork(), PROCESS, images, BoundOptions("fixed_small", clip=False), 64, "float64")["total"]
    flow = flow_bits(GaussianNetwork(), PROCESS, images, 1, FlowOptions(20), 64, "float64")["total"]
    error = [mean_and_error(found - expected)[1] for found in (learned, flow)]
    print("entropy, bound, fixed_small, flow:", *(f"{x.mean():.4f}" for x in (expected, learned, small, flow)))
    assert abs((learned - expected).mean()) < 5 * error[0] and small.mean() > learned.mean()
    assert abs((flow - expected).mean()) < 5 * error[1] + 1e-3 and max(error) < 0.05


@pytest.mark.parametrize(
    "options", [FlowOptions(8), FlowOptions(8, "normal", 3), FlowOptions(8, "exact"), FlowOptions(8, dequantise=False)]
)
def test_the_flow_does_not_depend_on_the_batch(options):
    images = pictures(3, (2, 2, 1))
    calls = []
    found = flow_bits(GaussianNetwork(extra=1), PROCESS, images, 2, options, 2, "float64", calls.append)["total"]
    assert np.array_equal(
        found, flow_bits(GaussianNetwork(extra=1), PROCESS, images, 2, options, 3, "float64")["total"]
    )
    assert len(calls) == 2 * 4 * 8 * {"rademacher": 1, "normal": 3, "exact": 4}[options.probe]


def test_without_dequantisation_the_flow_gives_a_density():
    """Without dequantisation the density is that of the images' values; the difference is the bin's width in bits."""
    images = np.rint(pictures(20, (2, 2, 1)) * 255) / 255
    density = flow_bits(
        GaussianNetwork(), PROCESS, images, 1, FlowOptions(20, "exact", dequantise=False), 64, "float64"
    )
    bits = flow_bits(GaussianNetwork(), PROCESS, images, 1, FlowOptions(20, "exact"), 64, "float64")
    assert np.max(np.abs(bits["total"] - density["total"] - math.log2(127.5))) < 0.05


def test_dequantisation_fills_the_bin_of_each_grey_level():
    """The network's first input, at t = 0, is uniform within half a grey level of the rounded image."""
    seen = []

    class Watching(GaussianNetwork):
        def vector_jacobian(self, x, t, v):
            seen.append(x / PROCESS.signal[0])
            return super().vector_jacobian(x, t, v)

    images = pictures(4, (16, 16, 1))
    flow_bits(Watching(), PROCESS, images, 1, FlowOptions(1), 4, "float64")
    offset = 255 * (seen[0] - quantised(images))
    assert np.abs(offset).max() < 1 and offset.std() == pytest.approx(1 / math.sqrt(3), rel=0.05)
    assert abs(offset.mean()) < 0.1 and len(np.unique(offset)) == offset.size


def test_a_condition_s_rows_go_with_their_images():
    images, labels = pictures(5), np.array([0, 1, 0, 1, 1])
    shifted, options = GaussianNetwork(shift=0.5 * labels[:, None, None, None]), BoundOptions(levels=5, clip=False)
    found = bound(shifted, PROCESS, images, options, 2, "float64")["total"]
    plain = bound(GaussianNetwork(), PROCESS, images, options, 2, "float64")["total"]
    assert np.array_equal(found == plain, labels == 0)


def test_a_network_that_has_diverged_is_an_error():
    with pytest.raises(RunError, match="likelihood of 2 of 2 images is not finite"):
        bound(
            Conditioned(Network(lambda x, t: x * np.nan), {}),
            PROCESS,
            pictures(2),
            BoundOptions(levels=1),
            2,
            "float64",
        )


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("likelihood")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.replace("CACHE", str(folder / "cache")).replace("[data]", "[data]\nheld_out = 0.4"))
    assert run("train", "--config", recipe, "--run", folder / "run")[0] == 0
    return folder / "run"


def test_the_verb_prints_the_terms_and_writes_them_into_the_run(trained):
    code, out, err = run("likelihood", trained, "--n", 4, "--levels", 20)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("prior") and lines[1].endswith(lines[1].split()[-1]) and "... 99" in lines[1]
    assert lines[-1] == f"wrote {trained / 'likelihood.json'}" and "21 evaluations, 4 images" in lines[-2]
    shown = [float(line.split()[-1]) for line in lines[:-2]]
    stored = json.loads((trained / "likelihood.json").read_text())["vlb"]
    assert sum(shown) == pytest.approx(stored["bits_per_dimension"], abs=1e-4)
    assert sum(stored["terms"].values()) == pytest.approx(stored["bits_per_dimension"], rel=1e-12)
    assert stored["nfe"] == 21 and len(stored["divergence_by_run"]) == 20 and stored["data"]["path"] == "held-out"
    code, out, _ = run("likelihood", trained, "--method", "ode", "--n", 2, "--steps", 3, "--json")
    assert code == 0 and json.loads(out)["nfe"] == 12
    assert json.loads((trained / "likelihood.json").read_text()).keys() == {"vlb", "ode"}
    code, out, _ = run("likelihood", trained, "--method", "ode", "--n", 1, "--steps", 2, "--no-dequantise")
    assert code == 0 and "log2 density" in out and "±" not in out


def test_images_may_come_from_files(trained, tmp_path):
    images = np.random.default_rng(0).random((3, 8, 16), np.float32)
    np.save(tmp_path / "images.npy", images)
    code, _, err = run("likelihood", trained, "--data", tmp_path / "images.npy", "--n", 2, "--first", 1, "--levels", 3)
    assert code == 0, err
    code, _, err = run("likelihood", trained, "--data", tmp_path / "images.npy", "--n", 4, "--levels", 3)
    assert code == 2 and "--first 0 --n 4: must be at most 3 together" in err
    np.save(tmp_path / "big.npy", 2 * images)
    code, _, err = run("likelihood", trained, "--data", tmp_path / "big.npy", "--n", 1)
    assert code == 2 and "must be in [0, 1], or integers" in err


def rows_of(path):
    """The rows of a file of scores, without its head."""
    with open(path, newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["set", "image", "bits_per_dimension"]
    return rows


def test_scores_are_one_number_an_image_and_their_mean_is_the_result(trained, tmp_path):
    words = ("likelihood", trained, "--n", 4, "--levels", 5, "--scores", tmp_path / "new" / "scores.csv")
    code, out, err = run(*words)
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'new' / 'scores.csv'}"
    rows = rows_of(tmp_path / "new" / "scores.csv")
    stored = json.loads((trained / "likelihood.json").read_text())["vlb"]
    assert [row[:2] for row in rows] == [["held-out", str(index)] for index in stored["data"]["indices"]]
    scores = np.array([float(row[2]) for row in rows])
    assert scores.mean() == pytest.approx(stored["bits_per_dimension"], rel=1e-14) and scores.std() > 0
    assert run(*words, "--batch-size", 3)[0] == 0  # the file is replaced, and does not depend on the batch
    assert np.allclose([float(row[2]) for row in rows_of(tmp_path / "new" / "scores.csv")], scores, rtol=1e-5)


def test_a_second_set_gives_the_area_that_its_scores_have(trained, tmp_path):
    """White noise has more bits than the lenses, an even sky fewer; names are those of the files."""
    (tmp_path / "odd").mkdir()
    for index, noise in enumerate(np.random.default_rng(0).random((3, 8, 16), np.float32)):
        np.save(tmp_path / "odd" / f"odd-{index}.npy", noise)
    words = ("likelihood", trained, "--n", 5, "--levels", 20, "--scores", tmp_path / "scores.csv")
    code, out, err = run(*words, "--against", tmp_path / "odd")
    assert code == 0, err
    rows = rows_of(tmp_path / "scores.csv")
    sets = {name: [float(row[2]) for row in rows if row[0] == name] for name in ("held-out", str(tmp_path / "odd"))}
    first, second = sets.values()
    assert [len(values) for values in sets.values()] == [5, 3] and "odd-1.npy" in rows[6][1]
    area = np.mean([[(b > a) + (b == a) / 2 for a in first] for b in second])
    found = json.loads((trained / "likelihood.json").read_text())["vlb"]["against"]
    assert found["auc"] == pytest.approx(area, rel=1e-14) and found["n"] == 3
    assert found["bits_per_dimension"] == pytest.approx(np.mean(second), rel=1e-14)
    assert f"AUC         {area:.4f}" in out and found["data"]["path"] == str(tmp_path / "odd")
    np.save(tmp_path / "one.npy", np.zeros((1, 8, 16)))
    code, out, err = run(*words, "--against", tmp_path / "one.npy", "--json")
    assert code == 0 and json.loads(out)["against"]["auc"] is None
    code, out, err = run(*words, "--data", tmp_path / "odd", "--against", "held-out", "--n", 3)
    assert code == 0 and "AUC         " in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scores", "scores.txt"], "--scores scores.txt: must be a file that ends in .csv"),
        (["--scores", "scores"], "--scores scores: must be a file that ends in .csv"),
        (["--against", "held-out"], "--against held-out: must be another set than --data"),
        (["--n", 2, "--against", "nowhere.npy"], "nowhere.npy: no such file"),
        (["--levels", 200, "--n", 1], "--levels 200: must be in [0, 99]"),
        (["--n", 0], "--n 0: must be at least 1"),
        (["--n", 1000], "held-out images; raise data.held_out"),
        (["--variance", "learned", "--n", 1], "variance = 'learned': must be fixed_small or fixed_large"),
        (["--steps", 3], "--steps with --method vlb: must be left out"),
        (["--method", "ode", "--levels", 3], "--levels with --method ode: must be left out"),
        (["--data", "nowhere.npy"], "nowhere.npy: no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, flags, message):
    code, _, err = run("likelihood", trained, *flags)
    assert code == 2 and message in err.splitlines()[-1]


def test_the_conversions_that_the_network_s_output_goes_through_are_the_process_s():
    """v and x0 networks of the same Gaussian give the same flow density as the eps one."""
    images, expected = pictures(2, (2, 2, 1)), None
    for prediction in ("eps", "x0", "v"):
        process = make_process(dataclasses.replace(PROCESS.config, prediction=prediction))
        base = GaussianNetwork(process)

        def network(x, t, v=None, process=process, base=base):
            signal, noise = (float(values) for values in _signal_and_noise(base, t))
            given = conversions(np.array([signal]), np.array([noise]), process.config)
            p, q = (given[name][0] for name in ("eps_from_xt", "eps_from_output"))
            back = (base.evaluate(x, t) - p * x) / q
            return back, None if v is None else (base.gain(t)[1] - p) / q * v

        given = type("Given", (), {"bind": lambda self, part: self, "vector_jacobian": staticmethod(network)})()
        found = flow_bits(given, process, images, 1, FlowOptions(10), 2, "float64")["total"]
        expected = found if expected is None else expected
        assert found == pytest.approx(expected, abs=1e-10)


def _signal_and_noise(base, t):
    signal = base.gain(t)[0].ravel()[0]
    return signal, math.sqrt(1 - signal**2)
