"""The lens extractor's training data and scores, against the simulator and closed forms."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from core.data.lenses import brightness, simulate, simulator
from core.extractors.lens import LENS_PARAMETERS
from core.extractors.lens_training import (
    GROUP,
    SCORED,
    Group,
    degrade,
    reflect,
    scores,
    simulate_group,
    simulate_groups,
    training_groups,
)


def test_groups_cover_what_the_recipes_use_and_more():
    groups = training_groups(24 * GROUP, seed=7)
    assert groups == training_groups(24 * GROUP, seed=7) and groups != training_groups(24 * GROUP, seed=8)
    kinds = [(g.preset, g.size, g.field_of_view) for g in groups]
    assert [kinds.count(kind) for kind in SCORED] == [8, 4, 4]
    drawn = [kind for kind in kinds if kind not in SCORED]
    assert len(set(drawn)) == 8 and {kind[0] for kind in drawn} == {"lensing"}
    assert all(32 <= size <= 150 and 5 <= field <= 7.5 for _, size, field in drawn)
    assert [g.first for g in groups] == [i * GROUP for i in range(24)] and {g.seed for g in groups} == {7}
    with pytest.raises(ValueError, match="images = 100: must be a multiple of 1500"):
        training_groups(100, seed=0)


def test_a_group_is_the_simulators_images_and_parameters():
    found, labels, targets = simulate_group(Group("lensing", 40, 6.0, seed=5, first=4, count=3))
    images, every_label, p = simulate("lensing", 7, (40, 40), 5, field_of_view=6.0)
    peer = Image.fromarray(images[5, ..., 0]).resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[1, ..., 0], np.asarray(peer), atol=6e-5)
    assert found.shape == (3, 64, 64, 1) and found.dtype == np.float32
    np.testing.assert_array_equal(labels, every_label[4:])
    for index, (name, side) in enumerate(zip(LENS_PARAMETERS, (6, 1, 6, 6, 1, 1), strict=True)):
        np.testing.assert_allclose(targets[:, index], p[name][4:] / side, rtol=1e-15)
    assert targets.shape == (3, 8) and not targets[:, 6:].any()


def test_groups_come_in_order_from_several_processes():
    groups = [Group("lensing", 32, 5.0, 1, first, 2) for first in (0, 2, 4)]
    images, labels, targets = simulate_groups(groups, 2, lambda results, total: list(results)[:total])
    alone = [simulate_group(group) for group in groups]
    for index, found in enumerate((images, labels, targets)):
        np.testing.assert_array_equal(found, np.concatenate([part[index] for part in alone]))


@pytest.mark.parametrize("upside_down, mirrored", ((True, False), (False, True), (True, True), (False, False)))
def test_a_reflected_image_is_that_of_the_reflected_parameters(upside_down, mirrored):
    """Ray traced from the parameters that reflect() gives, without noise or substructure."""
    _, _, p = simulator("lensing", (8, 8), seed=2)(0)
    axis = np.linspace(-3, 3, 41)
    none = np.zeros((0, 3))
    image = brightness(axis[None, :], axis[:, None], p, none)[None, ..., None]
    values = np.array([[*(getattr(p, name) for name in LENS_PARAMETERS), 0.3, 0.4]])
    found, turned = reflect(image, values, upside_down, mirrored)
    q = dataclasses.replace(p, **dict(zip(LENS_PARAMETERS, turned[0, :6].tolist(), strict=True)))
    assert turned[0, 6:].tolist() == [0.3, 0.4]
    expected = brightness(axis[None, :], axis[:, None], q, none)
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-9)
    assert (np.abs(found - image).max() > 0.1) == (upside_down or mirrored)


def test_degraded_images_have_the_blur_and_the_noise_that_their_targets_say():
    """A point on a grey sky has the blur's second moment, and the sky the noise's deviation."""
    x = np.full((400, 64, 64, 1), 0.25, np.float32)
    x[:, 32, 32] += 0.5
    found, targets = degrade(x, np.full((400, 8), 7.0), np.random.default_rng(0))
    assert (targets[:, :6] == 7).all() and found.min() >= 0 and found.max() <= 1
    blur, noise = targets[:, 6:].T
    sigma = 0.003 * np.sqrt(np.expm1(2 * noise))
    for share in ((blur > 0).mean(), (noise > 0).mean(), ((blur > 0) & (noise > 0)).mean() * 2):
        assert share == pytest.approx(0.5, abs=0.1)
    assert len(set(blur)) == 2 and 0.2 <= blur.max() <= 1.2
    np.testing.assert_allclose(found[:, :20].std(axis=(1, 2, 3)), sigma, rtol=0.1, atol=1e-9)
    assert 10**-3.3 <= sigma[noise > 0].min() < 1e-3 < 0.02 < sigma.max() <= 10**-1.5
    quiet, axis = (noise == 0), np.arange(-6, 7)
    light = found[quiet, 26:39, 26:39, 0] - 0.25
    width = np.einsum("nhw,w->n", light, axis**2) / 0.5
    np.testing.assert_allclose(width, np.where(blur[quiet] > 0, blur[quiet] ** 2 + 1 / 12, 0), atol=2e-3)


def test_scores_are_their_closed_forms():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((4000, 8))
    targets[:, 1] = 0.05  # does not vary: has no R2
    error = np.where(np.arange(4000) % 2, 1, -1)[:, None] * np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    labels = np.arange(4000) % 3
    logits = np.eye(3)[np.where(np.arange(4000) < 1000, labels, (labels + 1) % 3)]
    found = scores({"parameters": targets + error, "logits": logits}, labels, targets)
    assert found["count"] == 4000 and "gamma1" not in found["r2"]
    assert found["r2"]["theta_e"] == pytest.approx(1 - 0.01 / targets[:, 0].var(), rel=1e-12)
    assert found["rmse"]["source_e2"] == pytest.approx(0.6, rel=1e-12)
    assert found["accuracy"] == 0.25
    for end in found["accuracy_interval"]:  # where the normal test of p just rejects
        assert (0.25 - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / 4000, rel=1e-3)
    assert found["accuracy_interval"][0] < 0.25 < found["accuracy_interval"][1]
