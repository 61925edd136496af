"""The twin's baseline network: names, sizes, precision and errors; in PyTorch also against the original's structure in
PyTorch's own layers (tests/peers/original_baseline.py), which tests/parity/test_ladder.py hands on to TensorFlow."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import WEIGHTS_FILE
from core.checkpoints.diffusers_config import unet_to_diffusers
from core.checkpoints.trained import open_trained
from core.commands.main import main
from core.config import ModelConfig, ProcessConfig, Recipe, TrainingConfig
from core.data.dataset import Dataset
from core.files import write_json, write_tensors
from core.networks.baseline import bilinear_matrix
from core.networks.specs import count_parameters, initial_weights, param_specs
from core.training.optim import scalars
from core.training.training import Training
from eval.parity.closeness import require_close
from eval.parity.tolerances import AUTOCAST_BF16, LAYER_FLOAT64, NETWORK_FLOAT32, NETWORK_FLOAT64

CONFIG = ModelConfig((8, 16), 2, 2, block_out_channels=(4, 8, 16, 16), architecture="baseline")
CONDITIONAL = dataclasses.replace(CONFIG, num_class_embeds=3)
only_pytorch = pytest.mark.diffusers  # the mark of what only the PyTorch environment runs


def stressed(config, seed=0):
    """Weights without zeros or symmetry, norms around 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, spec in param_specs(config).items():
        scale = 0.3 if len(spec.shape) < 2 else 1 / np.sqrt(np.prod(spec.shape[1:]))
        weights[name] = (spec.kind == "norm") + scale * rng.standard_normal(spec.shape)
    return weights


def make_inputs(config, batch=2, size=None):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, *(size or config.sample_size), config.in_channels))
    t = np.linspace(3, 999, batch)
    return x, t, np.arange(batch)[::-1] % config.num_class_embeds if config.num_class_embeds else None


def evaluate(backend, network, x, t, labels):
    y = None if labels is None else backend.tensor(labels)
    return backend.array(network(backend.tensor(x), backend.tensor(np.asarray(t)), y))


def original(config, weights=None, size=None, dtype="float64"):
    """The peer with given weights, or with those that PyTorch draws."""
    import torch

    from tests.peers.original_baseline import UNet

    height, width = size or config.sample_size
    peer = UNet(
        config.in_channels,
        config.out_channels,
        num_classes=config.num_class_embeds,
        height=height,
        width=width,
        base=config.block_out_channels[0],
    ).to(getattr(torch, dtype))
    if weights:
        peer.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return peer


@only_pytorch
@pytest.mark.parametrize("base", (64, 16, 4))
def test_names_shapes_and_order_are_the_originals_state_dict(backend, base):
    import torch

    channels = (base, 2 * base, 4 * base, 4 * base)
    for classes in (None, 3):
        config = ModelConfig(block_out_channels=channels, architecture="baseline", num_class_embeds=classes)
        with torch.device("meta"):
            theirs = original(config).state_dict()
            ours = backend.baseline_unet.BaselineUNet(config).state_dict()
        specs = {n: s.shape for n, s in param_specs(config).items()}
        assert {n: tuple(v.shape) for n, v in theirs.items()} == specs and list(theirs) == list(specs)
        assert list(ours) == list(specs)
        assert count_parameters(config) == sum(v.numel() for v in theirs.values())


@only_pytorch
@pytest.mark.parametrize("config", (CONFIG, CONDITIONAL), ids=("plain", "classes"))
@pytest.mark.parametrize("size", ((8, 16), (24, 8), (16, 16)))
def test_the_output_is_the_originals(backend, config, size):
    weights, inputs = stressed(config), make_inputs(config, 3, size)
    expected = evaluate(backend, original(config, weights, size), *inputs)
    found = evaluate(backend, backend.weights.build_unet(config, weights, "float64"), *inputs)
    require_close(found, expected, NETWORK_FLOAT64, str(size))


@only_pytorch
def test_a_state_dict_as_pytorch_draws_it_is_read_as_it_is(backend):
    """And our draw is distributed alike: bound and spread of every tensor."""
    import torch

    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, block_out_channels=(16, 32, 64, 64))
    theirs = {n: v.numpy() for n, v in original(config, dtype="float32").state_dict().items()}
    x, t = (v.astype(np.float32) for v in make_inputs(config)[:2])
    expected = evaluate(backend, original(config, theirs, dtype="float32"), x, t, None)
    network = backend.weights.build_unet(config, theirs)
    require_close(evaluate(backend, network, x, t, None), expected, NETWORK_FLOAT32, "float32")
    for name, value in initial_weights(config, 0).items():
        peer = theirs[name]
        assert (value.std() == 0) == (peer.std() == 0) and (value.std() > 0 or (value == peer).all()), name
        if value.size >= 256:
            assert abs(value.std() / (peer.std() or 1) - 1) < 0.2 or value.std() == 0, name
            assert abs(np.abs(value).max() - np.abs(peer).max()) <= 0.05 * np.abs(peer).max(), name


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_weights_come_back_bit_for_bit_in_order(backend, dtype):
    weights = {n: w.astype(dtype) for n, w in stressed(CONDITIONAL).items()}
    found = backend.weights.get_weights(backend.weights.build_unet(CONDITIONAL, weights, dtype))
    assert list(found) == list(weights)
    assert all(found[n].dtype == dtype and (found[n] == w).all() for n, w in weights.items())


def test_a_folder_is_opened_as_the_baseline(backend, tmp_path):
    weights, inputs = stressed(CONDITIONAL), make_inputs(CONDITIONAL)
    write_json(tmp_path / "config.json", unet_to_diffusers(CONDITIONAL))
    write_tensors(tmp_path / WEIGHTS_FILE, weights)
    opened = backend.weights.load_unet(tmp_path, "float64")
    assert isinstance(opened, backend.baseline_unet.BaselineUNet)
    expected = evaluate(backend, backend.weights.build_unet(CONDITIONAL, weights, "float64"), *inputs)
    require_close(evaluate(backend, opened, *inputs), expected, 0.0, "opened")


def run(backend, *argv):
    """Exit code of the command line."""
    return main(repr(backend), [str(word) for word in argv])


@pytest.mark.slow
def test_the_recipe_is_trained_gone_on_with_and_drawn_from(backend, tmp_path):
    recipe = Path(__file__).resolve().parents[2] / "configs" / "baseline-64.toml"
    flags = ["--model.sample-size", 8, 16, "--model.block-out-channels", 4, 8, 16, 16, "--training.steps", 2]
    flags += ["--training.batch-size", 8, "--training.sample-count", 2, "--data.simulate-count", 20]
    flags += ["--data.cache", tmp_path / "cache", "--sampling.steps", 3]
    assert run(backend, "train", "--config", recipe, "--run", tmp_path / "run", *flags) == 0
    assert run(backend, "train", "--resume", tmp_path / "run", "--training.steps", 3) == 0
    assert (tmp_path / "run" / "latest").read_text().strip() == "step-00000003"
    assert run(backend, "sample", tmp_path / "run", "--n", 3, "--out", tmp_path / "out") == 0
    images = np.load(tmp_path / "out" / "samples.npy")
    assert images.shape == (3, 8, 16, 1) and np.isfinite(images).all()
    network = backend.weights.load_unet(tmp_path / "run")
    assert network.config.architecture == "baseline" and network.config.block_out_channels == (4, 8, 16, 16)


@pytest.mark.parametrize("prefix", ("", "module."))
def test_a_state_dict_in_a_file_is_imported(backend, tmp_path, capsys, prefix):
    config = dataclasses.replace(CONDITIONAL, sample_size=(16, 16))
    weights = {n: w.astype(np.float32) for n, w in stressed(config).items()}
    write_tensors(tmp_path / "old.safetensors", {prefix + n: w for n, w in weights.items()})
    assert run(backend, "import", tmp_path / "old.safetensors", "--sample-size", 16, "--out", tmp_path / "new") == 0
    assert "16 x 16 images of 2 channels" in capsys.readouterr().out
    network = backend.weights.load_unet(tmp_path / "new")
    assert network.config == config
    assert all((w == weights[n]).all() for n, w in backend.weights.get_weights(network).items())
    source = open_trained(tmp_path / "new", "ema")  # what `sample` draws from: the process that the original trains
    assert source.process == ProcessConfig() and source.model == config


def test_an_import_that_cannot_be_is_refused(backend, tmp_path, capsys):
    write_tensors(tmp_path / "part.safetensors", {"outc.weight": np.zeros((2, 4, 1, 1), np.float32)})
    assert run(backend, "import", tmp_path / "part.safetensors", "--out", tmp_path / "new") == 2
    assert "no convolution inc.double_conv.0.weight" in capsys.readouterr().err
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "config.json", unet_to_diffusers(CONFIG))
    assert run(backend, "import", tmp_path / "a", "--sample-size", 64, "--out", tmp_path / "new") == 2
    assert "--sample-size 64: " in capsys.readouterr().err and not (tmp_path / "new").exists()


@only_pytorch
def test_a_pickled_state_dict_is_imported_with_default_size(backend, tmp_path):
    import torch

    peer = original(CONFIG, size=(64, 64), dtype="float32")
    torch.save(torch.nn.DataParallel(peer).state_dict(), tmp_path / "ckpt.pt")
    assert run(backend, "import", tmp_path / "ckpt.pt", "--out", tmp_path / "new") == 0
    network = backend.weights.load_unet(tmp_path / "new")
    assert network.config == dataclasses.replace(CONFIG, sample_size=(64, 64))
    assert all((w.numpy() == network.state_dict()[n].numpy()).all() for n, w in peer.state_dict().items())


@pytest.mark.parametrize("t", (0, 500.25, 999))
def test_a_scalar_t_is_that_level_for_all(backend, t):
    network = backend.weights.build_unet(CONFIG, stressed(CONFIG), "float64")
    x, _, _ = make_inputs(CONFIG)
    expected = evaluate(backend, network, x, np.full(2, float(t)), None)
    require_close(evaluate(backend, network, x, np.asarray(t), None), expected, NETWORK_FLOAT64, "scalar")


def test_upsampling_is_cores_matrices(backend):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 2))
    rows, columns = bilinear_matrix(3), bilinear_matrix(5)
    expected = np.einsum("ih,jw,bhwc->bijc", rows, columns, x)
    found = backend.array(backend.baseline_unet.upsample(backend.tensor(x)))
    require_close(found, expected, LAYER_FLOAT64, "bilinear")


def test_what_does_not_fit_is_refused(backend):
    network = backend.weights.build_unet(CONDITIONAL, stressed(CONDITIONAL), "float64")
    x, t, labels = make_inputs(CONDITIONAL, size=(8, 12))
    with pytest.raises(ValueError, match="width 12 is not divisible by 8"):
        evaluate(backend, network, x, t, labels)
    with pytest.raises(ValueError, match="labels: missing, but num_class_embeds = 3"):
        evaluate(backend, network, x[:, :, :8], t, None)


def one_step(backend, **training):
    """Metrics and state after an optimiser step on four images."""
    recipe = Recipe(CONDITIONAL, ProcessConfig(), training=TrainingConfig(batch_size=4, warmup_steps=0, **training))
    rng = np.random.default_rng(0)
    images, labels = rng.random((8, *recipe.image_shape), np.float32), np.arange(8) % 3
    dataset = Dataset(images, labels, (), {}, np.arange(8), np.arange(0), {})
    trainer = backend.trainer.Trainer(recipe)
    batch = Training(recipe, dataset).batch(0)
    metrics = trainer.step(trainer.put(batch), scalars(recipe.training, 0))
    return float(metrics["loss"]), trainer.state()


@pytest.mark.slow
def test_every_parameter_is_trained_and_bf16_is_near_float32(backend):
    loss, (_, state, counters) = one_step(backend)
    assert counters == {"adam_steps": 1, "skipped": 0, "skipped_in_a_row": 0}
    for name, value in initial_weights(CONDITIONAL, 0).items():
        assert np.abs(state[f"params/{name}"] - value).max() > 0, name
    rounded, _ = one_step(backend, autocast="bf16")
    assert 0 < abs(rounded - loss) < AUTOCAST_BF16 * loss
