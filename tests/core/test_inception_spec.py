"""Inception's plan, parameters and input: counts, the graph's names, folding and both resizes, without a network."""

import hashlib
import json
import math

import numpy as np
import pytest

from core.extractors.inception import (
    NORM_EPS,
    STAGES,
    Fork,
    Pool,
    check_inception,
    convolutions,
    folded,
    inception_shapes,
)
from core.extractors.inception_graph import graph_constants
from core.extractors.inception_input import input_matrices
from eval.parity.closeness import require_close
from eval.parity.tolerances import TABLE
from tests.inception_weights import random_weights


@pytest.fixture(scope="module")
def weights():
    return random_weights()


def test_the_parameters_fill_the_published_file():
    """Its size is 95,628,359 bytes: float32, and less than 200 bytes a tensor for names and shapes."""
    shapes = inception_shapes()
    bytes_of_values = 4 * sum(math.prod(shape) for shape in shapes.values())
    assert len(shapes) == 94 * 5 + 2 and len(list(convolutions())) == 94
    assert 0 < 95_628_359 - bytes_of_values < 200 * len(shapes)


def test_channels_and_sizes_follow_through_the_network():
    """Each layer's input is the output before it; 299 pixels become 8."""

    def follow(layers, channels: int, size: int) -> tuple[int, int]:
        for layer in layers:
            if isinstance(layer, Fork):
                ends = [follow(branch, channels, size) for branch in layer.branches]
                assert len({end[1] for end in ends}) == 1
                channels, size = sum(end[0] for end in ends), ends[0][1]
            elif isinstance(layer, Pool):
                size = size if layer.stride == 1 else (size - 3) // 2 + 1
            else:
                assert layer.in_channels == channels, layer.name
                channels = layer.out_channels
                size = size if layer.padded else (size - layer.kernel[0]) // layer.stride + 1
        return channels, size

    channels, size, sizes = 3, 299, []
    for stage in STAGES:
        channels, size = follow(stage.layers, channels, size)
        assert channels == stage.width == int(stage.tap)
        sizes.append(size)
    assert sizes == [73, 35, 17, 8]  # as torch-fidelity notes them


def test_what_differs_from_the_paper_is_there():
    pools = [branch[0].kind for layer in STAGES[3].layers for branch in layer.branches if isinstance(branch[0], Pool)]
    assert pools == ["max", "average", "max"] and NORM_EPS == 1e-3


def test_the_graph_has_a_constant_for_every_parameter():
    """The list of torch-fidelity's utils/util_convert_inception_weights.py, as a digest, and some of it to read.

    Made from its dictionary, `/gamma`, `/beta`, `/moving_mean` and `/moving_variance` written out, by
    sha256(json.dumps(sorted(list))).
    """
    constants = graph_constants()
    assert constants.keys() == inception_shapes().keys() and len(set(constants.values())) == len(constants)
    some = {
        "Conv2d_4a_3x3.conv.weight": "conv_4/conv2d_params",
        "Mixed_5b.branch5x5_2.bn.weight": "mixed/tower/conv_1/batchnorm/gamma",
        "Mixed_6a.branch3x3.bn.bias": "mixed_3/conv/batchnorm/beta",
        "Mixed_6e.branch7x7dbl_5.bn.running_mean": "mixed_7/tower_1/conv_4/batchnorm/moving_mean",
        "Mixed_7a.branch7x7x3_4.bn.running_var": "mixed_8/tower_1/conv_3/batchnorm/moving_variance",
        "Mixed_7c.branch3x3dbl_3b.conv.weight": "mixed_10/tower_1/mixed/conv_1/conv2d_params",
        "Mixed_7c.branch_pool.conv.weight": "mixed_10/tower_2/conv/conv2d_params",
        "fc.bias": "softmax/biases",
    }
    assert {name: constants[name] for name in some} == some
    digest = hashlib.sha256(json.dumps(sorted(constants.items())).encode()).hexdigest()
    assert digest == "b9c500f1731f2b635cf19aedd6cff5a26dbe3c279a7c9166ba724c5dbe22a047"


def test_folding_is_the_convolution_and_its_norm(weights):
    values = folded(weights)
    assert len(values) == 2 * 94 + 2 and all(value.dtype == np.float64 for value in values.values())
    x = np.random.default_rng(1).standard_normal((5, 768))
    name = "Mixed_6b.branch7x7_1"  # 1x1, so a product
    w = {
        part: weights[f"{name}.{part}"].astype(np.float64)
        for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    }
    h = x @ w["conv.weight"][:, :, 0, 0].T
    expected = w["bn.weight"] * (h - w["bn.running_mean"]) / np.sqrt(w["bn.running_var"] + 0.001) + w["bn.bias"]
    found = x @ values[f"{name}.weight"][:, :, 0, 0].T + values[f"{name}.bias"]
    require_close(found, expected, TABLE, "folded")


def test_other_weights_are_named(weights):
    def wrong(name, value) -> str:
        changed = {**weights, name: value}
        if value is None:
            del changed[name]
        with pytest.raises(ValueError) as caught:
            check_inception(changed, "a file")
        return str(caught.value)

    check_inception(weights, "a file")
    assert "a file: not the weights" in wrong("fc.bias", None) and "missing fc.bias" in wrong("fc.bias", None)
    assert "left over fc.scale" in wrong("fc.scale", np.zeros(1))
    assert "fc.bias has shape (1000,), the network needs (1008,)" in wrong("fc.bias", np.zeros(1000))
    assert "fc.bias holds values that are not finite" in wrong("fc.bias", np.full(1008, np.nan))


def test_legacy_puts_pixel_i_at_i_and_clean_its_centre():
    rows, columns = input_matrices((100, 598, 1), "legacy")
    assert rows.shape == (299, 100) and columns.shape == (299, 598)
    assert (columns == np.eye(598)[::2]).all()  # every second pixel, none averaged
    ramp = rows @ np.arange(100.0)
    np.testing.assert_allclose(ramp, np.minimum(np.arange(299) * 100 / 299, 99), atol=1e-5)  # positions in float32
    rows, columns = input_matrices((100, 598, 3), "clean")
    centre = (np.arange(20, 280) + 0.5) * 100 / 299 - 0.5
    np.testing.assert_allclose((rows @ np.arange(100.0))[20:280], centre, atol=0.04)  # a bicubic of a = -1/2 bends it
    assert np.count_nonzero(columns[150]) > 4  # antialiased
    for how in ("clean", "legacy"):
        assert (input_matrices((299, 299, 1), how)[0] == np.eye(299)).all()


@pytest.mark.parametrize(
    ("shape", "resize", "message"),
    [
        ((8, 8, 2), "clean", "images: 2 channels; Inception takes 3, or 1"),
        ((8, 8, 3), "bilinear", "resize = 'bilinear': must be one of clean, legacy"),
    ],
)
def test_other_input_is_refused(shape, resize, message):
    with pytest.raises(ValueError, match=message):
        input_matrices(shape, resize)
