"""The twin's lens extractor: against one in NumPy, in every batch size, and its published scores on fresh images."""

import numpy as np
import pytest

from core.data.lenses import simulate
from core.extractors.lens import LENS_PARAMETERS, PARAM_SPECS, in_arcsec, prepare
from core.extractors.lens_weights import read_lens_weights
from eval.parity.closeness import require_close
from eval.parity.tolerances import LENS_FLOAT32, NETWORK_FLOAT64
from tests.numpy_unet import conv2d, silu

# By hand, from the description of the network: name, stride, zeros on each side.
LAYERS = (
    ("conv1", 2, 2),
    ("conv2", 1, 1),
    ("conv3", 2, 1),
    ("conv4", 1, 1),
    ("conv5", 2, 1),
    ("conv6", 1, 1),
    ("conv7", 2, 1),
    ("pool", 1, 0),
)
WIDTHS = {"features": 128, "parameters": 8, "logits": 3}


def stressed(dtype="float64"):
    """Weights without zeros or symmetry."""
    rng = np.random.default_rng(3)
    scale = {n: 0.2 if len(s.shape) == 1 else 2 / np.sqrt(np.prod(s.shape[1:])) for n, s in PARAM_SPECS.items()}
    return {name: (scale[name] * rng.standard_normal(spec.shape)).astype(dtype) for name, spec in PARAM_SPECS.items()}


def images(count, size, seed=0):
    return np.random.default_rng(seed).random((count, size, size, 1))


def in_numpy(weights, pictures):
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = np.concatenate(list(prepare(pictures, np.float64)))
    for name, stride, zeros in LAYERS:
        x = silu(conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, zeros, zeros))
    features = x.reshape(len(x), -1)
    heads = {n: features @ w[f"to_{n}.weight"].T + w[f"to_{n}.bias"] for n in ("parameters", "logits")}
    return {"features": features, **heads}


@pytest.mark.parametrize("size", (32, 64, 77))
@pytest.mark.parametrize("dtype, tolerance", (("float64", NETWORK_FLOAT64), ("float32", LENS_FLOAT32)))
def test_the_extractor_is_the_formula(backend, dtype, tolerance, size):
    weights, pictures = stressed(dtype), images(3, size)
    found = backend.lens_extractor.make_lens_extractor(weights, dtype)(pictures)
    expected = in_numpy(weights, pictures)
    assert {name: value.shape for name, value in found.items()} == {name: (3, width) for name, width in WIDTHS.items()}
    for name, value in found.items():
        print(dtype, name, require_close(value, expected[name], tolerance, name, dtype))
    assert np.abs(np.diff(expected["features"], axis=0)).max() > 0.1  # the images differ


@pytest.mark.parametrize("dtype, tolerance", (("float64", NETWORK_FLOAT64), ("float32", LENS_FLOAT32)))
def test_features_do_not_depend_on_the_batch(backend, dtype, tolerance):
    """Two full batches and a smaller one, against the same images one and seven at a time."""
    extract = backend.lens_extractor.make_lens_extractor(read_lens_weights()[0], dtype)
    pictures, _, _ = simulate("lensing", 16, (32, 32), 9, field_of_view=5.0)
    many = np.resize(pictures, (515, 32, 32, 1))
    whole = extract(many)
    for name, value in whole.items():
        sevens = np.concatenate([extract(many[start : start + 7])[name] for start in range(0, 21, 7)])
        singles = np.concatenate([extract(many[i : i + 1])[name] for i in (0, 255, 256, 514)])
        require_close(sevens, value[:21], tolerance, f"{name}, seven at a time", dtype)
        require_close(singles, value[[0, 255, 256, 514]], tolerance, f"{name}, one at a time", dtype)
        assert value.dtype == dtype and len(value) == 515


def test_what_does_not_fit_is_refused(backend):
    weights = stressed("float32")
    extract = backend.lens_extractor.make_lens_extractor(weights)
    for wrong, message in (
        (np.zeros((2, 64, 64)), "add the channel axis"),
        (np.zeros((2, 64, 64, 3)), "3 channels"),
        (np.zeros((2, 64, 32, 1)), "64 x 32 pixels"),
        (np.zeros((2, 16, 16, 1)), "16 x 16 pixels"),
        (np.zeros((0, 64, 64, 1)), "shape"),
        (np.full((2, 64, 64, 1), 1.5), "must be finite and in"),
        (np.zeros((2, 64, 64, 1), np.uint8), "dtype uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            extract(wrong)
    for name, change, message in (
        ("pool.weight", lambda w: w[:, :, :2], "pool.weight has shape"),
        ("conv1.bias", lambda w: w * np.nan, "conv1.bias holds values that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            backend.lens_extractor.make_lens_extractor({**weights, name: change(weights[name])})


@pytest.mark.parametrize("size, field", ((64, 7.5), (32, 5.0)))
def test_the_scores_that_are_stated_hold_on_fresh_images(backend, size, field):
    """1 - R2 over 200 images is at most twice the published value; its standard error is about 15 %."""
    weights, manifest = read_lens_weights()
    stated = manifest["held_out"][f"lensing, {size} px, {field} arcsec"]
    pictures, _, drawn = simulate("lensing", 200, (size, size), 987_654, field_of_view=field)
    outputs = backend.lens_extractor.make_lens_extractor(weights)(pictures)
    found = in_arcsec(outputs["parameters"], field)
    for name in LENS_PARAMETERS:
        value = found[name]
        r2 = 1 - np.mean((value - drawn[name]) ** 2) / np.var(drawn[name])
        print(name, r2, stated["r2"][name])
        assert r2 > 1 - 2 * (1 - stated["r2"][name]), name


@pytest.mark.diffusers  # the mark of what only the PyTorch environment runs
def test_the_learning_rate_is_a_line_up_and_a_line_down(backend):
    rate = backend.train_lens_extractor.learning_rate
    assert rate(0, 1000, 2.0) == pytest.approx(2 / 50) and rate(49, 1000, 2.0) == pytest.approx(2 * 0.951)
    assert rate(500, 1000, 2.0) == pytest.approx(1.0) and 0 < rate(999, 1000, 2.0) < 0.01


@pytest.mark.slow
@pytest.mark.diffusers
def test_the_weights_can_be_made_again(backend, tmp_path, capsys):
    """A tiny training writes whole files, gives parameters in their units, and repeats with the same seed."""
    flags = ["--images", "1500", "--steps", "150", "--held-out", "250", "--threads", "1"]
    found = []
    for name in ("a", "b"):
        assert backend.train_lens_extractor.main(["--out", str(tmp_path / name), *flags]) == 0
        found.append(read_lens_weights(tmp_path / name))
    (weights, manifest), (again, _) = found
    for name, value in weights.items():
        require_close(again[name], value, LENS_FLOAT32, f"{name}, trained again")
    scores = manifest["held_out"]["lensing, 64 px, 7.5 arcsec"]
    assert scores["r2"]["theta_e"] > 0.5 and scores["r2"]["gamma1"] > 0.5 and scores["count"] == 250
    assert manifest["options"]["steps"] == 150 and "--steps 150" in manifest["command"]
    assert "R2 theta_e" in capsys.readouterr().out


@pytest.mark.diffusers
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--images", "100"], "images = 100"),
        (["--steps", "0"], "steps = 0: must be at least 1"),
        (["--batch-size", "3"], "batch_size = 3: must be at least 4"),
        (["--held-out", "10"], "held_out = 10"),
        (["--stepz", "3"], "--steps"),
    ],
)
def test_wrong_training_options_are_refused(backend, flags, message):
    with pytest.raises(ValueError, match=message):
        backend.train_lens_extractor.main(flags)
