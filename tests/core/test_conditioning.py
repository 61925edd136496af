"""Conditions: dropping them in training, standardised parameters, requests, and guidance as a table's column."""

import dataclasses

import numpy as np
import pytest

from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import SAMPLERS, make_table
from core.diffusion.table import run
from core.inference.conditioning import (
    asked_condition,
    check_condition,
    data_record,
    no_condition,
    numbers_of,
    training_condition,
)
from core.inference.sampling import Conditioned, KeyedNoise, run_table
from eval.parity.closeness import require_close
from eval.parity.tolerances import SAMPLER_FLOAT64, STATISTICS_SIGMA, TABLE
from tests.numpy_impl.sampler import Network

COUNT = 40
NAMES = ("theta_e", "gamma1")


def recipe(dropout=0.25, classes=4, batch_size=64, **training):
    model = ModelConfig(
        (4, 4),
        2,
        2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=4,
        num_class_embeds=classes,
        vector_channels=2,
    )
    options = {"batch_size": batch_size, "condition_dropout": dropout, "dtype": "float64", **training}
    return Recipe(model, data=DataConfig("pictures", condition=NAMES), training=TrainingConfig(**options))


def dataset():
    """Random parameters; those of held-out images would change every statistic."""
    rng = np.random.default_rng(0)
    parameters = {
        "theta_e": rng.uniform(0.9, 1.5, COUNT),
        "gamma1": rng.uniform(0, 0.25, COUNT),
        "flat": np.ones(COUNT),
    }
    parameters["theta_e"][:4] = 90.0
    images = np.zeros((COUNT, 4, 4, 2), np.float32)
    names = ("no", "sphere", "vort")
    return Dataset(images, np.arange(COUNT) % 3, names, parameters, np.arange(4, COUNT), np.arange(4), {"sha256": "a"})


def test_numbers_are_standardised_by_the_training_images():
    data, chosen = dataset(), np.arange(4, COUNT)
    found = training_condition(recipe(dropout=0, classes=3), data, chosen, data.images[chosen], 0, range(len(chosen)))
    require_close(found["vector"].mean(axis=0) + 1, np.ones(2), TABLE, "mean")
    require_close(found["vector"].std(axis=0), np.ones(2), TABLE, "deviation")
    assert (found["keep"] == 1).all() and (found["labels"] == chosen % 3).all()
    order = np.argsort(data.parameters["gamma1"][chosen])
    assert (np.diff(found["vector"][order, 1]) > 0).all()


def test_the_share_that_is_dropped_and_that_class_and_numbers_go_together():
    data, size, p = dataset(), 64, 0.25
    drops = []
    for step in range(60):
        found = training_condition(recipe(), data, np.full(size, 5), data.images[:1], step, range(size))
        assert ((found["labels"] == 3) == (found["keep"] == 0)).all() and set(found["labels"]) <= {2, 3}
        drops.append(found["keep"] == 0)
    drops = np.array(drops)
    share_error = np.sqrt(p * (1 - p) / drops.size)
    assert abs(drops.mean() - p) < STATISTICS_SIGMA * share_error
    # Independent between steps and between places: no row or column is dropped whole or never.
    assert drops.mean(axis=0).min() > 0 and drops.mean(axis=0).max() < 0.6 and len(np.unique(drops, axis=0)) == 60


def test_what_is_dropped_is_keyed_by_seed_step_and_place():
    data = dataset()

    def dropped(step, size=64, **training):
        options = recipe(batch_size=size, **training)
        return training_condition(options, data, np.full(size, 5), data.images[:1], step, range(size))["keep"] == 0

    assert (dropped(7) == dropped(7)).all() and (dropped(7)[:10] == dropped(7, size=10)).all()
    assert (dropped(7) != dropped(8)).any() and (dropped(7) != dropped(7, seed=1)).any()
    assert dropped(7, dropout=0.0 + 1e-9).sum() == 0 and dropped(7, dropout=0.999).sum() > 60


def test_without_dropout_nothing_is_dropped():
    plain = recipe(dropout=0.0, classes=3)
    found = training_condition(plain, dataset(), np.arange(20), dataset().images[:20], 3, range(20))
    assert (found["keep"] == 1).all() and found["labels"].max() == 2 and plain.classes == 3
    assert recipe().classes == 3


def test_no_condition_keeps_the_image_beside():
    given = {"labels": np.array([0, 2]), "vector": np.ones((2, 2)), "keep": np.ones(2), "image": np.ones((2, 4, 4, 1))}
    found = no_condition(given, 3)
    assert found["labels"].tolist() == [3, 3] and found["keep"].tolist() == [0, 0]
    assert (found["image"] == 1).all() and given["keep"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition": ("theta_e", "mass")}, r"data\.condition = 'mass': must be .*theta_e, gamma1, flat"),
        ({"condition": ("theta_e", "flat")}, r"data\.condition = 'flat': must be finite and differ"),
    ],
)
def test_numbers_that_the_data_do_not_have(change, message):
    options = recipe()
    with pytest.raises(ValueError, match=message):
        check_condition(dataclasses.replace(options, data=dataclasses.replace(options.data, **change)), dataset())


def test_one_class_more_than_the_data_is_needed_for_none():
    check_condition(recipe(), dataset())
    with pytest.raises(ValueError, match="num_class_embeds = 3, one of them for no class, but pictures has 3 classes"):
        check_condition(recipe(classes=3), dataset())
    model = dataclasses.replace(recipe().model, in_channels=3, condition_channels=1)
    with pytest.raises(ValueError, match=r"= 1: the data have no images to condition on; set data\.beside"):
        check_condition(dataclasses.replace(recipe(), model=model), dataset())


def record():
    return data_record(recipe(), dataset())


def test_numbers_are_asked_for_in_the_datas_units(caplog):
    found = asked_condition(3, record(), range(6), 0, "float64", "vort", {"theta_e": 1.2})
    back = numbers_of(record(), found)
    np.testing.assert_allclose(back["theta_e"], 1.2)
    assert found["labels"].tolist() == [2] * 6 and caplog.text == ""
    asked_condition(3, record(), range(2), 0, numbers={"theta_e": 90.0})
    assert "--param theta_e=90: outside 0.9" in caplog.text  # 90 is among the held-out images alone
    assert numbers_of({}, {}) is None


def test_other_numbers_are_those_of_one_training_image_by_sample():
    found = numbers_of(record(), asked_condition(3, record(), range(200), 0, "float64"))
    pairs = {tuple(np.round(p, 6)) for p in zip(*(dataset().parameters[n][4:] for n in NAMES), strict=True)}
    drawn = list(zip(found["theta_e"], found["gamma1"], strict=True))
    assert set(drawn) <= pairs and len(set(drawn)) > 30
    later = numbers_of(record(), asked_condition(3, record(), range(50, 60), 0, "float64"))
    assert later["gamma1"] == found["gamma1"][50:60]
    other = numbers_of(record(), asked_condition(3, record(), range(200), 1, "float64"))
    assert other["gamma1"] != found["gamma1"]
    asked = numbers_of(record(), asked_condition(3, record(), range(200), 0, "float64", numbers={"theta_e": 1.2}))
    assert asked["gamma1"] == found["gamma1"]


def test_unknown_numbers_are_named():
    with pytest.raises(ValueError, match="--param mass: must be one of theta_e, gamma1"):
        asked_condition(3, record(), range(2), 0, numbers={"mass": 1.0})
    with pytest.raises(ValueError, match="--param theta_e: must be one of none"):
        asked_condition(3, {}, range(2), 0, numbers={"theta_e": 1.0})


PROCESS = make_process(ProcessConfig(timesteps=50))


def guided(sampler="ddim", **options):
    return make_table(PROCESS, SamplingConfig(sampler, 12, clip=False, **options))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_interval_is_of_sigma(sampler):
    """Only rows whose sigma = noise / signal lies between the bounds are guided."""
    table = guided(sampler, guidance=3.0, guidance_min=0.7, guidance_max=4.0)
    known = np.interp([row.t for row in table.rows], PROCESS.time, np.log(PROCESS.noise / PROCESS.signal))
    inside = (np.exp(known) > 0.7) & (np.exp(known) <= 4.0)
    assert [row.guidance for row in table.rows] == np.where(inside, 3.0, 1.0).tolist()
    assert 0 < inside.sum() < table.nfe and table.network_evaluations == table.nfe + inside.sum()
    assert guided(sampler, guidance=3.0).network_evaluations == 2 * table.nfe
    assert guided(sampler).network_evaluations == table.nfe


def test_a_guided_loop_is_the_loop_of_the_mixed_network():
    """Guidance equals one network, weak + g (output - weak); weak is evaluated only in guided rows."""
    strong, weak, asked = (lambda x, t: np.sin(x) + t / 50), (lambda x, t: np.cos(x)), []

    def counted(x, t):
        asked.append(t)
        return weak(x, t)

    x, noise = np.random.default_rng(0).standard_normal((2, 3, 3, 1)), lambda row: 0.0
    table = guided(guidance=2.5, guidance_min=0.3)
    found = run(table, strong, x, noise, lambda x, t: (strong(x, t), counted(x, t)))
    levels = {row.t: row.guidance for row in table.rows}
    plain = dataclasses.replace(table, rows=tuple(dataclasses.replace(row, guidance=1.0) for row in table.rows))
    expected = run(plain, lambda x, t: weak(x, t) + levels[t] * (strong(x, t) - weak(x, t)), x, noise)
    require_close(found, expected, SAMPLER_FLOAT64, "image")
    assert asked == [row.t for row in table.rows if row.guidance != 1] and len(asked) < table.nfe


def test_guidance_needs_something_weak():
    with pytest.raises(ValueError, match=r"sampling\.guidance: must be 1 where there is no weaker network"):
        network = Conditioned(Network(lambda x, t: x), {})
        run_table(guided(guidance=2.0), network, KeyedNoise(0, range(2), (4, 4, 1), "float64"), 2)
