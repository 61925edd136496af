"""The lens extractor as data: sizes, initial weights, input, and the committed weights with their manifest."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from core.extractors import lens_weights
from core.extractors.lens import (
    CONVOLUTIONS,
    FEATURES,
    PARAM_SPECS,
    PARAMETERS,
    in_arcsec,
    initial_weights,
    prepare,
)
from core.extractors.lens_weights import MANIFEST, WEIGHTS, read_lens_weights, write_lens_weights
from core.files import file_hash, write_tensors


def test_the_network_has_the_parameters_that_its_layers_need():
    """Counted by hand: in x out x size^2 + out for each convolution, and the two heads of 128 features."""
    convolutions = [
        (3, 32, 5),
        (32, 32, 3),
        (32, 64, 3),
        (64, 64, 3),
        (64, 96, 3),
        (96, 96, 3),
        (96, 64, 3),
        (64, 128, 4),
    ]
    expected = sum(i * o * k * k + o for i, o, k in convolutions) + (8 + 3) * (128 + 1)
    assert sum(math.prod(spec.shape) for spec in PARAM_SPECS.values()) == expected == 393_515
    assert PARAM_SPECS["pool.weight"].shape == (FEATURES, 64, 4, 4)
    assert PARAM_SPECS["to_parameters.weight"].shape == (len(PARAMETERS), FEATURES)
    assert PARAM_SPECS["to_logits.bias"].shape == (3,)


def test_the_layers_bring_64_pixels_down_to_one():
    side = 64
    for layer, expected in zip(CONVOLUTIONS, (32, 32, 16, 16, 8, 8, 4, 1), strict=True):
        side = (side + 2 * layer.padding - layer.size) // layer.stride + 1
        assert side == expected, layer.name


def test_initial_weights_are_kaimings_and_go_by_the_seed():
    weights = initial_weights(3)
    for name, value in weights.items():
        assert value.dtype == np.float32 and value.shape == PARAM_SPECS[name].shape
        if name.endswith("bias"):
            assert not value.any()
        elif not name.startswith("to_"):
            assert value.std() == pytest.approx(math.sqrt(2 / np.prod(value.shape[1:])), rel=0.05), name
    assert not np.array_equal(weights["conv1.weight"], initial_weights(4)["conv1.weight"])
    assert not np.array_equal(weights["conv4.weight"].ravel()[:9], weights["conv2.weight"].ravel()[:9])
    np.testing.assert_array_equal(weights["pool.weight"], initial_weights(3)["pool.weight"])


@pytest.mark.parametrize("size", (32, 45, 64, 150))
def test_the_channels_are_pillows_bicubic_its_asinh_and_its_grain(size):
    images = np.random.default_rng(size).random((300, size, size, 1), dtype=np.float32)
    blocks = list(prepare(images, np.float64))
    assert [block.shape for block in blocks] == [(256, 64, 64, 3), (44, 64, 64, 3)]
    found = np.concatenate(blocks)
    for index in (0, 255, 256, 299):
        peer = Image.fromarray(images[index, ..., 0]).resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[index, ..., 0], np.asarray(peer), atol=6e-5)
    x = found[..., 0] / 0.02
    stretched = np.log(x + np.sqrt(x * x + 1)) / math.log(50 + math.sqrt(2501))
    np.testing.assert_allclose(found[..., 1], stretched, atol=1e-13)
    laplacian = ndimage.laplace(found[..., 0], mode="nearest", axes=(1, 2))
    np.testing.assert_allclose(np.sinh(found[..., 2]) * 0.003, -laplacian / 4, atol=1e-12)
    assert next(prepare(images)).dtype == np.float32


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 64, 64), "add the channel axis"),
        ((2, 64, 64, 3), "3 channels: the lens extractor takes 1"),
        ((2, 64, 48, 1), "64 x 48 pixels: the lens extractor takes squares of 32 to 150 pixels"),
        ((2, 31, 31, 1), "31 x 31 pixels"),
        ((2, 151, 151, 1), "151 x 151 pixels"),
        ((0, 64, 64, 1), r"shape \(0, 64, 64, 1\)"),
    ],
)
def test_images_of_another_shape_are_refused_before_anything_is_done(shape, message):
    with pytest.raises(ValueError, match=message):
        prepare(np.zeros(shape))


def test_values_out_of_range_are_refused():
    for value in (1.01, -0.01, np.nan):
        images = np.full((2, 32, 32, 1), 0.5)
        images[1, 3, 4] = value
        with pytest.raises(ValueError, match="image 1 has"):
            prepare(images)


def test_angles_come_in_arcsec():
    values = np.arange(16.0).reshape(2, 8)
    found = in_arcsec(values, 5.0)
    assert list(found) == list(PARAMETERS)
    for index, (name, factor) in enumerate(zip(PARAMETERS, (5, 1, 5, 5, 1, 1, 1, 1), strict=True)):
        np.testing.assert_array_equal(found[name], factor * values[:, index])
    with pytest.raises(ValueError, match=r"shape \(2, 7\)"):
        in_arcsec(values[:, :7], 5.0)
    with pytest.raises(ValueError, match=r"field_of_view = 0\.0"):
        in_arcsec(values, 0.0)


def test_the_committed_weights_are_those_that_were_scored():
    weights, manifest = read_lens_weights()
    assert all(value.dtype == np.float32 for value in weights.values())
    assert (lens_weights.FOLDER / WEIGHTS).stat().st_size < 2_000_000
    assert manifest["command"].startswith("python -m torch_impl.train_lens_extractor")
    for name in ("lensing, 64 px, 7.5 arcsec", "lensing, 32 px, 5.0 arcsec"):
        assert manifest["held_out"][name]["count"] >= 3000 and manifest["held_out"][name]["r2"]["theta_e"] > 0.99


def copied(folder):
    for name in (WEIGHTS, MANIFEST):
        shutil.copy(lens_weights.FOLDER / name, folder / name)
    return folder


def refused(folder) -> str:
    with pytest.raises(ValueError) as error:
        read_lens_weights(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_were_tampered_with_are_refused_in_one_line(tmp_path):
    path = copied(tmp_path) / WEIGHTS
    assert read_lens_weights(tmp_path)[1]["sha256"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a valid file still, one bit of one weight changed
    assert "SHA-256" in refused(tmp_path) and "not the weights that were scored" in refused(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "SHA-256" in refused(tmp_path)
    path.unlink()
    assert "no such file" in refused(tmp_path)
    (copied(tmp_path) / MANIFEST).unlink()
    assert MANIFEST in refused(tmp_path)


def test_weights_of_another_network_are_refused_even_with_their_hash(tmp_path):
    weights = initial_weights(0)
    del weights["conv4.bias"]
    with pytest.raises(ValueError, match=r"missing conv4\.bias"):
        write_lens_weights(tmp_path, weights, {})
    assert not list(tmp_path.iterdir())
    write_tensors(tmp_path / WEIGHTS, weights)
    (tmp_path / MANIFEST).write_text(json.dumps({"sha256": file_hash(tmp_path / WEIGHTS)}))
    assert "missing conv4.bias" in refused(tmp_path)


def test_what_is_written_is_read(tmp_path):
    weights = initial_weights(5)
    write_lens_weights(tmp_path / "new", weights, {"command": "none"})
    found, manifest = read_lens_weights(tmp_path / "new")
    assert found.keys() == weights.keys() and all((found[n] == w).all() for n, w in weights.items())
    assert list(manifest) == ["sha256", "command"] and len(manifest["sha256"]) == 64
