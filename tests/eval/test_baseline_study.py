"""The study `baseline`: its loop against the original's, its scales, and the whole with pretended twins."""

import json

import numpy as np
import pytest

from core.config import ProcessConfig
from core.diffusion.process import make_process
from core.diffusion.table import SamplingTable
from core.diffusion.table import run as run_table
from core.random import gaussian
from eval.studies.baseline import PROBE, BaselineStudy, make_study
from eval.studies.baseline_table import measure
from eval.studies.baseline_ways import GROUP, WAYS, eight_bits, min_max, reverse_rows, spaced_levels
from eval.verbs import main
from tests.fake_twins import make_checkout

LINEAR = ProcessConfig()


def network(x, t):
    """Some noise that a network could predict."""
    return np.sin(3 * x) + t / 1000


def originals_loop(x, noise):
    """dome272/Diffusion-Models-pytorch, ddpm.py, `Diffusion.sample`, before its clamp; noise by its i."""
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha = 1 - beta
    alpha_hat = np.cumprod(alpha)
    for i in reversed(range(1, 1000)):
        z = noise(i) if i > 1 else np.zeros_like(x)
        x = 1 / np.sqrt(alpha[i]) * (x - ((1 - alpha[i]) / np.sqrt(1 - alpha_hat[i])) * network(x, i))
        x = x + np.sqrt(beta[i]) * z
    return x


def test_over_all_levels_it_is_the_originals_loop():
    draws = np.random.default_rng(0).standard_normal((1000, 2, 5))
    rows = reverse_rows(LINEAR, np.arange(1000), clip=False, stop=True, variance="fixed_large")
    assert [row.t for row in rows] == list(range(999, 0, -1)) and rows[-1].s == 0 and rows[-2].s > 0
    found = run_table(SamplingTable(rows, False, ""), network, draws[0], lambda row: draws[999 - row])
    np.testing.assert_allclose(found, originals_loop(draws[0], lambda i: draws[i]), rtol=1e-9)


@pytest.mark.parametrize("evaluations", (3, 30, 1000))
def test_levels_are_the_processs_from_0_and_1_to_the_noisiest(evaluations):
    levels = spaced_levels(evaluations, 1000)
    assert levels[:2].tolist() == [0, 1] and levels[-1] == 999 and (np.diff(levels) > 0).all()
    assert len(levels) == evaluations
    process = make_process(LINEAR)
    rows = reverse_rows(LINEAR, levels, clip=True, stop=False)
    assert [row.t for row in rows] == levels[::-1].tolist()
    np.testing.assert_allclose([row.p for row in rows], 1 / process.signal[levels[::-1]], rtol=1e-12)
    np.testing.assert_allclose([-row.q / row.p for row in rows], process.noise[levels[::-1]], rtol=1e-9)


@pytest.mark.parametrize("evaluations", (3, 30))
def test_noise_that_is_left_where_the_loop_ends_at_1(evaluations):
    """For one image c and the network that knows it, x_1 = s_1 c + n_1 eps; the mean at t = 0 keeps n_0^2 / n_1 eps."""
    process, c, levels = make_process(LINEAR), 0.3, spaced_levels(evaluations, 1000)
    eps = np.random.default_rng(1).standard_normal(20_000)

    def knows(x, t):
        return (x - process.signal[int(t)] * c) / process.noise[int(t)]

    ends = {}
    for stop in (False, True):
        rows = reverse_rows(LINEAR, levels, clip=True, stop=stop)[len(levels) - 2 :]
        x_1 = process.signal[1] * c + process.noise[1] * eps
        ends[stop] = run_table(SamplingTable(rows, True, ""), knows, x_1, lambda row: eps[::-1])
    np.testing.assert_allclose(ends[False], c, atol=1e-12)
    left = np.sqrt(1 - 1.1991992e-4) * 1e-4 / np.sqrt(1 - (1 - 1e-4) * (1 - 1.1991992e-4))  # beta_0, beta_1 by hand
    np.testing.assert_allclose(ends[True], process.signal[0] * c + left * eps, atol=1e-9)
    assert abs(left / 2 - 0.00337) < 1e-5  # of an image in [0, 1]


def test_every_group_is_stretched_by_its_own_extremes():
    x = np.random.default_rng(0).normal(0, 2, (GROUP + 3, 4, 4, 1))
    found = min_max(x)
    for part, made in ((x[:GROUP], found[:GROUP]), (x[GROUP:], found[GROUP:])):
        assert made.min() == 0 and made.max() == 1
        np.testing.assert_allclose(made * (part.max() - part.min()) + part.min(), part, atol=1e-12)


def test_eight_bits_are_cut_off_as_the_original_does():
    x = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    original = ((np.clip(x, -1, 1) + 1) / 2 * 255).astype(np.uint8)
    assert (np.rint(eight_bits(x) * 255) == original).all() and eight_bits(x).dtype == np.float32


def test_mean_and_spread_are_over_the_seeds():
    """Where every image peaks at p, the peak's distance from images that peak at 1 is 1 - p."""
    real = np.random.default_rng(0).random((12, 8, 8, 1))
    real[:, 4, 4] = 1
    sets = [{name: real[:6] * peak for name in WAYS} for peak in (0.5, 0.7)]
    metrics = {metric["label"]: metric for metric in measure(real, sets, 0.1)}
    assert metrics["Peak"]["floor"]["mean"] == 0
    for way in metrics["Peak"]["ways"].values():
        np.testing.assert_allclose([way["mean"], way["spread"]], [0.4, 0.1])


SMALL = {"steps": 4, "images": 60, "n": 5, "seeds": 2, "evaluations": 4}


@pytest.fixture
def study(tmp_path, this_python):
    root, _ = make_checkout(tmp_path / "checkout")
    return BaselineStudy(out=tmp_path / "study", **SMALL), root


def calls(root):
    return (root / "calls.log").read_text().split("\n")


def test_from_nothing_to_the_table_and_again(study, monkeypatch):
    settings, root = study
    monkeypatch.setattr("eval.studies.baseline.GROUP", 3)
    monkeypatch.setenv("FAKE_FAILURE", "torch 3")
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        make_study(settings, root)
    monkeypatch.delenv("FAKE_FAILURE")
    text = make_study(settings, root)
    lines = text.splitlines()
    assert len(lines) == 3 + len(WAYS) and all(line.count("|") == lines[0].count("|") for line in lines)
    assert (settings.out / "table.md").read_text() == text and (settings.out / "pictures.png").stat().st_size > 1000
    found = json.loads((settings.out / "study.json").read_text())
    assert found["trained"]["baseline"]["steps"] == 4 and found["trained"]["U-Net"]["steps"] >= PROBE
    steps = calls(root).count("step torch")
    # The pretender's answer to x is tanh(x) / 2, asked twice; every way of a seed starts from the same noise.
    x_T = gaussian(1, "x_T", range(5), 0, (32, 32, 1), "float32")
    for name in ("baseline-ema-clip", "baseline-raw-free", "U-Net-ema-clip"):
        for first, group in ((0, x_T[:3]), (3, x_T[3:])):
            with np.load(settings.out / "drawn" / f"{name}-seed1" / f"{first:05d}.npz") as drawn:
                for end in ("whole", "stopped"):
                    np.testing.assert_allclose(drawn[end], np.tanh(np.tanh(group) / 2) / 2, rtol=1e-5)
    assert found["ranges"]["(b) and (c)"] == found["ranges"]["ours"]
    # Its networks, drawn from on more levels.
    options = {**SMALL, "seeds": 1, "evaluations": 6}
    more = BaselineStudy(out=settings.out.parent / "more", networks=settings.runs, **options)
    make_study(more, root)
    assert not (more.out / "baseline").exists() and calls(root).count("step torch") == steps
    assert json.loads((more.out / "study.json").read_text())["trained"] == found["trained"]
    before = calls(root)
    assert before.count("sample torch") == 5 * (2 + 1) * 2 * 3  # what is drawn, seeds, groups, parts
    assert make_study(settings, root) == text and calls(root) == before


def test_a_longer_baseline_gives_the_u_net_as_long(study, monkeypatch):
    monkeypatch.setattr("eval.studies.baseline.PROBE", 3)
    settings, root = study
    make_study(BaselineStudy(out=settings.out, **SMALL | {"steps": 12, "seeds": 1, "evaluations": 3}), root)
    trained = json.loads((settings.out / "study.json").read_text())["trained"]
    assert 3 < trained["U-Net"]["steps"] < 40
    assert trained["U-Net"]["seconds"] >= 0.97 * trained["baseline"]["seconds"]


def test_what_cannot_be_is_refused(study, capsys):
    settings, root = study
    settings.out.mkdir()
    (settings.out / "study.json").write_text('{"settings": {"steps": 5}}')
    with pytest.raises(ValueError, match="holds a study of other settings"):
        make_study(settings, root)
    (settings.out / "study.json").rename(settings.out / "other")
    with pytest.raises(ValueError, match="is no study's folder and not empty"):
        make_study(settings, root)
    for flag, value, allowed in (
        ("--n", "1", "at least 2"),
        ("--evaluations", "1001", "between 3 and process.timesteps"),
    ):
        assert main(BaselineStudy, "baseline", [flag, value]) == 2
        assert f"{value}: must be {allowed}" in capsys.readouterr().err
