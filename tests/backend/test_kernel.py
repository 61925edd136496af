"""The compiled GroupNorm against the framework's own operations in float64, and a machine without it."""

import logging
import math

import numpy as np
import pytest

from core.networks import group_norm as core_kernel
from core.networks.group_norm import _library, has_kernel

# Below BLOCK pixels and above, one block and several, fewer channels than a row of the kernel and more, one pixel.
SHAPES = [(3, 5, 7, 8), (1, 40, 30, 16), (2, 1, 1, 6), (2, 17, 16, 132)]
TOLERANCES = {"float64": 1e-12, "float32": 2e-5}  # sums of up to 18,000 terms


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def in_torch(groups, x, activation, condition, dy, compiled, monkeypatch):
    import torch

    from torch_impl import kernel

    layer = torch.nn.GroupNorm(groups, x.shape[-1], eps=1e-5, dtype=torch.from_numpy(x).dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.from_numpy(random(x.shape[-1], seed=8 + seed).astype(np.float32)))
    given = {
        name: torch.tensor(value, dtype=layer.weight.dtype, requires_grad=True) for name, value in condition.items()
    }
    image = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    function = getattr(torch.nn.functional, activation) if activation else None
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "SMALLEST", 0 if compiled else math.inf)
        y = kernel.group_norm(layer, image, function, **given)
        variables = [image, *given.values(), layer.weight, layer.bias]
        found = torch.autograd.grad(y, variables, torch.from_numpy(dy.astype(x.dtype)).permute(0, 3, 1, 2))
    return [v.detach().permute(0, 2, 3, 1).numpy() if v.ndim == 4 else v.detach().numpy() for v in (y, *found)]


def in_tensorflow(groups, x, activation, condition, dy, compiled, monkeypatch):
    import tensorflow as tf

    from tf_impl import kernel
    from tf_impl.layers import ACTIVATIONS, GroupNorm

    layer = GroupNorm(groups, x.shape[-1], 1e-5, str(x.dtype))
    for seed, variable in enumerate((layer.gamma, layer.beta)):
        variable.assign(random(x.shape[-1], seed=8 + seed).astype(np.float32))
    image, given = tf.constant(x), {name: tf.constant(value, x.dtype) for name, value in condition.items()}
    with kernel.compiled_layers(compiled), tf.GradientTape() as tape:
        tape.watch([image, *given.values()])
        y = kernel.group_norm(layer, image, ACTIVATIONS.get(activation), **given)
    variables = [image, *given.values(), layer.gamma.value, layer.beta.value]
    return [v.numpy() for v in (y, *tape.gradient(y, variables, tf.constant(dy, x.dtype)))]


def results(backend, groups, x, activation, condition, dy, compiled, monkeypatch):
    """The output, and the gradients of x, of the condition, and of the weight and the bias."""
    framework = {"torch": in_torch, "tensorflow": in_tensorflow}[backend.name]
    found = framework(groups, x, activation, condition, dy, compiled, monkeypatch)
    return [value.astype(np.float64) for value in found]


@pytest.mark.parametrize("given", [(), ("offset",), ("scale", "shift")], ids=["plain", "offset", "scale"])
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_frameworks_operations(
    backend, compiler, shape, groups, activation, given, monkeypatch
):
    x, dy = 2 * random(*shape) + 5, random(*shape, seed=1)
    condition = {name: random(shape[0], shape[-1], seed=2 + i) for i, name in enumerate(given)}
    expected = results(backend, groups, x, activation, condition, dy, False, monkeypatch)
    for dtype, tolerance in TOLERANCES.items():
        found = results(backend, groups, x.astype(dtype), activation, condition, dy, True, monkeypatch)
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


def test_a_mean_far_from_zero_costs_no_more_digits_than_in_the_framework(backend, compiler, monkeypatch):
    """The variance is that of differences from the first pixels' mean; a mean of squares would lose every digit."""
    x, dy = (random(2, 32, 32, 8) + 3000).astype(np.float32), random(2, 32, 32, 8, seed=1).astype(np.float32)
    found, theirs = (results(backend, 2, x, "silu", {}, dy, compiled, monkeypatch) for compiled in (True, False))
    exact = results(backend, 2, x.astype(np.float64), "silu", {}, dy, False, monkeypatch)
    for a, b, c in zip(found, theirs, exact, strict=True):
        assert np.abs(a - c).max() <= 2 * np.abs(b - c).max() + 1e-6 * np.abs(c).max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_makes_its_group_so(backend, compiler, value, monkeypatch):
    x = random(2, 6, 6, 4).astype(np.float32)
    x[1, 2, 2, 3] = value
    y, *_ = results(backend, 2, x, "silu", {}, np.ones_like(x), True, monkeypatch)
    assert np.isnan(y[1, ..., 2:]).all() and np.isfinite(y[0]).all() and np.isfinite(y[1, ..., :2]).all()


@pytest.mark.parametrize("batch", [1, 5])
def test_the_number_of_threads_changes_no_bit(backend, compiler, batch, monkeypatch):
    x, dy = random(batch, 40, 41, 12).astype(np.float32), random(batch, 40, 41, 12, seed=1)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(
            backend.kernel, "GroupNorm", lambda *sizes, t=threads: core_kernel.GroupNorm(*sizes[:-1], t)
        )
        found.append(results(backend, 3, x, "silu", {"offset": np.ones((batch, 12))}, dy, True, monkeypatch))
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CXX", "no-such-compiler", "GroupNorm is not compiled"),
        ("CXX", "false", "GroupNorm is not compiled (no message)"),
        ("DIPTYCH_KERNEL", "off", ""),
    ],
)
def test_without_the_kernel_the_frameworks_operations_serve(name, value, said, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setattr(core_kernel, "_library", _library.__wrapped__)
    with caplog.at_level(logging.INFO):
        assert not has_kernel()
    assert said in caplog.text and len(caplog.records) == bool(said) and not list(tmp_path.rglob("*.so"))


def test_a_hook_on_the_layer_is_called(backend, compiler):
    """The parity ladder traces PyTorch's layers by hooks."""
    if backend.name != "torch":
        pytest.skip("TensorFlow's layers have no hooks")
    import torch

    x, norm, seen = torch.randn(2, 4, 64, 64), torch.nn.GroupNorm(2, 4), []
    x = x.to(memory_format=torch.channels_last)
    assert x.numel() >= backend.kernel.SMALLEST
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    backend.kernel.group_norm(norm, x, torch.nn.functional.silu)
    assert len(seen) == 1
