"""A training batch is a function of (recipe, step): images and labels together, noise keyed by position."""

import dataclasses

import numpy as np
import pytest

from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, TrainingConfig
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.inference.conditioning import check_condition
from core.random import gaussian
from core.training.training import Training
from eval.parity.tolerances import STATISTICS_SIGMA

COUNT = 12


def recipe(size=(4, 6), classes=None, augment=False, **training):
    model = ModelConfig(
        size,
        2,
        2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=4,
        num_class_embeds=classes,
    )
    options = {"batch_size": 5, "dtype": "float64", **training}
    return Recipe(
        model,
        ProcessConfig(timesteps=50, prediction="v"),
        DataConfig("pictures", augment=augment),
        TrainingConfig(**options),
    )


def dataset(size=(4, 6), labels=True):
    """Image i holds values in [i / 12, (i + 1) / 12), and its class is i % 3; 3 and 7 are held out."""
    rng = np.random.default_rng(0)
    images = ((np.arange(COUNT)[:, None, None, None] + rng.random((COUNT, *size, 2))) / COUNT).astype(np.float32)
    held_out = np.array([3, 7])
    train = np.setdiff1d(np.arange(COUNT), held_out)
    classes = np.arange(COUNT) % 3 if labels else None
    return Dataset(images, classes, ("no", "sphere", "vort") if labels else (), {}, train, held_out, {})


def batch(recipe, step, data=None):
    return Training(recipe, data or dataset(recipe.model.sample_size)).batch(step)


def which(x_0):
    """The index of each image of a batch, read from its values."""
    return np.floor((x_0.reshape(len(x_0), -1).min(axis=1) + 1) / 2 * COUNT + 1e-4).astype(int)


def test_a_batch_is_pure_in_the_step():
    options = recipe(classes=3, augment=True)
    forward = [batch(options, step) for step in range(8)]
    for step in reversed(range(8)):  # as after a restart, in any order
        again = batch(recipe(classes=3, augment=True), step)
        assert again.keys() == forward[step].keys()
        assert all(again[k].tobytes() == forward[step][k].tobytes() for k in again)
    assert all((forward[0][k] != forward[1][k]).any() for k in ("x_0", "eps", "t"))
    other = batch(dataclasses.replace(options, training=dataclasses.replace(options.training, seed=1)), 0)
    assert all((forward[0][k] != other[k]).any() for k in ("x_0", "eps", "t"))


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_shapes_types_and_coefficients(dtype):
    options = recipe(dtype=dtype)
    process, b = make_process(options.process), batch(options, 3)
    assert b.keys() == {"x_0", "eps", "t", "time", "signal", "noise", "target_x0", "target_eps", "weight"}
    assert b["x_0"].shape == b["eps"].shape == (5, 4, 6, 2) and b["t"].shape == (5,) and b["t"].dtype == np.int64
    assert all(v.dtype == dtype for k, v in b.items() if k != "t")
    for key in ("time", "signal", "noise", "target_x0", "target_eps", "weight"):
        assert (b[key] == getattr(process, key)[b["t"]].astype(dtype)).all()
    assert (b["eps"] == gaussian(0, "training_eps", range(5), 3, (4, 6, 2), dtype)).all()
    assert b["x_0"].min() >= -1 and b["x_0"].max() <= 1


def test_labels_follow_their_images_and_held_out_ones_never_come():
    options = recipe(classes=3)
    seen = []
    for step in range(6):
        b = batch(options, step)
        assert (b["labels"] == which(b["x_0"]) % 3).all() and b["labels"].dtype == np.int64
        seen.extend(which(b["x_0"]))
    # 30 images of 10: three epochs, in each of which every image comes once.
    for epoch in range(3):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert seen[:10] != seen[10:20]


def test_images_and_noise_do_not_depend_on_the_split_or_the_batch_size_where_positions_agree():
    one, split = batch(recipe(batch_size=4), 2), batch(recipe(batch_size=4, accumulate=4), 2)
    assert all(one[k].tobytes() == split[k].tobytes() for k in one)
    # The position in the global batch is the noise's key: a larger batch begins with the same noise and levels.
    larger = batch(recipe(batch_size=8), 2)
    assert (larger["eps"][:4] == one["eps"]).all() and (larger["t"][:4] == one["t"]).all()


def symmetries(image):
    """The images of a picture under its symmetries, by NumPy: eight of a square, four otherwise."""
    turns = range(4) if image.shape[0] == image.shape[1] else (0, 2)
    return [np.flip(turned, 1) if flip else turned for k in turns for turned in [np.rot90(image, k)] for flip in (0, 1)]


@pytest.mark.parametrize(("size", "count"), [((4, 4), 8), ((4, 6), 4)])
def test_augmentation_draws_every_symmetry_and_nothing_else(size, count):
    options, data = recipe(size, augment=True), dataset(size)
    found = []
    for step in range(60):
        b = batch(options, step, data)
        for x_0, i in zip(b["x_0"], which(b["x_0"]), strict=True):
            allowed = symmetries(data.images[i].astype(np.float64) * 2 - 1)
            assert len(allowed) == count
            matches = [n for n, image in enumerate(allowed) if np.array_equal(image, x_0)]
            assert len(matches) == 1
            found.append(matches[0])
    drawn = np.bincount(found, minlength=count)
    p = 1 / count
    assert np.abs(drawn - 300 * p).max() < STATISTICS_SIGMA * np.sqrt(300 * p * (1 - p))
    plain = [batch(recipe(size), step, data)["x_0"] for step in range(3)]
    for x_0 in plain:
        assert all(
            np.array_equal(x, data.images[i].astype(np.float64) * 2 - 1) for x, i in zip(x_0, which(x_0), strict=True)
        )


def test_a_stretch_is_applied_to_the_images_alone():
    options = recipe()
    plain = batch(options, 3)
    found = batch(dataclasses.replace(options, process=dataclasses.replace(options.process, stretch=0.1)), 3)
    y = (np.sqrt((plain["x_0"] + 1) / 2 + 0.1) - 0.1**0.5) / (1.1**0.5 - 0.1**0.5)
    np.testing.assert_allclose(found.pop("x_0"), 2 * y - 1, atol=1e-12)
    assert all(np.array_equal(value, plain[name]) for name, value in found.items())


def test_levels_are_uniform():
    t = np.concatenate([batch(recipe(batch_size=100), step)["t"] for step in range(50)])
    assert t.min() == 0 and t.max() == 49
    drawn = np.bincount(t, minlength=50)
    assert np.abs(drawn - 100).max() < STATISTICS_SIGMA * np.sqrt(5000 * 0.02 * 0.98)


def test_classes_and_labels_must_go_together():
    check_condition(recipe(), dataset(labels=False))
    check_condition(recipe(), dataset())
    check_condition(recipe(classes=3), dataset())
    check_condition(recipe(classes=4), dataset())
    with pytest.raises(ValueError, match=r"num_class_embeds = 2.* 3 classes"):
        check_condition(recipe(classes=2), dataset())
    with pytest.raises(ValueError, match="num_class_embeds = 3"):
        check_condition(recipe(classes=3), dataset(labels=False))
    with pytest.raises(ValueError, match="no class labels"):
        batch(recipe(classes=3), 0, dataset(labels=False))
