"""What a step asks of its device. There may be no GPU here: PyTorch's device `meta` stands for one."""

import contextlib
import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.inference.conditioning import no_condition
from core.inference.sampling import COMPILED_FROM, Conditioned, KeyedNoise, run_table
from core.networks.specs import param_specs
from core.training.optim import scalars
from core.training.training import Training

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelConfig(
    (8, 8),
    1,
    1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    mid_block_type=None,
)
# For what does not depend on the network.
SMALL = dataclasses.replace(
    MODEL, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,)
)


def training_of(dropout=0.1, model=MODEL, **options):
    config = TrainingConfig(**{"steps": 6, "batch_size": 4, "warmup_steps": 2, **options})
    images = np.random.default_rng(1).random((12, 8, 8, 1)).astype(np.float32)
    data = Dataset(images, None, (), {}, np.arange(12), np.arange(0), {})
    return Training(Recipe(dataclasses.replace(model, dropout=dropout), ProcessConfig(50), training=config), data)


@pytest.fixture
def meta_trainer(backend, monkeypatch):
    """A trainer on PyTorch's device `meta`, whose tensors have no values: reading one is an error, as is another
    device's tensor among them."""
    if backend.name != "torch":
        pytest.skip("TensorFlow has no such device")
    name = "_get_fused_kernels_supported_devices"
    for place in ("optim.adam", "optim.optimizer", "utils._foreach_utils"):
        module = importlib.import_module(f"torch.{place}")
        if hasattr(module, name):
            monkeypatch.setattr(module, name, lambda: ["meta"])
    torch = importlib.import_module("torch")
    device = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(backend.trainer, "pick_device", lambda *_: device)
    return backend.trainer.Trainer


def test_no_step_waits_for_the_device(meta_trainer):
    """A value read on the way, such as bool(tensor), would make the host wait for a GPU."""
    training = training_of(accumulate=2, ema_profiles=(0.1,), weight_decay=0.1)
    trainer = meta_trainer(training.recipe)
    for step in range(2):
        metrics = training.advance(trainer, step)
    assert {metrics[name].device.type for name in ("loss", "grad_norm", "skipped", "skipped_in_a_row")} == {"meta"}
    with pytest.raises(RuntimeError, match="meta"):
        int(metrics["skipped"])


def test_the_first_step_of_all_may_be_skipped(backend):
    training = training_of(model=SMALL)
    batch, trainer = training.batch(0), backend.trainer.Trainer(training.recipe)
    bad = {**batch, "x_0": np.full_like(batch["x_0"], np.nan)}
    start = trainer.state()
    trainer.step(trainer.put(bad), scalars(training.recipe.training, 0))
    found = []
    for _ in range(2):
        metrics = trainer.step(trainer.put(batch), scalars(training.recipe.training, 1))
        found.append(trainer.state())
        trainer.load(*start)
    assert float(metrics["loss"]) > 0
    (ema, state, counters), (ema_of_other, state_of_other, _) = found
    assert counters == {"adam_steps": 1, "skipped": 1, "skipped_in_a_row": 0}
    assert all(np.array_equal(value, ema_of_other[name]) for name, value in ema.items())
    assert all(np.array_equal(value, state_of_other[name]) for name, value in state.items())


def test_a_device_that_is_not_there_is_refused(backend):
    device, framework = backend.device, {"torch": "PyTorch", "tensorflow": "TensorFlow"}[backend.name]
    assert device.device_name(device.pick_device("cpu")) == "cpu"
    with pytest.raises(ValueError, match=f"device gpu: {framework} finds none here; must be auto or cpu"):
        device.pick_device("gpu")


PLACES = """
import numpy as np, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from core.networks.specs import initial_weights
from tests.backend.test_device import MODEL, training_of
from tf_impl import sampler, trainer
from core.config import SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table

training, found, placed = training_of(accumulate=2, ema_profiles=(0.1,)), [], set()
tables = make_process(training.recipe.process)
for name in ("/CPU:0", "/CPU:1"):
    trainer.pick_device = sampler.pick_device = lambda *_: name
    one = trainer.Trainer(training.recipe)
    metrics = training.advance(one, 0)
    network = sampler.make_network(MODEL, initial_weights(MODEL, 0, "float32"))
    images = network.bind({}).run(make_table(tables, SamplingConfig(steps=2)), np.ones((2, 8, 8, 1), "f"), None)
    tensors = [*one.network.variables, *one.ema_network().module.variables, *network.module.variables]
    tensors += one.put(training.batch(0))[1].values()
    tensors += [one.flat, one.average, *one.profiles, one.exp_avg, one.skipped, metrics["loss"], metrics["grad_norm"]]
    placed = {tensor.device if hasattr(tensor, "device") else tensor.value.device for tensor in tensors}
    assert {place.rsplit("device:", 1)[1] for place in placed} == {name[1:]}, placed
    found.append((float(metrics["loss"]), images.tobytes(), one.state()[1]["params/conv_in.weight"].tobytes()))
assert found[0] == found[1]
print("placed")
"""


@pytest.mark.slow
def test_tensorflow_places_everything_on_the_device_that_is_picked(backend):
    """On the second of two logical CPUs, which a process has to make before its first operation."""
    if backend.name != "tensorflow":
        pytest.skip("in PyTorch a tensor elsewhere is an error of the device meta, above")
    done = subprocess.run([sys.executable, "-c", PLACES], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.endswith("placed\n"), done.stderr[-3000:]


def states(backend, **options):
    """The states after two steps without dropout, of a trainer that is compiled and of one that is not."""
    training, found = training_of(0.0, autocast="tf32", **options), []
    for compiled in (True, False):
        trainer = backend.trainer.Trainer(training.recipe, "cpu", compiled)
        for step in range(2):
            training.advance(trainer, step)
        found.append(trainer.state()[1])
    return found


def test_a_compiled_step_computes_the_same(backend, monkeypatch):
    """XLA itself; of torch.compile what comes before the code generator, without a break in the graph."""
    if backend.name == "torch":
        torch, real = importlib.import_module("torch"), importlib.import_module("torch").compile
        asked = []

        def traced(network, dynamic):
            asked.append(dynamic)
            return real(network, dynamic=dynamic, backend="aot_eager", fullgraph=True)

        monkeypatch.setattr(torch, "compile", traced)
    compiled, eager = states(backend)
    assert backend.name == "tensorflow" or asked == [False]
    for name, value in eager.items():
        # The second moments are squares of gradients of some 1e-3.
        assert np.allclose(compiled[name], value, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_compiler_that_fails_is_named_in_the_log(backend, monkeypatch, caplog, accumulate):
    trainer = backend.trainer.Trainer
    if backend.name == "torch":

        def broken(network, dynamic):
            def call(*arguments, **options):
                raise importlib.import_module("torch")._dynamo.exc.TritonMissing(None)

            return call

        monkeypatch.setattr("torch.compile", broken)
    else:
        errors, real = importlib.import_module("tensorflow").errors, trainer._loss_and_gradients

        def failing(self, batch):
            if self.compiled:
                raise errors.UnimplementedError(None, None, "no such operation in XLA")
            return real(self, batch)

        monkeypatch.setattr(trainer, "_loss_and_gradients", failing)
    fallen_back, eager = states(backend, model=SMALL, accumulate=accumulate)
    (line,) = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert line.startswith(("torch.compile failed, and the training goes on", "XLA failed, and the training goes on"))
    assert all(np.array_equal(fallen_back[name], value) for name, value in eager.items())


def test_nothing_is_compiled_on_a_cpu_unasked(backend):
    trainer = backend.trainer.Trainer(training_of(steps=10_000).recipe, "cpu")
    assert trainer.called is trainer.network if backend.name == "torch" else not trainer.compiled


def test_batches_made_ahead_change_no_bit(backend):
    training, found = training_of(model=SMALL), []
    trainer = backend.trainer.Trainer(training.recipe, "cpu")
    start = trainer.state()
    assert not trainer.asynchronous
    for asynchronous in (False, True):
        trainer.load(*start)
        trainer.asynchronous = asynchronous
        for step in range(6):
            metrics = training.advance(trainer, step)
        found.append((float(metrics["loss"]), trainer.state()))
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(value, found[1][1][1][name]) for name, value in found[0][1][1].items())


def drawn(backend, compiled, samples=5, guidance=1.0):
    """Images in two batch shapes by a network with labels, and the network."""
    config = dataclasses.replace(MODEL, num_class_embeds=4)
    rng = np.random.default_rng(0)
    specs = param_specs(config).items()
    weights = {n: (0.3 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(np.float32) for n, s in specs}
    network = backend.sampler.make_network(config, weights, "float32", "cpu", compiled)
    given = {"labels": np.arange(samples) % 3}
    weak = None if guidance == 1 else Conditioned(network, no_condition(given, 3))
    table = make_table(make_process(ProcessConfig(50)), SamplingConfig("ddpm", 4, guidance=guidance))
    noise = KeyedNoise(1, range(samples), (8, 8, 1), "float32")
    return run_table(table, Conditioned(network, given), noise, 3, weak), network


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_compiled_sampling_draws_the_same_images(backend, caplog, guidance):
    found, network = drawn(backend, True, guidance=guidance)
    expected, _ = drawn(backend, None, guidance=guidance)
    assert network.compiled, [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert np.abs(found - expected).max() < 1e-4 and found.std() > 0.1


def test_a_compiler_that_fails_in_sampling_is_named_once_in_the_log(backend, monkeypatch, caplog):
    if backend.name == "torch":
        compiler, error = "torch.compile", RuntimeError("no working compiler")
    else:
        errors = importlib.import_module("tensorflow").errors
        compiler, error = "XLA", errors.UnimplementedError(None, None, "no such operation in XLA")

    def failing(*arguments, **options):
        raise error

    bind = backend.sampler.Network.bind

    def broken(self, condition=None, evaluations=0):
        self.fast = failing
        return bind(self, condition, evaluations)

    monkeypatch.setattr(backend.sampler.Network, "bind", broken)
    found, network = drawn(backend, True)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{compiler} failed, and the sampling goes on without it")
    assert network.compiled is False and np.array_equal(found, drawn(backend, False)[0])


def test_sampling_is_compiled_where_a_gpu_evaluates_one_batch_shape_often_enough(backend):
    sampler = backend.sampler
    if backend.name == "torch":
        network = sampler.Network(importlib.import_module("torch").nn.Identity())
        assert not network.pays(COMPILED_FROM) and not network.asynchronous
        network.device = importlib.import_module("torch").device("cuda")
    else:
        network = sampler.Network(lambda x, t: x)
        assert not network.pays(COMPILED_FROM) and not network.asynchronous
        network = sampler.Network(lambda x, t: x, "/GPU:0")
        assert network.asynchronous
    assert [network.pays(n) for n in (0, COMPILED_FROM - 1, COMPILED_FROM)] == [False, False, True]
    network.compiled = False
    assert not network.pays(COMPILED_FROM)


def test_each_batch_shape_is_counted(backend, monkeypatch):
    seen, real = [], backend.sampler.Network.bind

    def noted(self, condition=None, evaluations=0):
        seen.append((len(condition["labels"]), evaluations))
        return real(self, condition, evaluations)

    monkeypatch.setattr(backend.sampler.Network, "bind", noted)
    drawn(backend, None, samples=8)
    assert seen == [(3, 8), (3, 8), (2, 4)]
    seen.clear()
    drawn(backend, None, samples=2, guidance=2.0)
    assert seen == [(2, 4), (2, 4), (4, 4)], "the third is that of guided rows"
