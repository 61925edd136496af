"""Each layer of the twin against the float64 NumPy reference, non-square and with weights that have no symmetry."""

import dataclasses
import math

import numpy as np
import pytest

from core.config import ModelConfig
from core.networks.unet import AttentionPlan, ResnetPlan
from eval.parity.closeness import require_close
from eval.parity.tolerances import (
    GROUP_NORM_OFFSET_FLOAT32,
    LAYER_FLOAT32,
    LAYER_FLOAT64,
)
from tests import numpy_unet
from tests.numpy_unet import NumpyUNet

TOLERANCES = {"float64": LAYER_FLOAT64, "float32": LAYER_FLOAT32}
CONFIG = ModelConfig((8, 12), norm_num_groups=4, block_out_channels=(8, 16, 16), attention_head_dim=4)
TIME = 32
BOTH = pytest.mark.parametrize("dtype", TOLERANCES)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def resnet_weights(c_in, c_out, scale_shift):
    shapes = {
        "norm1": (c_in,),
        "conv1": (c_out, c_in, 3, 3),
        "time_emb_proj": (c_out * (1 + scale_shift), TIME),
        "norm2": (c_out,),
        "conv2": (c_out, c_out, 3, 3),
        **({"conv_shortcut": (c_out, c_in, 1, 1)} if c_in != c_out else {}),
    }
    return layered(shapes)


def layered(shapes):
    """Random weights and biases of layers, by the shape of each weight."""
    weights = {f"{name}.weight": random(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    biases = {f"{name}.bias": random(shape[0], seed=100 + i) for i, (name, shape) in enumerate(shapes.items())}
    return {**weights, **biases}


def check(backend, layer, weights, inputs, expected, dtype):
    """Both sides get the same rounded arrays, so that only the layer's arithmetic is compared."""
    found = backend.apply(layer, {n: w.astype(dtype) for n, w in weights.items()}, *(x.astype(dtype) for x in inputs))
    wide = {n: w.astype(dtype).astype(np.float64) for n, w in weights.items()}
    oracle = expected(wide, *(x.astype(dtype).astype(np.float64) for x in inputs))
    return require_close(found, oracle, TOLERANCES[dtype], "output", dtype)


@BOTH
@pytest.mark.parametrize("shift", (0, 1))
@pytest.mark.parametrize("flip", (False, True))
def test_time_embedding(backend, flip, shift, dtype):
    """In float32 the angle t * frequency has a rounding error of up to 999 * 6e-8."""
    config = dataclasses.replace(CONFIG, flip_sin_to_cos=flip, freq_shift=shift)
    weights = layered({"linear_1": (TIME, 8), "linear_2": (TIME, TIME)})
    t = np.array([0.0, 1.0, 500.25, 999.0])

    def expected(w, t):
        return NumpyUNet(config, {f"time_embedding.{n}": v for n, v in w.items()}).time(t)

    layer = backend.layer("TimeEmbedding", config, TIME, dtype=dtype)
    if dtype == "float64":
        check(backend, layer, weights, [t], expected, dtype)
    else:
        found = backend.apply(layer, {n: w.astype(dtype) for n, w in weights.items()}, t.astype(dtype))
        require_close(found, expected(weights, t), 999 * 2.0**-24 * 4, "float32 embedding", dtype)


@BOTH
def test_upsample_is_nearest_and_a_padded_convolution(backend, dtype):
    x = random(2, 3, 5, 8)
    check(backend, backend.layer("Upsample", dtype=dtype), {}, [x], lambda w, x: numpy_unet.nearest_x2(x), dtype)

    def expected(w, x):
        return numpy_unet.conv2d(numpy_unet.nearest_x2(x), w["conv.weight"], w["conv.bias"], before=1, after=1)

    check(backend, backend.layer("Upsample", 8, dtype=dtype), layered({"conv": (8, 8, 3, 3)}), [x], expected, dtype)


@BOTH
@pytest.mark.parametrize("size", ((8, 12), (2, 6)))
@pytest.mark.parametrize("padding", (0, 1))
def test_downsample_pads_as_asked(backend, padding, size, dtype):
    """The rule SAME pads an even image by (0, 1): right for padding 0, wrong for padding 1."""
    x = random(2, *size, 8)

    def expected(w, x):
        return numpy_unet.conv2d(x, w["conv.weight"], w["conv.bias"], stride=2, before=padding, after=1)

    layer = backend.layer("Downsample", 8, padding, dtype=dtype)
    check(backend, layer, layered({"conv": (8, 8, 3, 3)}), [x], expected, dtype)


@BOTH
def test_downsample_without_a_convolution_is_the_mean(backend, dtype):
    layer = backend.layer("Downsample", dtype=dtype)
    check(backend, layer, {}, [random(2, 4, 6, 8)], lambda w, x: numpy_unet.mean_2x2(x), dtype)


RESNETS = {  # plan, options of the configuration
    "plain": (ResnetPlan("b", 8, 8), {}),
    "shortcut": (ResnetPlan("b", 8, 16), {"norm_eps": 0.3}),
    "scale_shift": (ResnetPlan("b", 16, 8), {"resnet_time_scale_shift": "scale_shift"}),
    "up": (ResnetPlan("b", 8, 8, "up"), {"act_fn": "gelu"}),
    "down": (ResnetPlan("b", 8, 16, "down", 2**0.5), {"resnet_time_scale_shift": "scale_shift", "act_fn": "gelu"}),
    "dropout": (ResnetPlan("b", 8, 8), {"dropout": 0.5}),  # off unless training
}


@BOTH
@pytest.mark.parametrize("name", RESNETS)
def test_residual_block(backend, name, dtype):
    plan, options = RESNETS[name]
    config = dataclasses.replace(CONFIG, **options)
    weights = resnet_weights(plan.in_channels, plan.out_channels, config.resnet_time_scale_shift == "scale_shift")
    resample = {"up": numpy_unet.nearest_x2, "down": numpy_unet.mean_2x2, None: lambda x: x}[plan.resample]

    def expected(w, x, time):
        net = NumpyUNet(config, {f"b.{n}": v for n, v in w.items()})
        return net.resnet("b", x, time, resample, plan.scale_factor)

    layer = backend.layer("ResnetBlock", plan, config, TIME, dtype=dtype)
    check(backend, layer, weights, [random(2, 4, 6, plan.in_channels), random(2, TIME, seed=1)], expected, dtype)


@BOTH
@pytest.mark.parametrize(("heads", "groups", "divisor"), [(1, 4, 1.0), (4, 4, 1.0), (2, None, 1.0), (4, 2, 2**0.5)])
def test_attention(backend, heads, groups, divisor, dtype):
    config = dataclasses.replace(CONFIG, attention_head_dim=16 // heads)
    parts = {**({"group_norm": (16,)} if groups else {}), **{f"to_{p}": (16, 16) for p in "qkv"}, "to_out.0": (16, 16)}
    weights = layered(parts)

    def expected(w, x):
        return NumpyUNet(config, {f"a.{n}": v for n, v in w.items()}).attention("a", x, groups, divisor)

    layer = backend.layer("Attention", AttentionPlan("a", 16, heads, groups, divisor), config, dtype=dtype)
    # Scores of the softmax are 16 standard deviations wide: a scale left out or taken twice shows.
    check(backend, layer, weights, [random(2, 3, 5, 16)], expected, dtype)


@BOTH
@pytest.mark.parametrize("name", ("silu", "gelu"))
def test_activations(backend, name, dtype):
    x = np.linspace(-9, 9, 1001)
    by_hand = [
        v / (1 + math.exp(-v)) if name == "silu" else v / 2 * math.erfc(-v / math.sqrt(2)) for v in x.astype(dtype)
    ]
    found = backend.array(backend.layers.ACTIVATIONS[name](backend.tensor(x.astype(dtype))))
    require_close(found, np.array(by_hand), {"float64": 1e-15, "float32": 1e-6}[dtype], name, dtype)


def group_norm(backend, groups, channels, eps, dtype):
    """The norm that a residual block makes."""
    config = dataclasses.replace(CONFIG, norm_num_groups=groups, norm_eps=eps, block_out_channels=(8, 16, 16))
    return backend.layer("ResnetBlock", ResnetPlan("b", channels, channels), config, TIME, dtype=dtype).norm1


@BOTH
@pytest.mark.parametrize("eps", (1e-6, 1e-5, 0.5))
@pytest.mark.parametrize("groups", (1, 2, 8))
def test_group_norm(backend, groups, eps, dtype):
    """Channels of unequal mean and spread, the first with deviation 1e-3, where eps matters."""
    x = random(3, 4, 6, 8) * np.linspace(0.001, 2, 8) + np.linspace(-1, 1, 8) * (groups < 8)
    weights = {"weight": random(8, seed=1), "bias": random(8, seed=2)}

    def expected(w, x):
        return numpy_unet.group_norm(x, groups, w["weight"], w["bias"], eps)

    check(backend, group_norm(backend, groups, 8, eps, dtype), weights, [x], expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("mean", (30.0, 300.0, 3000.0))
def test_group_norm_far_from_zero(backend, mean, dtype):
    """Mean of squares minus squared mean would lose (mean / deviation)^2 of the precision: all of it at 3000."""
    x = (random(2, 16, 16, 8) + mean).astype(dtype)
    weights = {"weight": np.ones(8, dtype), "bias": np.zeros(8, dtype)}
    found = backend.apply(group_norm(backend, 4, 8, 1e-5, dtype), weights, x)
    expected = numpy_unet.group_norm(x.astype(np.float64), 4, 1.0, 0.0, 1e-5)
    tolerance = {"float64": LAYER_FLOAT64 * mean, "float32": GROUP_NORM_OFFSET_FLOAT32[mean]}[dtype]
    require_close(found, expected, tolerance, f"mean {mean}", dtype)
