"""The study of habits: each changes what it says, its tables hold the distances, and it takes no features twice."""

import json

import numpy as np
import pytest

from core.metrics.frechet import frechet_distance_from_features
from eval.measure.saved import read_saved
from eval.studies import protocol
from eval.studies.protocol_habits import (
    BATCH,
    FEW,
    HABITS,
    gaussian_bias,
    mean_distance,
    min_max,
    one_hot_pixel,
    random_features,
    rounded,
    truncated,
)
from eval.twins import features as twin_features
from tests.eval.test_fid import PixelWorker, images

N = FEW + 20


def test_the_changes_of_images():
    x = np.array([0.0, 0.25, 0.999, 1.0], np.float32).reshape(4, 1, 1, 1)
    assert np.allclose(255 * truncated(x).ravel(), [0, 63, 254, 255]) and truncated(x).dtype == np.float32
    assert np.allclose(255 * rounded(x).ravel(), [0, 64, 255, 255])
    y = images(2 * BATCH, 0)
    alone, together = min_max(y, 1), min_max(y, BATCH)
    assert (alone.min(axis=(1, 2, 3)) == 0).all() and (alone.max(axis=(1, 2, 3)) == 1).all()
    for part in (together[:BATCH], together[BATCH:]):
        assert part.min() == 0 and part.max() == 1 and (part.max(axis=(1, 2, 3)) == 1).sum() == 1
    assert np.array_equal(min_max(np.ones((3, 2, 2, 1)), 1), np.zeros((3, 2, 2, 1)))
    hot = one_hot_pixel(y)
    assert (hot.max(axis=(1, 2, 3)) == 1).nonzero()[0].tolist() == [0, BATCH] and hot[1].max() < 0.8


@pytest.mark.parametrize(("n", "dim"), [(150, 700), (200, 200), (400, 100)])
def test_the_bias_of_a_small_n_is_that_of_drawn_rows(n, dim):
    rng = np.random.default_rng(n)
    pairs = (rng.standard_normal((2, n, dim)) for _ in range(3))
    drawn = np.mean([frechet_distance_from_features(*pair) / dim for pair in pairs])
    assert gaussian_bias(n, dim) == pytest.approx(drawn, rel=0.01)


def test_the_bias_falls_as_dim_over_2n():
    """For n far above dim the covariances give dim / 2 n: |S_1 - S_2|^2 / 4, where an entry has the variance 1 / n."""
    assert gaussian_bias(10**6, 2048) == pytest.approx(2e-6 + 2048 / 2e6, rel=1e-3)


def test_parts_share_no_row():
    x, y = np.random.default_rng(1).standard_normal((2, 95, 3))
    parts = [frechet_distance_from_features(x[i : i + 30], y[i : i + 30]) for i in (0, 30, 60)]
    assert mean_distance(x, y, 30) == pytest.approx((np.mean(parts), np.std(parts, ddof=1)), rel=1e-12)
    assert mean_distance(x, y, 95)[1] == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(twin_features, "Worker", PixelWorker)
    monkeypatch.chdir(tmp_path)
    np.save("real.npy", images(2 * N, 1))
    np.save("generated.npy", images(N, 2, shift=0.02))
    return tmp_path


def study(*words: str) -> int:
    return protocol.main(protocol.Protocol, "protocol", ["real.npy", "generated.npy", "--n", str(N), *words])


def pixels(x: np.ndarray) -> np.ndarray:
    found, _ = PixelWorker("torch").call("features", {"images": x}, taps=["features"])
    return found["features"].astype(np.float64)


def test_the_study_writes_what_the_habits_give_and_goes_on_where_it_stopped(folder, monkeypatch):
    assert study() == 0
    result = json.loads((folder / "runs/protocol/protocol.json").read_text())
    assert set(result["habits"]) == set(HABITS) - {"training"}  # files know no training images
    real, other, generated = images(2 * N, 1)[:N], images(2 * N, 1)[N:], images(N, 2, shift=0.02)
    for key, change, both in (
        ("sound", lambda x: x, False),
        ("truncated", truncated, False),
        ("truncated-both", truncated, True),
    ):
        first = pixels(change(real) if both else real)
        found = result["habits"][key]
        assert found["value"] == pytest.approx(
            frechet_distance_from_features(first, pixels(change(generated))), rel=1e-9
        )
        assert found["alike"] == pytest.approx(frechet_distance_from_features(first, pixels(change(other))), rel=1e-9)
        assert found["low"] < found["value"] < found["high"]
    (size, few) = result["sizes"]
    assert (size["n"], few["n"]) == (100, FEW) and size["random other"] > few["random other"]
    assert few["lens generated"] == result["habits"]["few"]["value"]
    wide = random_features(real[:FEW]), random_features(generated[:FEW])
    assert few["random generated"] == pytest.approx(frechet_distance_from_features(*wide), rel=1e-6)
    table = (folder / "runs/protocol/table.md").read_text()
    assert all(HABITS[key].what in table for key in result["habits"]) and "| 50,000 |" in table
    held = read_saved(folder / "runs/protocol/features/generated.npz")
    assert held.about["extractor"]["name"] == "lens" and held.features.shape == (N, 16)

    calls = []
    monkeypatch.setattr(PixelWorker, "call", lambda *_, **more: calls.append(more) or ({}, {}))
    assert study() == 0 and not [call for call in calls if "taps" in call]
    monkeypatch.undo()


def test_a_page_keeps_what_stands_around_the_tables(folder):
    page = folder / "page.md"
    page.write_text(f"before\n{protocol.BEGIN}old\n{protocol.END}after\n")
    assert study("--page", str(page)) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "| 400 |" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("real.npy", "generated.npy", "--n", "399"), "--n 399: must be at least 400"),
        (("real.npy", "generated.npy"), "real.npy: 840 images: must be at least 4,000; lower --n"),
        (("real.npy", "large.npy", "--n", str(N)), "large.npy: images of another size"),
    ],
)
def test_what_cannot_be_measured_is_one_line(folder, capsys, words, message):
    np.save("large.npy", np.repeat(images(N, 2), 2, axis=1))
    assert protocol.main(protocol.Protocol, "protocol", words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
