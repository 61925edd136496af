"""PyTorch's compiled GroupNorm against PyTorch's own operations in float64, and a machine without it."""

import logging
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.networks import group_norm as core_kernel
from core.networks.group_norm import _library, has_kernel
from torch_impl import kernel

# Below BLOCK pixels and above, one block and several, fewer channels than a row of the kernel and more, one pixel.
SHAPES = [(3, 8, 5, 7), (1, 16, 40, 30), (2, 6, 1, 1), (2, 132, 17, 16)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}  # sums of up to 18,000 terms


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def results(groups, x, activation, condition, dy, compiled, monkeypatch):
    """The output, and the gradients of x, of the condition, and of the weight and the bias."""
    layer = torch.nn.GroupNorm(groups, x.shape[1], eps=1e-5).to(x.dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(random(x.shape[1], seed=8 + seed).float())
    given = {name: value.to(x.dtype).requires_grad_() for name, value in condition.items()}
    image = x.clone(memory_format=torch.channels_last).requires_grad_()
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "SMALLEST", 0 if compiled else math.inf)
        y = kernel.group_norm(layer, image, activation, **given)
        found = torch.autograd.grad(y, [image, *given.values(), layer.weight, layer.bias], dy.to(x.dtype))
    return [value.detach().double() for value in (y, *found)]


@pytest.mark.parametrize("given", [(), ("offset",), ("scale", "shift")], ids=["plain", "offset", "scale"])
@pytest.mark.parametrize("activation", [None, F.silu, F.gelu])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_pytorchs_operations(compiler, shape, groups, activation, given, monkeypatch):
    x, dy = 2 * random(*shape) + 5, random(*shape, seed=1)
    condition = {name: random(*shape[:2], seed=2 + i) for i, name in enumerate(given)}
    expected = results(groups, x, activation, condition, dy, False, monkeypatch)
    for dtype, tolerance in TOLERANCES.items():
        found = results(groups, x.to(dtype), activation, condition, dy, True, monkeypatch)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())))


def test_a_mean_far_from_zero_costs_no_more_digits_than_in_pytorch(compiler, monkeypatch):
    """The variance is that of differences from the first pixels' mean; a mean of squares would lose all digits here."""
    x, dy = (random(2, 8, 32, 32) + 3000).float(), random(2, 8, 32, 32, seed=1).float()
    found, theirs = (results(2, x, F.silu, {}, dy, compiled, monkeypatch) for compiled in (True, False))
    exact = results(2, x.double(), F.silu, {}, dy, False, monkeypatch)
    for a, b, c in zip(found, theirs, exact, strict=True):
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + 1e-6 * c.abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_makes_its_group_so(compiler, value, monkeypatch):
    x = random(2, 4, 6, 6).float()
    x[1, 3, 2, 2] = value
    y, *_ = results(2, x, F.silu, {}, torch.ones_like(x), True, monkeypatch)
    assert y[1, 2:].isnan().all() and y[0].isfinite().all() and y[1, :2].isfinite().all()


@pytest.mark.parametrize("batch", [1, 5])
def test_the_number_of_threads_changes_no_bit(compiler, batch, monkeypatch):
    x, dy = random(batch, 12, 40, 41).float(), random(batch, 12, 40, 41, seed=1).float()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(results(3, x, F.silu, {"offset": torch.ones(batch, 12)}, dy, True, monkeypatch))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


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


def test_a_hook_on_the_layer_is_called():
    """The parity ladder traces layers by hooks."""
    x, norm, seen = torch.randn(2, 4, 64, 64), torch.nn.GroupNorm(2, 4), []
    x = x.to(memory_format=torch.channels_last)
    assert x.numel() >= kernel.SMALLEST
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    kernel.group_norm(norm, x, F.silu)
    assert len(seen) == 1
