"""The comparison: known differences are found at their known size, and bad input is refused."""

import json

import numpy as np
import pytest

from eval.measure.compare import compare
from eval.pages.compare_page import compare_sections
from eval.pages.page import render
from tests.eval.rings import rings


def by_key(result):
    return {metric["key"]: metric for metric in result["metrics"]}


@pytest.fixture(scope="module")
def result():
    train = rings(150, 9)
    real = rings(240, 0)
    copies = rings(120, 1)
    copies[:30] = train[:30]
    generated = {"same": copies, "wide": rings(120, 2, (7.0, 10.0)), "noisy": rings(120, 3, noise=0.03)}
    return compare(real, generated, train), (real, generated, train)


def test_a_known_shift_of_the_radius_is_found(result):
    metric = by_key(result[0])["ring_radius"]
    assert metric["sets"]["wide"]["mean"] == pytest.approx(2.0, abs=0.25)
    assert metric["sets"]["same"]["mean"] < 0.5
    assert metric["sets"]["wide"]["ratio"] == pytest.approx(
        metric["sets"]["wide"]["mean"] / metric["floor"]["mean"], rel=1e-12
    )


def test_a_known_excess_of_noise_is_found(result):
    metric = by_key(result[0])["sky_noise"]
    assert metric["sets"]["noisy"]["mean"] == pytest.approx(0.02, abs=0.005)
    assert metric["sets"]["noisy"]["mean"] > 5 * metric["floor"]["max"]


def test_the_same_distribution_lies_near_its_floor_in_every_metric(result):
    for metric in result[0]["metrics"]:
        assert metric["floor"]["min"] <= metric["floor"]["mean"] <= metric["floor"]["max"]
        assert metric["sets"]["same"]["ratio"] < 3, metric["key"]


def test_copies_of_training_images_are_found(result):
    nearest = result[0]["nearest"]
    assert nearest["sets"]["same"]["copies"] == 30 and nearest["sets"]["real"]["copies"] == 0
    assert 0.25 <= nearest["sets"]["same"]["share_closer"] < 0.30
    assert all(c["image"] == c["train"] < 30 and c["distance"] == 0 for c in nearest["sets"]["same"]["closest"])
    assert nearest["sets"]["real"]["share_closer"] <= 0.0125


def test_n_is_half_of_the_real_images_or_all_generated_ones(result):
    assert result[0]["protocol"]["n"] == 120
    assert compare(rings(41, 4), {"g": rings(40, 5)})["protocol"]["n"] == 20


def test_each_weakness_of_the_sets_adds_a_warning():
    """Few images, too few real ones, dark images, real images that were trained on, 8 bits on one side."""
    real = rings(41, 4)
    dark = np.concatenate([rings(37, 5), np.zeros((3, 24, 28, 1), np.float32)])
    coarse = np.rint(rings(40, 5) * 255).astype(np.float32) / 255

    def warnings(generated, train=None):
        found = compare(real, {"g": generated}, train)
        json.dumps(found, allow_nan=False)
        return found["warnings"]

    few = warnings(rings(20, 5))
    assert len(few) == 1 and "2,000" in few[0]
    (limited,) = (text for text in warnings(rings(40, 5)) if text not in few)
    assert "41" in limited and "40" in limited
    (undefined,) = (text for text in warnings(dark[20:]) if text not in few)
    assert "3 of 20" in undefined
    (trained,) = (text for text in warnings(rings(20, 5), np.concatenate([rings(9, 6), real[:2]])) if text not in few)
    assert trained.startswith("2 of the real")
    (rounded,) = (text for text in warnings(coarse[:20]) if text not in few)
    assert "1/255" in rounded


def test_nothing_depends_on_a_global_generator_and_the_seed_moves_the_cut():
    real, generated = rings(40, 7), {"g": rings(20, 8)}
    first = compare(real, generated)
    np.random.seed(1)
    assert compare(real, generated) == first
    assert compare(real, generated, seed=1)["metrics"] != first["metrics"]


def test_lengths_are_in_arcsec_where_the_scale_is_given():
    real, generated = rings(40, 7), {"g": rings(20, 8, (7.0, 10.0))}
    px, arcsec = compare(real, generated), compare(real, generated, pixel_scale=0.05)
    assert arcsec["protocol"]["length_unit"] == "arcsec"
    assert by_key(arcsec)["ring_radius"]["floor"]["mean"] == pytest.approx(
        0.05 * by_key(px)["ring_radius"]["floor"]["mean"]
    )
    np.testing.assert_allclose(
        arcsec["curves"]["power_spectrum"]["x"], np.array(px["curves"]["power_spectrum"]["x"]) * 20
    )


def test_undefined_numbers_are_null_and_a_floor_of_zero_has_no_ratio():
    flat = np.full((8, 8, 8, 1), 0.5, np.float32)
    outcome = compare(flat, {"flat": flat[:4]})
    metrics = by_key(outcome)
    assert metrics["ring_radius"]["sets"]["flat"]["mean"] is None
    assert metrics["peak"]["floor"]["mean"] == 0 and metrics["peak"]["sets"]["flat"]["ratio"] is None
    json.dumps(outcome, allow_nan=False)
    assert compare_sections(outcome, flat, {"flat": flat[:4]})


def test_three_channels(tmp_path):
    real, generated = rings(40, 7, channels=3), {"g": rings(20, 8, channels=3)}
    sections = compare_sections(compare(real, generated, real[:5]), real, generated, real[:5])
    render(tmp_path / "page.html", "t", sections)


def test_compare_refuses():
    real = rings(8, 0)
    for call, words in (
        (lambda: compare(real, {}), "at least one"),
        (lambda: compare(real, {"real": real}), "none of them 'real'"),
        (lambda: compare(real, {"g": real[:, :20]}), r"g: images of \(20, 28, 1\)"),
        (lambda: compare(real, {"g": real}, real[:, :20]), "train: images of"),
        (lambda: compare(real[:3], {"g": real}), "at least 4 real"),
        (lambda: compare(real, {"g": real[:1]}), "2 of every generated"),
        (lambda: compare(real, {"g": real - 1}), "g: image 0 has"),
        (lambda: compare(real, {"g": real}, seed=-1), "seed = -1"),
        (lambda: compare(real, {"g": real}, pixel_scale=-1.0), "pixel_scale = -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
