"""The twin's training step: gradients against finite differences of the NumPy reference, the optimiser against NumPy's
Adam and Muon fed with the twin's own gradients, and everything that a run relies on."""

import dataclasses
import importlib

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import to_dict
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.networks.specs import initial_weights, param_specs
from core.networks.unet import ResnetPlan
from core.training.optim import ema_decay, is_decayed, muon_stacks, scalars
from core.training.posthoc_ema import gamma_of
from core.training.training import Training
from core.worker.tasks import TrainingTask
from eval.parity.closeness import require_close
from eval.parity.tolerances import (
    AUTOCAST_BF16,
    BOUND_SLOPE,
    FINITE_DIFFERENCE,
    LOSS_FLOAT64,
    NETWORK_FLOAT32,
    OPTIMISER_FLOAT64,
    STATISTICS_SIGMA,
)
from eval.twins.client import Worker
from tests.numpy_adam import adam_step, clip_factor, muon_step, orthogonalised
from tests.numpy_unet import NumpyUNet

MODEL = ModelConfig(
    (4, 6),
    2,
    2,
    down_block_types=("AttnDownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
    num_class_embeds=3,
    attention_head_dim=4,
)
PROCESS = ProcessConfig(50, prediction="v", loss_weight="min_snr")
COMMON = dict(
    steps=20,
    batch_size=4,
    warmup_steps=5,
    learning_rate=0.02,
    decay="linear",
    decay_start=0.5,
    ema_decay=0.6,
    dtype="float64",
)
ADAM = dict(weight_decay=0.05, clip_norm=0.4, adam_eps=1e-3, **COMMON)
TRAININGS = {
    "adam": TrainingConfig(**ADAM),
    "adamw": TrainingConfig(optimizer="adamw", weight_decay=0.1, beta1=0.8, beta2=0.9, clip_norm=0.0, **COMMON),
    "muon": TrainingConfig(optimizer="muon", muon_momentum=0.9, **ADAM),
    "muon parts": TrainingConfig(optimizer="muon", muon_momentum=0.9, accumulate=4, ema_profiles=(0.1,), **ADAM),
    "accumulate": TrainingConfig(accumulate=4, **ADAM),
    "checkpointing": TrainingConfig(gradient_checkpointing=True, **ADAM),
    "importance": TrainingConfig(accumulate=2, timestep_sampling="importance", **ADAM),
    "dropout": TrainingConfig(**{**COMMON, "dtype": "float32"}),
    "bf16": TrainingConfig(autocast="bf16", **{**ADAM, "dtype": "float32"}),
}
TABLES = make_process(PROCESS)
SPECS = param_specs(MODEL)


def recipe(name, seed=0):
    model = dataclasses.replace(MODEL, dropout=0.5 if name == "dropout" else 0.0)
    return Recipe(model, PROCESS, training=dataclasses.replace(TRAININGS[name], seed=seed))


def batch(name, step):
    images = np.random.default_rng(1).random((10, 4, 6, 2)).astype(np.float32)
    data = Dataset(images, np.arange(10) % 3, ("a", "b", "c"), {}, np.arange(10), np.arange(0), {})
    return Training(recipe(name), data).batch(step)


def weights(dtype="float64"):
    """Without zeros, so that every gradient flows at the first step."""
    rng = np.random.default_rng(2)
    return {n: (0.3 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(dtype) for n, s in SPECS.items()}


@pytest.fixture(scope="module")
def trainers(backend):
    """One trainer a name: TensorFlow traces its step once."""
    made = {}

    def trainer(name):
        if name not in made:
            made[name] = backend.trainer.Trainer(recipe(name))
        start = weights(TRAININGS[name].dtype)
        zeros = {f"{part}/{n}": np.zeros_like(w) for part in ("exp_avg", "exp_avg_sq") for n, w in start.items()}
        state = {**{f"params/{n}": w for n, w in start.items()}, **zeros}
        state |= {f"profile_0/{n}": w for n, w in start.items()}
        made[name].load(start, state, {"adam_steps": 0, "skipped": 0, "skipped_in_a_row": 0})
        return made[name]

    return trainer


def gradients(backend, trainer, batch, seed=0):
    """Loss and gradients in the canonical layout."""
    total, rest = trainer.gradients(trainer.put(batch), seed)
    if backend.name == "torch":
        return backend.array(total).copy(), {n: p.grad.numpy().copy() for n, p in trainer.network.named_parameters()}
    axes = {"conv": (3, 2, 0, 1), "linear": (1, 0)}
    found = {n: g.numpy() for n, g in zip(SPECS, rest, strict=True)}
    return total.numpy(), {
        n: g.transpose(axes[SPECS[n].kind]) if SPECS[n].kind in axes else g for n, g in found.items()
    }


def take(trainer, name, steps):
    def step(s):
        metrics = trainer.step(trainer.put(batch(name, s)), scalars(TRAININGS[name], s))
        return {k: float(v) for k, v in metrics.items()}

    return [step(s) for s in steps]


def copied(state):
    ema, rest, counters = state
    return {**{f"ema/{n}": w for n, w in ema.items()}, **rest}, counters


def equal(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a)


def test_a_fresh_trainer_holds_the_initial_weights(backend):
    arrays, counters = copied(backend.trainer.Trainer(recipe("adam", seed=5)).state())
    start = initial_weights(MODEL, 5, "float64")
    expected = {f"{part}/{n}": w for n, w in start.items() for part in ("ema", "params")}
    expected |= {f"{part}/{n}": np.zeros_like(w) for n, w in start.items() for part in ("exp_avg", "exp_avg_sq")}
    assert equal(arrays, expected) and counters == {"adam_steps": 0, "skipped": 0, "skipped_in_a_row": 0}


def loss(values, b):
    """The objective by hand over the NumPy network."""
    signal, noise, a, c = (b[k][:, None, None, None] for k in ("signal", "noise", "target_x0", "target_eps"))
    output = NumpyUNet(MODEL, values)(signal * b["x_0"] + noise * b["eps"], b["t"], b["labels"])
    return (b["weight"] * ((output - a * b["x_0"] - c * b["eps"]) ** 2).mean(axis=(1, 2, 3))).mean()


def test_every_gradient_is_the_slope_of_the_loss(backend, trainers):
    """Along a random direction in each parameter: central differences of five points, error h^4."""
    b = batch("adam", 0)
    total, found = gradients(backend, trainers("adam"), b)
    start, rng, h = weights(), np.random.default_rng(3), 1e-3
    require_close(total, np.array(loss(start, b)), LOSS_FLOAT64, "loss")
    ours, slopes = [], []
    for name, w in start.items():
        direction = rng.standard_normal(w.shape) / np.sqrt(w.size)
        along = [loss({**start, name: w + k * h * direction}, b) for k in (-2, -1, 1, 2)]
        slopes.append((along[0] - 8 * along[1] + 8 * along[2] - along[3]) / (12 * h))
        ours.append((found[name] * direction).sum())
    assert min(abs(s) for n, s in zip(start, slopes, strict=True) if not n.endswith("to_k.bias")) > 1e-6
    require_close(np.array(ours), np.array(slopes), FINITE_DIFFERENCE, "slopes")


@pytest.mark.parametrize("name", ("adam", "adamw", "muon"))
def test_twenty_steps_equal_the_reference_optimiser(backend, trainers, name):
    """Warm-up, decay, clipping, weight decay and the average, whose closed form is a sum over all steps' weights."""
    config, trainer = TRAININGS[name], trainers(name)
    p, history, clipped = weights(), [weights()], 0
    m, v = ({n: np.zeros_like(w) for n, w in p.items()} for _ in range(2))
    of_muon = {n for names in muon_stacks(config, SPECS).values() for n in names}
    for step in range(20):
        b, values = batch(name, step), scalars(config, step)
        total, g = gradients(backend, trainer, b, values["dropout_seed"])
        metrics = trainer.step(trainer.put(b), values)
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        assert np.isclose(float(metrics["grad_norm"]), norm, rtol=1e-12) and float(metrics["loss"]) == total
        factor = clip_factor(norm, config.clip_norm)
        clipped += factor < 1
        for n, spec in SPECS.items():
            if n in of_muon:
                p[n], m[n] = muon_step(config, values["muon_lr"], p[n], factor * g[n], m[n])
            else:
                p[n], m[n], v[n] = adam_step(
                    config, values["lr"], step + 1, is_decayed(spec), p[n], factor * g[n], m[n], v[n]
                )
        history.append(dict(p))
    assert clipped == 0 if name == "adamw" else 0 < clipped < 20
    ema, state, counters = trainer.state()
    assert counters == {"adam_steps": 20, "skipped": 0, "skipped_in_a_row": 0}
    decays = [ema_decay(config, step) for step in range(20)]
    shares = [np.prod(decays), *((1 - d) * np.prod(decays[i + 1 :]) for i, d in enumerate(decays))]
    assert np.isclose(sum(shares), 1)
    for n in SPECS:
        require_close(state[f"params/{n}"], p[n], OPTIMISER_FLOAT64, f"weights {n}")
        require_close(state[f"exp_avg/{n}"], m[n], OPTIMISER_FLOAT64, f"first moment {n}")
        require_close(state[f"exp_avg_sq/{n}"], v[n], OPTIMISER_FLOAT64, f"second moment {n}")
        average = sum(share * past[n] for share, past in zip(shares, history, strict=True))
        require_close(ema[n], average, OPTIMISER_FLOAT64, f"average {n}")


def test_tensorflow_traces_loss_and_update_once(backend, monkeypatch):
    """Scalars that are Python floats would be traced anew each step; PyTorch runs them each time."""
    calls = {"losses": 0, "is_decayed": 0}

    def counting(name, function):
        def call(*arguments):
            calls[name] += 1
            return function(*arguments)

        return call

    trainer = backend.trainer.Trainer(recipe("adam"))
    for name in calls:
        monkeypatch.setattr(backend.trainer, name, counting(name, getattr(backend.trainer, name)))
    take(trainer, "adam", range(3))
    once = {"losses": 1, "is_decayed": len(SPECS)}
    assert calls == (once if backend.name == "tensorflow" else {"losses": 3, "is_decayed": 0})


@pytest.mark.parametrize(("name", "in_parts"), (("adam", "accumulate"), ("muon", "muon parts")))
def test_accumulation_changes_nothing(backend, trainers, name, in_parts):
    whole, parts = trainers(name), trainers(in_parts)
    (total, g), (total_parts, g_parts) = (gradients(backend, t, batch("adam", 0)) for t in (whole, parts))
    require_close(total_parts, total, LOSS_FLOAT64, "loss")
    largest = max(np.abs(x).max() for x in g.values())
    for n in SPECS:  # relative to all gradients: that of a key's bias is rounding
        require_close(g_parts[n] + largest, g[n] + largest, LOSS_FLOAT64, f"gradient {n}")
    metrics, metrics_parts = take(whole, name, range(3)), take(parts, in_parts, range(3))
    for one, other in zip(metrics, metrics_parts, strict=True):
        assert all(np.isclose(one[k], other[k], rtol=1e-12) for k in one)
    one, other = copied(whole.state())[0], copied(parts.state())[0]
    for n in (n for n in one if n.startswith(("params", "ema"))):
        require_close(other[n], one[n], LOSS_FLOAT64, n)


@pytest.mark.parametrize("name", ("adam", "muon"))
@pytest.mark.parametrize("key", ("x_0", "eps", "weight"))
@pytest.mark.parametrize("value", (np.nan, np.inf, 1e200))
def test_a_step_that_is_not_finite_is_skipped_and_counted(trainers, name, key, value):
    trainer = trainers(name)
    take(trainer, name, range(2))
    before = copied(trainer.state())
    bad = batch("adam", 2)
    bad[key] = bad[key].copy()
    bad[key].flat[3] = value
    for count in (1, 2):
        metrics = trainer.step(trainer.put(bad), scalars(TRAININGS[name], 2))
        assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == count
        assert not (np.isfinite(float(metrics["loss"])) and np.isfinite(float(metrics["grad_norm"])))
    arrays, counters = copied(trainer.state())
    assert equal(arrays, before[0]) and counters == {"adam_steps": 2, "skipped": 2, "skipped_in_a_row": 2}
    (metrics,) = take(trainer, name, [3])
    assert metrics["skipped"] == 2 and metrics["skipped_in_a_row"] == 0
    after = copied(trainer.state())[0]
    fresh = trainers(name)
    take(fresh, name, [0, 1, 3])
    assert equal(copied(fresh.state())[0], after)


def test_dropout_is_keyed_by_the_step(backend, trainers):
    trainer, b = trainers("dropout"), batch("dropout", 0)
    once = [gradients(backend, trainer, b, seed) for seed in (5, 6, 5)]
    assert once[0][0] == once[2][0] and equal(once[0][1], once[2][1])
    assert once[0][0] != once[1][0]
    plain = [gradients(backend, trainers("adam"), batch("adam", 0), seed)[0] for seed in (5, 6)]
    assert plain[0] == plain[1] and not np.isclose(plain[0], once[0][0], rtol=1e-3)


def test_dropout_doubles_what_it_keeps(backend):
    """The layer of a residual block in training mode, at probability 1/2."""
    config = dataclasses.replace(MODEL, dropout=0.5)
    dropout = backend.layer("ResnetBlock", ResnetPlan("b", 8, 8), config, 32, dtype="float64").dropout
    x = np.random.default_rng(0).standard_normal((8, 4, 6, 8))
    if backend.name == "torch":
        dropped = backend.array(dropout.train()(backend.tensor(x)))
    else:
        dropped = backend.array(dropout(backend.tensor(x), training=True))
    kept = dropped != 0
    assert abs(kept.mean() - 0.5) < STATISTICS_SIGMA * 0.5 / np.sqrt(x.size)
    require_close(dropped[kept], 2 * x[kept], LOSS_FLOAT64, "kept")


def test_sampling_knows_no_dropout_and_follows_the_average(trainers):
    trainer = trainers("dropout")
    table = make_table(TABLES, SamplingConfig("ddim", 3))
    x, labels = np.random.default_rng(0).standard_normal((2, 4, 6, 2)).astype(np.float32), np.array([2, 0])

    def draw():
        return trainer.ema_network().bind({"labels": labels}).run(table, x, lambda row: x)

    def expected():
        network = NumpyUNet(MODEL, trainer.state()[0])
        return run(table, lambda x, t: network(x, t, labels), x.astype(np.float64), lambda row: x)

    first = draw()
    require_close(first, expected(), NETWORK_FLOAT32, "before training", "float32")
    take(trainer, "dropout", range(2))
    second = draw()
    assert np.abs(second - first).max() > 1e-3
    require_close(second, expected(), NETWORK_FLOAT32, "after two steps", "float32")
    assert (draw() == second).all()


def as_in_a_new_process(backend, recipe):
    """A trainer whose layers have the names of a process's first: TensorFlow's graphs order sums by name."""
    if backend.name == "tensorflow":
        importlib.import_module("keras").utils.clear_session()
    return backend.trainer.Trainer(recipe)


@pytest.mark.parametrize("name", ("dropout", "muon parts"))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(backend, name):
    """Into a trainer of another seed, dropout included."""
    trainer = as_in_a_new_process(backend, recipe(name))
    take(trainer, name, range(3))
    ema, state, counters = trainer.state()
    metrics = take(trainer, name, range(3, 5))
    uninterrupted = copied(trainer.state())
    other = as_in_a_new_process(backend, recipe(name, seed=9))
    other.load(ema, state, counters)
    arrays, loaded = copied(other.state())
    assert equal(arrays, {**{f"ema/{n}": w for n, w in ema.items()}, **state}) and loaded == counters
    assert take(other, name, range(3, 5)) == metrics
    arrays, counters = copied(other.state())
    assert equal(arrays, uninterrupted[0]) and counters == uninterrupted[1]


def test_a_run_that_samples_levels_by_importance_goes_on_exactly(backend):
    """Through the state of trainer and losses, also after every level has its ten losses; batches are in two parts."""
    images = np.random.default_rng(1).random((10, 4, 6, 2)).astype(np.float32)
    data = {"images": images, "labels": np.arange(10) % 3}
    training = dataclasses.replace(TRAININGS["adam"], batch_size=8, accumulate=2, timestep_sampling="importance")
    process, sampling = ProcessConfig(3, beta_end=0.5), SamplingConfig(steps=3)
    options = {"recipe": to_dict(Recipe(MODEL, process, training=training, sampling=sampling))}
    task = TrainingTask(backend.trainer.Trainer)
    whole, _ = task(data, {**options, "steps": 12})
    assert whole["timesteps/counts"].min() == 10 and len(np.unique(whole["timesteps/history"][1])) == 10
    half, info = task(data, {**options, "steps": 7})
    assert half["timesteps/counts"].min() == 10
    rest, _ = task({**data, **half}, {**options, "first": 7, "steps": 5, **info})
    np.testing.assert_array_equal(np.concatenate([half["loss"], rest["loss"]]), whole["loss"])
    assert all(np.array_equal(rest[n], w) for n, w in whole.items() if "/" in n)


def test_profiles_are_averages_of_all_steps_and_go_on_exactly(backend):
    """Karras et al. 2024, eq. 1: each step's weights by the mass of its profile, and nothing of the initial ones."""
    images = np.random.default_rng(1).random((10, 4, 6, 2)).astype(np.float32)
    data = {"images": images, "labels": np.arange(10) % 3}
    chosen = dataclasses.replace(
        recipe("adam"), training=dataclasses.replace(TRAININGS["adam"], ema_profiles=(0.05, 0.1))
    )
    task, options = TrainingTask(backend.trainer.Trainer), {"recipe": to_dict(chosen)}
    whole, _ = task(data, {**options, "steps": 6, "watch": 1})
    for i, sigma_rel in enumerate((0.05, 0.1)):
        mass = np.diff((np.arange(7) / 6) ** (gamma_of(sigma_rel) + 1))
        found = np.concatenate([whole[f"profile_{i}/{n}"].ravel() for n in SPECS])
        require_close(found, mass @ whole["watched"], OPTIMISER_FLOAT64, f"profile {sigma_rel}")
    half, info = task(data, {**options, "steps": 4})
    rest, _ = task({**data, **half}, {**options, "first": 4, "steps": 2, **info})
    assert all(np.array_equal(rest[n], w) for n, w in whole.items() if "/" in n)


@pytest.mark.parametrize("shape", ((6, 54), (54, 6), (8, 8)))
def test_singular_values_become_nearly_one_and_singular_vectors_stay(backend, shape):
    """Against NumPy's SVD; the order of a matrix's columns, in which the twins differ, does not matter."""
    rng = np.random.default_rng(5)
    u, s, v = np.linalg.svd(rng.standard_normal((3, *shape)), full_matrices=False)
    s = np.linspace(1.0, 0.1, s.shape[1]) * 10.0 ** np.arange(-6, 3, 3)[:, None]
    matrices, order = u * s[:, None] @ v, rng.permutation(shape[1])
    found = backend.array(backend.muon.orthogonalise(backend.tensor(matrices)))
    within = u.mT @ found @ v.mT
    kept = np.diagonal(within, axis1=1, axis2=2)
    assert kept.min() > 0.68 and kept.max() < 1.13
    require_close(found, u * kept[:, None] @ v, OPTIMISER_FLOAT64, "singular vectors")
    for matrix, expected in zip(matrices, found, strict=True):
        require_close(orthogonalised(matrix), expected, OPTIMISER_FLOAT64, "reference")
    swapped = backend.array(backend.muon.orthogonalise(backend.tensor(matrices[..., order])))
    require_close(swapped, found[..., order], OPTIMISER_FLOAT64, "swapped columns")
    transposed = backend.array(backend.muon.orthogonalise(backend.tensor(np.ascontiguousarray(matrices.mT))))
    require_close(transposed, found.mT, OPTIMISER_FLOAT64, "transposed")
    assert not backend.array(backend.muon.orthogonalise(backend.tensor(np.zeros((2, *shape))))).any()


def test_the_losses_of_importance_sampling_are_each_image_s(backend, trainers):
    """Weighted, in the batch's order whatever the micro-batches; only a trainer of that way hands them over."""
    trainer, b = trainers("importance"), batch("importance", 0)
    metrics = trainer.step(trainer.put(b), scalars(TRAININGS["importance"], 0))
    each = np.array([loss(weights(), {k: v[i : i + 1] for k, v in b.items()}) for i in range(4)])
    require_close(np.asarray(metrics["losses"]), each, LOSS_FLOAT64, "losses")
    plain = trainers("adam")
    assert "losses" not in plain.step(plain.put(b), scalars(TRAININGS["adam"], 0))


def test_the_bound_teaches_the_mean_in_vlb_alone(backend):
    """By the last bias: of the image's half it has simple's gradient in hybrid, and in vlb the slope of the loss."""
    model = dataclasses.replace(MODEL, out_channels=4)
    rng = np.random.default_rng(5)
    start = {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(model).items()}
    images = np.random.default_rng(1).random((10, 4, 6, 2)).astype(np.float32)
    data = Dataset(images, np.arange(10) % 3, ("a", "b", "c"), {}, np.arange(10), np.arange(0), {})
    found = {}
    for kind in ("hybrid", "vlb"):
        process = ProcessConfig(50, variance="learned", loss=kind)
        chosen = Recipe(model, process, training=TRAININGS["adam"], sampling=SamplingConfig(steps=50))
        trainer, b = backend.trainer.Trainer(chosen), Training(chosen, data).batch(0)
        zeros = {f"{part}/{n}": np.zeros_like(w) for part in ("exp_avg", "exp_avg_sq") for n, w in start.items()}
        counters = {"adam_steps": 0, "skipped": 0, "skipped_in_a_row": 0}

        def at(values, trainer=trainer, b=b, zeros=zeros, counters=counters):
            trainer.load(values, {**{f"params/{n}": w for n, w in values.items()}, **zeros}, counters)
            total, rest = trainer.gradients(trainer.put(b), 0)
            if backend.name == "torch":
                return float(total), trainer.network.conv_out.bias.grad.numpy().copy()
            return float(total), rest[list(start).index("conv_out.bias")].numpy()

        _, gradient = at(start)
        slopes = []
        for channel in range(4):
            step = 1e-4 * np.eye(4)[channel]
            along = [at({**start, "conv_out.bias": start["conv_out.bias"] + k * step})[0] for k in (-2, -1, 1, 2)]
            slopes.append((along[0] - 8 * along[1] + 8 * along[2] - along[3]) / 12e-4)
        found[kind] = gradient, np.array(slopes), b
    gradient, slopes, _ = found["vlb"]
    require_close(gradient, slopes, BOUND_SLOPE, "vlb")
    gradient, slopes, b = found["hybrid"]
    require_close(gradient[2:], slopes[2:], BOUND_SLOPE, "hybrid, of the variance")
    signal, noise = (b[k][:, None, None, None] for k in ("signal", "noise"))
    output = NumpyUNet(model, start)(signal * b["x_0"] + noise * b["eps"], b["t"], b["labels"])
    simple = 2 * (output[..., :2] - b["eps"]).sum(axis=(0, 1, 2)) / b["eps"].size
    require_close(gradient[:2], simple, LOSS_FLOAT64, "hybrid, of the mean")
    assert np.abs(slopes[:2] / simple - 1).max() > 1e-3  # the bound itself does depend on it


def test_weights_that_do_not_fit_are_not_loaded(trainers):
    trainer = trainers("adam")
    ema, state, counters = trainer.state()
    with pytest.raises(ValueError, match=r"missing conv_in\.bias"):
        trainer.load({n: w for n, w in ema.items() if n != "conv_in.bias"}, state, counters)
    with pytest.raises(ValueError, match=r"conv_in\.bias holds values that are not finite"):
        trainer.load(ema, {**state, "params/conv_in.bias": np.full(8, np.nan)}, counters)


def test_bf16_is_near_full_precision_and_keeps_its_weights(trainers):
    half, full = trainers("bf16"), trainers("adam")
    losses, exact = ([m["loss"] for m in take(t, n, range(5))] for t, n in ((half, "bf16"), (full, "adam")))
    measured = require_close(np.array(losses), np.array(exact), AUTOCAST_BF16, "loss")
    assert measured > 1e-5  # bfloat16 was used at all
    arrays, counters = copied(half.state())
    assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in arrays.values()) and counters["adam_steps"] == 5
    reference = copied(full.state())[0]
    moved = max(np.abs(arrays[f"params/{n}"] - w).max() for n, w in weights().items())
    apart = max(np.abs(arrays[f"params/{n}"] - reference[f"params/{n}"]).max() for n in SPECS)
    assert moved > 0.01 and apart < moved


def test_the_manifest_names_the_framework(backend):
    found = backend.trainer.describe()
    assert found["framework"] == backend.name and found["version"] and found["device"]


def test_gradient_checkpointing_changes_no_gradient(trainers):
    found = {}
    for name in ("adam", "checkpointing"):
        trainer = trainers(name)
        trainer.step(trainer.put(batch("adam", 0)), scalars(TRAININGS[name], 0))
        found[name] = trainer.state()[1]
    for name, value in found["adam"].items():
        if name.startswith("exp_avg") and name.endswith(
            "to_k.bias"
        ):  # the softmax does not see it: its gradient is 0 but for rounding
            assert max(np.abs(found[which][name]).max() for which in found) < 1e-15
        else:
            require_close(found["checkpointing"][name], value, OPTIMISER_FLOAT64, name)


@pytest.mark.slow
def test_gradient_checkpointing_saves_memory(backend, monkeypatch):
    """Most memory held by a process of its own, over one step of a network whose blocks hold most of it.

    The compiled GroupNorm halves what the blocks hold, and with it the share that is saved.
    """
    monkeypatch.setenv("DIPTYCH_KERNEL", "off")
    model = ModelConfig(
        (64, 64),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(32,),
        layers_per_block=12,
        mid_block_type=None,
    )
    peaks = []
    for on in (False, True):
        training = TrainingConfig(steps=1, batch_size=16, gradient_checkpointing=on)
        with Worker(backend.name) as worker:
            before = worker.call("peak_memory")[1]["bytes"]
            worker.call("time_training", recipe=dataclasses.asdict(Recipe(model, training=training)), steps=1)
            peaks.append(worker.call("peak_memory")[1]["bytes"] - before)
    print(backend.name, [f"{peak / 2**20:.0f} MiB" for peak in peaks])
    assert peaks[1] < 0.7 * peaks[0]
