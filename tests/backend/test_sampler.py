"""The twin's executor of sampling tables on analytic networks in the framework's own tensors, against NumPy's."""

import dataclasses
import math

import numpy as np
import pytest

from core.checkpoints.trained import of_recipe
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import Row, SamplingTable, run
from core.inference.generator import Generator
from core.inference.sampling import KeyedNoise
from core.networks.specs import param_specs
from core.twin import Twin
from eval.parity.closeness import NotCloseError, require_close
from eval.parity.tolerances import NETWORK_BF16, NETWORK_FLOAT32, SAMPLER_FLOAT32, SAMPLER_FLOAT64
from tests.numpy_unet import NumpyUNet

SHAPE = (3, 4, 6, 2)
T = 60
TOLERANCES = {"float64": SAMPLER_FLOAT64, "float32": SAMPLER_FLOAT32}
SAMPLERS = {
    "ddpm-small": SamplingConfig("ddpm", 20),
    "ddpm-large": SamplingConfig("ddpm", 20, variance="fixed_large"),
    "ddim": SamplingConfig("ddim", 20),
    "ddim-half": SamplingConfig("ddim", 20, eta=0.5),
    "ddim-unclipped": SamplingConfig("ddim", 20, eta=0.5, clip=False),
    "dpmsolver++": SamplingConfig("dpmsolver++", 20),
    "dpmsolver++2s": SamplingConfig("dpmsolver++2s", 20),
    "dpmsolver++3m": SamplingConfig("dpmsolver++3m", 20),
    "sde-dpmsolver++": SamplingConfig("sde-dpmsolver++", 20),
    "unipc": SamplingConfig("unipc", 20, order=3, dynamic_threshold=0.8),
    "ipndm": SamplingConfig("ipndm", 20),
    "heun": SamplingConfig("heun", 20),
    "heun-churned": SamplingConfig("heun", 20, churn=2.0, churn_noise=1.01),
    "flow_heun": SamplingConfig("flow_heun", 20, clip=False),
}
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = {"gaussian": "v", "mixture": "eps"}
PROCESSES = {name: make_process(ProcessConfig(T, prediction=PREDICTIONS[name])) for name in PREDICTIONS}


def gaussian(ops, x, signal, noise):
    """The optimal v for data N(0.3, 0.4^2): eps_hat and x_hat are the posterior means."""
    variance = signal**2 * 0.16 + noise**2
    x_hat = 0.3 + signal * 0.16 / variance * (x - signal * 0.3)
    eps_hat = noise / variance * (x - signal * 0.3)
    return signal * eps_hat - noise * x_hat


def mixture(ops, x, signal, noise):
    """The optimal eps for pixels that are -0.6 or 0.8 in equal shares, with deviation 0.1."""
    variance = signal**2 * 0.01 + noise**2
    # Log odds of the two components given x.
    low, high = x + signal * 0.6, x - signal * 0.8
    right = 1 / (1 + ops.exp((high**2 - low**2) / (2 * variance)))
    return noise / variance * (right * high + (1 - right) * low)


NETWORKS = {"gaussian": gaussian, "mixture": mixture}


def numpy_network(name):
    signal, noise = PROCESSES[name].signal, PROCESSES[name].noise
    # Between levels, as churn asks, float32 may round t up to one: both take that level.
    return lambda x, t: NETWORKS[name](np, x, signal[int(np.float32(t))], noise[int(np.float32(t))])


def native_network(backend, name, dtype):
    """The same function of the framework's tensors."""
    process = PROCESSES[name]
    signal, noise = (backend.tensor(values.astype(dtype)) for values in (process.signal, process.noise))
    if backend.name == "torch":
        import torch

        class Analytic(torch.nn.Module):
            def forward(self, x, t):
                return NETWORKS[name](torch, x, signal[t.long()], noise[t.long()])

        return Analytic()
    import tensorflow as tf

    def analytic(x, t):
        level = tf.cast(t, tf.int64)
        return NETWORKS[name](tf, x, tf.gather(signal, level), tf.gather(noise, level))

    return analytic


def noise(dtype):
    return lambda row: np.random.default_rng([5, row]).standard_normal(SHAPE).astype(dtype)


def x_start(dtype):
    return np.random.default_rng(4).standard_normal(SHAPE).astype(dtype)


@pytest.fixture(scope="module")
def executors(backend):
    """One executor a network and precision: one trace each."""
    make = backend.sampler.Network
    return {(n, d): make(native_network(backend, n, d)).bind() for n in NETWORKS for d in TOLERANCES}


def noting(calls):
    """A hook that notes rows and predicted images, and changes nothing."""

    def after(row, x, x_0):
        calls.append((row, x_0))
        return x

    return after


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_executor_equals_numpys(executors, network, sampler, spacing, dtype):
    table = make_table(PROCESSES[network], dataclasses.replace(SAMPLERS[sampler], spacing=spacing))
    calls, means, wide = [], [], noise(dtype)
    found = executors[network, dtype].run(table, x_start(dtype), noise(dtype), after=noting(calls))
    expected = run(
        table,
        numpy_network(network),
        x_start(dtype).astype(np.float64),
        lambda row: wide(row).astype(np.float64),
        after=noting(means),
    )
    require_close(found, expected, TOLERANCES[dtype], "image", dtype)
    assert [row for row, _ in calls] == [row for row, _ in means] == [*range(table.nfe)]
    for (_, ours), (_, theirs) in zip(calls, means, strict=True):
        require_close(ours, theirs, TOLERANCES[dtype], "predicted image", dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_ddim_of_gaussian_data_has_the_closed_form(executors, dtype):
    """DDIM's exact flow for N(m, s^2) is m + s (x_T - signal_T m) / deviation_T; 60 steps come near it."""
    process = PROCESSES["gaussian"]
    table = make_table(process, SamplingConfig("ddim", T, clip=False))
    found = executors["gaussian", dtype].run(table, x_start(dtype), noise(dtype))
    deviation = math.sqrt(process.signal[-1] ** 2 * 0.16 + process.noise[-1] ** 2)
    exact = 0.3 + 0.4 * (x_start("float64") - process.signal[-1] * 0.3) / deviation
    require_close(found, exact, 0.05, "flow", dtype)


def test_noise_is_asked_for_only_where_a_row_adds_it(executors):
    asked = []

    def counted(row):
        asked.append(row)
        return noise("float64")(row)

    for sampler, rows in (("ddpm-small", range(19)), ("ddim", range(0)), ("dpmsolver++", range(0))):
        asked.clear()
        executors["gaussian", "float64"].run(
            make_table(PROCESSES["gaussian"], SAMPLERS[sampler]), x_start("float64"), counted
        )
        assert asked == list(rows)


def test_a_table_of_any_form(executors):
    """Three entries of history, the raw column, no clipping to speak of, and noise: row by row by hand."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (3, 4), (2, 5), (1, 4)]
    rows = tuple(Row(float(7 * i), 0.3 + i, 0.2 - i, rng.standard_normal(s), 0.1 * i) for i, s in enumerate(shapes))
    table = SamplingTable(rows, True, "any")
    x, f = x_start("float64"), numpy_network("mixture")
    state = [x]
    for i, row in enumerate(rows):
        raw = row.p * state[0] + row.q * f(state[0], row.t)
        entries = np.stack([*state, np.clip(raw, -1, 1), raw])
        state = list(np.einsum("ij,j...->i...", row.matrix, entries))
        state[0] = state[0] + row.s * noise("float64")(i)
    found = executors["mixture", "float64"].run(table, x, noise("float64"))
    require_close(found, state[0], SAMPLER_FLOAT64, "image")


def test_learned_variance_start_threshold_and_edit(backend):
    """A network with twice the channels; every entry of the form that the samplers above leave alone."""
    x = x_start("float64")

    def doubled(ops, x, axis):
        output = [ops.sin(3 * x), ops.cos(x)]
        return ops.cat(output, axis) if hasattr(ops, "cat") else ops.concat(output, axis)

    if backend.name == "torch":
        import torch

        class Doubled(torch.nn.Module):
            def forward(self, x, t):
                return doubled(torch, x, 1)

        network = Doubled()
    else:
        import tensorflow as tf

        def network(x, t):
            return doubled(tf, x, -1)

    rows = (
        Row(5.0, 0.2, 2.5, np.array([[0.5, 0.7, 0.0]]), 0.1, 0.6),
        Row(2.0, 0.1, 1.5, np.array([[0.2, 0.9, 0.0]]), 0.05, 0.2),
        Row(0.0, 0.1, 1.5, np.array([[0.0, 1.0, 0.0]]), 0.0),
    )
    table = SamplingTable(rows, True, "learned", start=1.3, quantile=0.75)

    def after(row, x, x_0):
        return x * np.linspace(0.5, 1, x.shape[2])[:, None] if row < 2 else x

    def in_numpy(x, t):
        return np.concatenate([np.sin(3 * x), np.cos(x)], axis=-1)

    expected = run(table, in_numpy, x, noise("float64"), after=after)
    found = backend.sampler.Network(network).bind().run(table, x, noise("float64"), after=after)
    require_close(found, expected, SAMPLER_FLOAT64, "image")
    assert np.max(np.abs(expected)) == 1.0 and not np.allclose(expected, run(table, in_numpy, x, noise("float64")))


MODEL = ModelConfig(
    (4, 6),
    2,
    2,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
    num_class_embeds=3,
    dropout=0.5,
)


def test_the_unet_with_labels_fractional_levels_and_no_dropout(backend):
    rng = np.random.default_rng(0)
    weights = {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(MODEL).items()}
    network, reference = backend.sampler.make_network(MODEL, weights, "float64"), NumpyUNet(MODEL, weights)
    table = make_table(PROCESSES["gaussian"], SamplingConfig("ddim", 3, eta=0.5))
    # A third is no float32: a level rounded on the way to the network would show.
    rows = tuple(Row(row.t + 1 / 3, row.p, row.q, row.matrix, row.s) for row in table.rows)
    table, labels = SamplingTable(rows, True, "fractional"), np.array([2, 0, 1])
    expected = run(table, lambda x, t: reference(x, t, labels), x_start("float64"), noise("float64"))
    for count in (3, 1):
        keyed = noise("float64")
        bound = network.bind({"labels": labels[:count]})
        found = bound.run(table, x_start("float64")[:count], lambda row, n=count, k=keyed: k(row)[:n])
        require_close(found, expected[:count], SAMPLER_FLOAT64, f"{count} images")


def test_bf16_is_near_float32_and_the_image_stays_in_float32(backend):
    rng = np.random.default_rng(0)
    weights = {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(MODEL).items()}
    make, given = Twin(repr(backend)).make_network, {"labels": np.array([2, 0, 1])}
    half, full = (make(MODEL, weights, dtype).bind(given) for dtype in ("bf16", "float32"))
    table, seen = make_table(PROCESSES["gaussian"], SamplingConfig("ddpm", 3)), []
    found, expected = (
        network.run(table, x_start("float32"), noise("float32"), after=noting(seen)) for network in (half, full)
    )
    assert {x_0.dtype for _, x_0 in seen} == {np.dtype("float32")} and found.dtype == np.float32
    require_close(found, expected, NETWORK_BF16, "image")
    with pytest.raises(NotCloseError):
        require_close(found, expected, NETWORK_FLOAT32, "image")


@pytest.fixture(scope="module")
def generator(backend):
    """A generator of images of 4 x 8 pixels, whose network is a formula."""
    recipe = Recipe(ModelConfig((4, 8), 2, 2), ProcessConfig(T, prediction="v"))
    trained = of_recipe(recipe, {})
    return Generator(backend.sampler.Network(native_network(backend, "gaussian", "float32")), trained)


def drawn(generator, sampler, noise, seed=0, n=5, batch_size=3):
    sampling = SamplingConfig(sampler, 4, noise=noise, batch_size=batch_size)
    return generator.draw(range(n), seed, {}, sampling)


def test_noise_of_the_device_repeats_by_seed_and_depends_on_the_batch(generator):
    found = drawn(generator, "ddpm", "device")
    assert np.array_equal(found, drawn(generator, "ddpm", "device"))
    for other in (
        drawn(generator, "ddpm", "device", seed=1),
        drawn(generator, "ddpm", "device", batch_size=2),
        drawn(generator, "ddpm", "host"),
    ):
        assert not np.array_equal(found, other)
    assert np.array_equal(drawn(generator, "ddim", "device"), drawn(generator, "ddim", "host"))  # it adds no noise


def test_noise_of_the_device_is_standard_normal_and_independent(backend, generator):
    """Limits of five standard deviations; of the mean, the variance, and the correlations of images and of rows."""
    noise, network = KeyedNoise(7, range(8), (100, 100, 2), "float64", on_device=True), generator.twin_network
    one, two = (backend.array(noise.step(network, np.arange(8), row)) for row in (0, 1))
    assert one.shape == (8, 100, 100, 2) and one.dtype == np.float64
    assert abs(one.mean()) < 5 / math.sqrt(one.size) and abs(one.var() - 1) < 5 * math.sqrt(2 / one.size)
    assert abs((one**4).mean() - 3) < 5 * math.sqrt(96 / one.size)
    assert abs((one[1:] * one[:-1]).mean()) < 5 / math.sqrt(one[1:].size)
    assert abs((one * two).mean()) < 5 / math.sqrt(one.size)
