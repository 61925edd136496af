"""The twin's conditioned network, loss and guided executor against the NumPy reference, and its checkpoint."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.checkpoints.trained import open_trained
from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.diffusion.process import coefficients, make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.inference.conditioning import no_condition
from core.networks.specs import param_specs
from core.reading import read_json
from eval.parity.closeness import NotCloseError, require_close
from eval.parity.tolerances import LOSS_FLOAT64, NETWORK_FLOAT64, SAMPLER_FLOAT64
from tests.numpy_unet import NumpyUNet

# Classes (the last for none), three numbers, an image of two channels beside one; not square.
MODEL = ModelConfig(
    (4, 6),
    3,
    1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    num_class_embeds=4,
    vector_channels=3,
    condition_channels=2,
    center_input_sample=True,
)
SHAPE = (3, 4, 6, 1)
RECIPE = Recipe(
    MODEL, data=DataConfig("pictures", condition=("a", "b", "c")), training=TrainingConfig(condition_dropout=0.2)
)
PROCESS = make_process(ProcessConfig(timesteps=60, prediction="v"))


def make_weights(seed=0, config=MODEL):
    rng = np.random.default_rng(seed)
    specs = param_specs(config).items()
    return {name: 0.3 * rng.standard_normal(spec.shape) + (spec.kind == "norm") for name, spec in specs}


def condition(seed=1, count=3):
    rng = np.random.default_rng(seed)
    return {
        "labels": np.array([2, 0, 3])[:count],
        "vector": rng.standard_normal((count, 3)),
        "keep": np.array([1.0, 1.0, 0.0])[:count],
        "image": rng.standard_normal((count, 4, 6, 2)),
    }


def evaluate(backend, network, x, t, given):
    tensors = {name: backend.tensor(value) for name, value in given.items()}
    return backend.array(network(backend.tensor(x), backend.tensor(np.asarray(t)), **tensors))


@pytest.fixture(scope="module")
def network(backend):
    return backend.weights.build_unet(MODEL, make_weights(), "float64")


X, T = np.random.default_rng(2).standard_normal(SHAPE), np.array([0.0, 30.5, 59.0])


def test_the_network_equals_the_reference(backend, network):
    expected = NumpyUNet(MODEL, make_weights())(X, T, **condition())
    require_close(evaluate(backend, network, X, T, condition()), expected, NETWORK_FLOAT64, "output")


@pytest.mark.parametrize("name", ["labels", "vector", "keep", "image"])
def test_every_condition_matters(backend, network, name):
    given = condition()
    given[name] = given[name][::-1].copy()
    found = evaluate(backend, network, X, T, given)
    with pytest.raises(NotCloseError):
        require_close(found, NumpyUNet(MODEL, make_weights())(X, T, **condition()), NETWORK_FLOAT64, "output")


def test_a_vector_counts_where_it_is_kept_and_nowhere_else(backend, network):
    """No `keep` is all kept; without it the numbers do not matter at all, bit for bit."""
    given = condition()
    others = {**given, "vector": given["vector"] + 5.0}
    first, second = (evaluate(backend, network, X, T, values) for values in (given, others))
    assert np.abs(first - second)[:2].max() > 1e-3 and (first[2] == second[2]).all()
    kept = {**given, "keep": np.ones(3)}
    bare = {name: value for name, value in given.items() if name != "keep"}
    assert (evaluate(backend, network, X, T, bare) == evaluate(backend, network, X, T, kept)).all()


@pytest.mark.parametrize(
    ("name", "key", "plain"),
    [("vector", "vector_channels", 0), ("image", "condition_channels", 0), ("labels", "num_class_embeds", None)],
)
def test_conditions_must_go_with_the_network(backend, network, name, key, plain):
    given = condition()
    missing = {n: value for n, value in given.items() if n != name and (n, name) != ("keep", "vector")}
    with pytest.raises(ValueError, match=f"{name}: missing, but {key} = "):
        evaluate(backend, network, X, T, missing)
    config = dataclasses.replace(MODEL, **{key: plain}, **({"in_channels": 1} if name == "image" else {}))
    other = backend.weights.build_unet(config, make_weights(0, config), "float64")
    with pytest.raises(ValueError, match=f"{name}: given, but {key} = {plain}"):
        evaluate(backend, other, X, T, given)


def test_keras_fit_hands_arguments_over_by_name(backend, network):
    """A dict of all arguments, as Keras's `fit` and `predict` take several inputs; PyTorch has no such way."""
    given = {"x": X, "t": T, **condition()}
    tensors = {name: backend.tensor(value) for name, value in given.items()}
    found = network(**tensors) if backend.name == "torch" else network(tensors)
    expected = NumpyUNet(MODEL, make_weights())(**given)
    require_close(backend.array(found), expected, NETWORK_FLOAT64, "output")


def test_the_loss_is_of_the_conditioned_output(backend, network):
    rng, t = np.random.default_rng(3), np.array([0, 30, 59])
    batch = {"x_0": rng.standard_normal(SHAPE), "eps": rng.standard_normal(SHAPE), "t": t, **condition()}
    batch |= coefficients(PROCESS, t, "float64")
    signal, noise, a, b = (batch[k][:, None, None, None] for k in ("signal", "noise", "target_x0", "target_eps"))
    output = NumpyUNet(MODEL, make_weights())(signal * batch["x_0"] + noise * batch["eps"], t, **condition())
    squares = ((output - a * batch["x_0"] - b * batch["eps"]) ** 2).mean(axis=(1, 2, 3))
    found = backend.objective.losses(network, {name: backend.tensor(value) for name, value in batch.items()})
    value = found.detach().numpy() if backend.name == "torch" else found.numpy()
    require_close(value, batch["weight"] * squares, LOSS_FLOAT64, "loss")


def noise(row):
    return np.random.default_rng([5, row]).standard_normal(SHAPE)


@pytest.fixture(scope="module")
def drawing(backend):
    return backend.sampler.make_network(MODEL, make_weights(), "float64")


def counted(network, monkeypatch):
    """The `keep` of every evaluation of the network, in order."""
    seen = []
    compiled = hasattr(network, "evaluate")  # TensorFlow's; PyTorch calls its module as it is
    owner, name = (network, "evaluate") if compiled else (network.module, "forward")
    inner = getattr(owner, name)

    def outer(x, t, *given, **named):
        seen.append(np.asarray((given[0] if given else named)["keep"]).tolist())
        return inner(x, t, *given, **named)

    monkeypatch.setattr(owner, name, outer)
    return seen


GUIDED = SamplingConfig("dpmsolver++", 8, guidance=2.5, guidance_min=0.2, guidance_max=5.0)


@pytest.mark.parametrize("options", [{}, {"sampler": "ddim", "eta": 0.5}, {"guidance_min": 0.0, "guidance_max": 0.0}])
def test_the_guided_executor_equals_numpys_and_evaluates_both_in_guided_rows_alone(
    backend, drawing, monkeypatch, options
):
    table = make_table(PROCESS, dataclasses.replace(GUIDED, **options))
    given, reference = condition(), NumpyUNet(MODEL, make_weights())
    weak = no_condition(given, 3)
    strong, low = (partial(reference, **condition) for condition in (given, weak))
    expected = run(table, strong, X, noise, lambda x, t: (strong(x, t), low(x, t)))
    seen = counted(drawing, monkeypatch)
    found = drawing.bind(given).run(table, X, noise, drawing.bind(weak))
    require_close(found, expected, SAMPLER_FLOAT64, "image")
    plain, low = [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]
    assert seen == [plain if row.guidance == 1 else plain + low for row in table.rows]
    monkeypatch.setattr("core.inference.on_arrays.JOINT_PIXELS", len(X) * 24 - 1)
    seen.clear()
    apart = drawing.bind(given).run(table, X, noise, drawing.bind(weak))
    require_close(apart, expected, SAMPLER_FLOAT64, "image by evaluations apart")
    assert seen == [keep for row in table.rows for keep in (plain, low)[: 1 + (row.guidance != 1)]]
    assert len(seen) == table.network_evaluations


def test_guidance_of_1_is_no_guidance_bit_for_bit(drawing, monkeypatch):
    plain, one = SamplingConfig("ddim", 8, eta=0.5), SamplingConfig("ddim", 8, eta=0.5, guidance=1.0)
    bound, weak = drawing.bind(condition()), drawing.bind(no_condition(condition(), 3))
    expected = bound.run(make_table(PROCESS, plain), X, noise)
    seen = counted(drawing, monkeypatch)
    found = bound.run(make_table(PROCESS, one), X, noise, weak)
    assert (found == expected).all() and len(seen) == 8


def test_a_weaker_network_guides(backend, drawing):
    """Another network, smaller, under the same condition."""
    config = dataclasses.replace(MODEL, block_out_channels=(4, 4), norm_num_groups=2)
    guide = backend.sampler.make_network(config, make_weights(4, config), "float64")
    table, given = make_table(PROCESS, GUIDED), condition()
    references = NumpyUNet(MODEL, make_weights()), NumpyUNet(config, make_weights(4, config))
    strong, weak = (lambda x, t, net=net: net(x, t, **given) for net in references)
    expected = run(table, strong, X, noise, lambda x, t: (strong(x, t), weak(x, t)))
    found = drawing.bind(given).run(table, X, noise, guide.bind(given))
    require_close(found, expected, SAMPLER_FLOAT64, "image")


def test_a_checkpoint_is_opened_with_its_own_options_and_not_without_its_recipe(backend, tmp_path):
    weights = {name: value.astype(np.float32) for name, value in make_weights().items()}
    state = {f"{part}/{n}": w for part in ("params", "exp_avg", "exp_avg_sq") for n, w in weights.items()}
    numbers = {key: [0.0, 0.0, 0.0] for key in ("mean", "min", "max")}
    condition = {"names": ["a", "b", "c"], **numbers, "std": [1.0, 1.0, 1.0], "rows": [[0.0, 0.0, 0.0]]}
    data = {"class_names": ["x", "y", "z"], "condition": condition}
    save_checkpoint(tmp_path / "a", Checkpoint(RECIPE, weights, state, {"step": 1}, data))
    folder, source = tmp_path / "a", open_trained(tmp_path / "a", "ema")
    assert source.model == MODEL and source.classes == 3 and source.drops
    found = backend.weights.get_weights(backend.weights.load_unet(folder))
    assert found.keys() == weights.keys() and all((found[n] == weights[n]).all() for n in weights)
    config, index = read_json(folder / "unet" / "config.json"), read_json(folder / "model_index.json")
    assert config["_class_name"] == "DiptychVectorUNet" and config["in_channels"] == 3
    assert not {"vector_channels", "condition_channels", "architecture"} & config.keys()
    assert index["unet"] == ["diptych", "DiptychVectorUNet"] and index["_class_name"] == "DiptychConditionalPipeline"
    assert (folder / "README").read_text().count("\n") == 1 and "numbers" in (folder / "README").read_text()
    with pytest.raises(ValueError, match=r"no recipe\.json, which completes its config\.json"):
        backend.weights.load_unet(folder / "unet")
