"""Known damage: what is done to the images is what is said, and metrics over a pretended extractor find it."""

import json

import numpy as np
import pytest

from core.data.lenses import simulate
from core.extractors.lens_weights import read_lens_weights
from core.metrics.physics import sky_noise
from eval.__main__ import main
from eval.measure.metrics import rows
from eval.studies.damage_page import markdown, seen_from
from eval.studies.damage_scores import ALL_METRICS, SPLITS, score_damage, score_substructure, summary
from eval.studies.damages import DAMAGES, Pools, blurred, noisier, selected

BY_KEY = {damage.key: damage for damage in DAMAGES}


def test_a_blurred_point_has_the_width_and_the_light_it_should():
    images = np.zeros((1, 41, 41, 1), np.float32)
    images[0, 20, 20] = 1
    found = blurred(images, 1.5)[0, ..., 0].astype(np.float64)
    axis = np.arange(41) - 20
    assert found.sum() == pytest.approx(1, rel=1e-6)
    for light in (found.sum(axis=0), found.sum(axis=1)):
        assert light @ axis**2 == pytest.approx(1.5**2 + 1 / 12, rel=1e-3)  # integrated over the pixel
    assert (blurred(np.ones((1, 8, 8, 1), np.float32), 2.0) > 1 - 1e-6).all()


def test_noise_is_added_at_its_size_and_is_the_same_noise():
    images = np.full((2, 64, 64, 1), 0.5, np.float32)
    weak, strong = (noisier(images, sigma, 3) - 0.5 for sigma in (0.01, 0.02))
    assert weak.std() == pytest.approx(0.01, rel=0.03)
    np.testing.assert_allclose(strong, 2 * weak, atol=1e-6)
    assert noisier(np.zeros((1, 64, 64, 1), np.float32), 0.1, 0).min() == 0


def test_sets_that_are_chosen_have_the_size_and_the_share_they_should():
    n, offset = 200, np.random.default_rng(0).permutation(400) / 400

    def chosen(key, strength):
        parts = selected(BY_KEY[key], strength, n, offset, 0)
        assert sum(len(rows) for _, rows in parts) == n
        return dict(parts)

    for strength in BY_KEY["dropped"].strengths:
        rows = chosen("dropped", strength)["other"]
        assert offset[rows].max() <= 1 - strength + 1 / 400 and len(set(rows)) == n
    for key, pool in (("copies", "train"), ("smooth", "smooth")):
        shares = [len(chosen(key, strength)[pool]) / n for strength in BY_KEY[key].strengths]
        assert shares == pytest.approx(BY_KEY[key].strengths)
        weak, strong = (set(chosen(key, s)[pool]) for s in BY_KEY[key].strengths[:2])
        assert weak < strong  # the stronger damage is the weaker one and more
    for strength in BY_KEY["few"].strengths:
        rows = chosen("few", strength)["train"]
        assert np.bincount(rows).max() - np.bincount(rows).min() <= 1 and len(set(rows)) == round(n / strength)


def pretended(images):
    """An extractor in closed form: features are quadrants' mean and spread, the Einstein radius that of the light."""
    n, side = images.shape[:2]
    axis = (np.arange(side) + 0.5) / side - 0.5
    radius = np.hypot(axis[:, None], axis)
    gray = images[..., 0].astype(np.float64) ** 2
    theta = np.einsum("nhw,hw->n", gray, radius) / gray.sum(axis=(1, 2))
    quarters = images[..., 0].reshape(n, 2, side // 2, 2, side // 2)
    features = np.concatenate([f(quarters, axis=(2, 4)).reshape(n, -1) for f in (np.mean, np.std)], axis=1)
    others = np.stack([theta, *(features[:, i] for i in range(7))], axis=1)
    return {"features": features, "parameters": others, "logits": np.stack([theta, 0 * theta, -theta], axis=1)}


@pytest.fixture(scope="module")
def pools():
    return Pools(100, 32, 5.0, 0, pretended)


@pytest.fixture(scope="module")
def result(pools):
    protocol = {"n": 100, "size": 32, "field_of_view": 5.0, "splits": SPLITS}
    return {"protocol": protocol, **score_damage(pools), "substructure": score_substructure(pools)}


def by_damage(result, key):
    return next(damage["metrics"] for damage in result["damages"] if damage["key"] == key)


def test_spoilt_images_are_what_they_say(pools):
    whole = pools.features["other"]
    for strength in BY_KEY["theta_e"].strengths:
        shifted = pools.damaged(BY_KEY["theta_e"], strength)
        assert np.median(shifted["ring_radius"] - whole["ring_radius"][:100]) == pytest.approx(strength, abs=0.03)
    images, _, _ = simulate("lensing", 100, (32, 32), 3_000_003, field_of_view=5.0)
    np.testing.assert_allclose(whole["sky_noise"][:100], sky_noise(images), rtol=1e-12)
    for strength in BY_KEY["noise"].strengths[2:]:
        found = np.median(pools.damaged(BY_KEY["noise"], strength)["sky_noise"])
        assert found == pytest.approx(np.hypot(strength, np.median(whole["sky_noise"])), rel=0.15)
    assert not pools.damaged(BY_KEY["few"], 4.0)["nearest"].any() and (whole["nearest"] > 0).all()


def test_the_study_finds_large_damage_and_leaves_whole_images_at_the_floor(result):
    assert set(result["floor"]) == {metric.key for metric in ALL_METRICS}
    shift = by_damage(result, "theta_e")
    for key in ("lens_theta_e", "ring_radius", "radial_profile"):
        assert shift[key]["strengths"][-1]["seen"], key
    assert shift["ring_radius"]["strengths"][-1]["mean"] == pytest.approx(0.16, abs=0.05)
    assert by_damage(result, "noise")["sky_noise"]["monotone"]
    copies = by_damage(result, "copies")["nearest"]
    assert [entry["mean"] for entry in copies["strengths"]] == pytest.approx(BY_KEY["copies"].strengths, abs=0.06)
    assert copies["monotone"] and not by_damage(result, "copies")["lens_frechet"]["strengths"][0]["seen"]
    few = by_damage(result, "few")["lens_frechet"]["strengths"]
    assert few[-1]["seen"] and few[-1]["mean"] > 2 * few[0]["mean"]
    for damage in result["damages"]:
        for key, found in damage["metrics"].items():  # a damaged set is not seen for what its images were before
            chance = max(result["floor"][key]["max"], result["whole"][key]["max"])
            assert all(entry["seen"] == (entry["min"] > chance) for entry in found["strengths"])
    for metric in rows("lens", "train"):
        assert result["whole"][metric.key]["mean"] < 4 * result["floor"][metric.key]["max"] + 0.01, metric.key


def test_a_range_is_seen_only_above_all_that_whole_images_give():
    assert summary([1.1, 1.3], [0.9, 1.0]) == {"mean": pytest.approx(1.2), "min": 1.1, "max": 1.3, "seen": True}
    assert not summary([0.95, 3.0], [0.9, 1.0])["seen"] and "seen" not in summary([1.0])


@pytest.mark.parametrize(
    "seen, expected", [("01111", 2.0), ("11111", 1.0), ("10111", 3.0), ("11110", None), ("00001", 5.0)]
)
def test_damage_is_seen_from_where_all_stronger_is(seen, expected):
    found = {"strengths": [{"seen": letter == "1"} for letter in seen]}
    assert seen_from(found, [1.0, 2.0, 3.0, 4.0, 5.0]) == expected


def test_the_permutation_test_tells_alike_from_different(pools, monkeypatch):
    found = score_substructure(pools)
    assert all(0.005 <= test["p"] <= 1 for test in found["tests"].values())
    low, high = found["no_probability"]["interval"]
    assert low < found["no_probability"]["difference"] < high
    whole = {key: value[:100] for key, value in pools.features["real"].items()}
    errors = [side["lens_classes"][:, 0].std(ddof=1) / 10 for side in (pools.features["smooth"], whole)]
    assert high - low == pytest.approx(2 * 1.96 * np.hypot(*errors), rel=1e-9)
    monkeypatch.setitem(pools.features, "smooth", pools.damaged(BY_KEY["theta_e"], 0.16))
    assert (
        score_substructure(pools)["tests"]["lens_theta_e"]["p"] == 1 / 200
    )  # the smallest that 199 permutations can give


def test_the_tables_say_what_was_found(result):
    text = markdown(result)
    assert text.count("\n| --- |") == len(DAMAGES) + 2  # and the overview, and substructure
    shift = text[text.rindex("Einstein radius too large") :]
    row = next(line for line in shift.splitlines() if line.startswith("| Ring radius"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    mean = by_damage(result, "theta_e")["ring_radius"]["strengths"][-1]["mean"]
    assert cells[-2] == f"**{mean / result['floor']['ring_radius']['mean']:.2f}**"
    assert json.loads(json.dumps(result, allow_nan=False))["damages"][0]["key"] == "blur"


@pytest.mark.parametrize(
    "flags, message",
    [(["--n", "99"], "n = 99"), (["--size", "31"], "size = 31"), (["--seed", "-1"], "seed = -1")],
)
def test_wrong_options_are_one_line_and_exit_2(capsys, tmp_path, flags, message):
    assert main(["damage", "--out", str(tmp_path / "new"), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_lens_extractor_ranks_damage(tmp_path):
    """The real extractor in a twin, N = 300: each kind of damage rises in the metric that is made for it."""
    assert main(["damage", "--n", "300", "--size", "32", "--field-of-view", "5", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "damage.json").read_text())
    frechet = [(key, "lens_frechet") for key in ("blur", "noise", "theta_e", "dropped", "few")]
    for key, metric in (*frechet, ("theta_e", "lens_theta_e"), ("copies", "nearest")):
        entries = by_damage(result, key)[metric]
        means = [entry["mean"] for entry in entries["strengths"]]
        print(key, metric, means, result["floor"][metric])
        assert entries["strengths"][-1]["seen"] and means[4] > means[3] > means[2], (key, metric)
    assert "Lens Fréchet" in (tmp_path / "damage.md").read_text()
    assert result["protocol"]["extractor_sha256"] == read_lens_weights()[1]["sha256"]
