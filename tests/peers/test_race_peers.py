"""The peers of the race: their loop and the classifier on toys; slowly, each peer itself in its environment."""

import contextlib
import dataclasses
import itertools
import json
import time

import numpy as np
import pytest
import torch

from core.config import Recipe
from core.config.recipes import load_recipe, to_dict
from core.networks.specs import count_parameters
from eval.measure.race_contestants import FACTS
from eval.measure.race_table import CONTESTANTS
from eval.twins.client import run_program
from eval.twins.interpreters import ROOT
from eval.twins.race_environment import peers_python
from tests.peers import race_classifier, race_training
from tests.peers.race_training import Entry, Job, batches, draw, ours_rate, train

PEERS = [name for name, contestant in CONTESTANTS.items() if contestant.script]


def entry(pace=0.0, rates=None, **options):
    """An entry of one parameter, which takes `pace` seconds a step or an image, and notes its learning rates."""
    network = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)

    def loss(images):
        time.sleep(pace)
        if rates is not None:
            rates.append(optimizer.param_groups[0]["lr"])
        return network.weight.square().sum() * images.mean()

    def draw_some(n):
        time.sleep(pace * n)
        return torch.full((n, 1, 4, 4), 2.0)

    values = {"rate": lambda share: 1e-3, "warmup_steps": 0, "batch_size": 4, "flip": False, "clip_norm": 1.0}
    values |= {"average": lambda: None, "averaged": contextlib.nullcontext, "draw": draw_some}
    values |= {"sampler": "", "evaluations": 1, "packages": ()}
    return Entry(network, optimizer, loss, **(values | options))


def job(**options):
    values = {"images": "", "recipe": {}, "matched": False, "seconds": 1.0, "seed": 0, "n": 100, "fewer": 70}
    return Job(**(values | {"drawing_seconds": 600.0, "threads": 1, "out": ""} | options))


def generator():
    return torch.Generator().manual_seed(0)


def test_a_training_ends_with_its_seconds_and_its_first_step_is_not_counted():
    images, seconds = np.ones((8, 4, 4, 1), np.float32), 0.2
    steps, passed = train(entry(pace=0.02), images, seconds, generator())
    assert seconds <= passed < 3 * seconds and 1 < steps <= 12


def test_the_warm_up_ends_after_its_steps_or_a_tenth_of_the_time_whichever_is_first():
    images = np.ones((8, 4, 4, 1), np.float32)
    short, long = [], []
    train(entry(pace=0.005, rates=short, warmup_steps=4), images, 0.2, generator())
    train(entry(pace=0.005, rates=long, warmup_steps=1000), images, 0.2, generator())
    np.testing.assert_allclose(short[:2], [2.5e-4, 5e-4])
    assert short[5:] == [1e-3] * len(short[5:]) and len(short) > 6
    assert long[0] == 1e-6 and long[-1] == 1e-3 and sorted(long) == long


def test_every_image_is_seen_once_before_any_is_seen_twice_and_mirrored_where_the_peer_mirrors():
    images = np.arange(8 * 16, dtype=np.float32).reshape(8, 4, 4, 1)
    seen = torch.cat(list(itertools.islice(batches(images, entry(), generator()), 2))).numpy()
    np.testing.assert_array_equal(np.sort(seen[:, 0, 0, 0]), images[:, 0, 0, 0])
    mirrored = torch.cat(list(itertools.islice(batches(images, entry(flip=True), generator()), 2))).numpy()
    straight = mirrored[:, 0, 0, 0] < mirrored[:, 0, 0, 3]
    assert 0 < straight.sum() < 8
    np.testing.assert_array_equal(np.sort(mirrored.min(axis=(1, 2, 3))), images[:, 0, 0, 0])


@pytest.mark.parametrize(("seconds", "n"), [(600.0, 100), (1e-3, 70)])
def test_fewer_images_are_drawn_where_drawing_would_take_too_long(seconds, n):
    images, passed = draw(entry(pace=1e-4), job(drawing_seconds=seconds))
    assert images.shape == (n, 4, 4, 1) and images.dtype == np.float32 and images.max() == 1 and passed > 0


def test_the_matched_learning_rate_is_ours_without_the_warm_up():
    recipe = load_recipe(ROOT / "configs" / "demo.toml")
    rate, peak = ours_rate(recipe), recipe.training.learning_rate
    assert rate(0.0) == rate(0.5) == peak and rate(0.8) == pytest.approx(0.51 * peak, rel=1e-3)
    assert rate(1.0) == pytest.approx(0.02 * peak)


def test_the_classifier_learns_and_its_features_come_from_its_weights_alone():
    rng, n = np.random.default_rng(0), 256
    labels = np.arange(n) % 2
    images = rng.random((n, 8, 8, 1), np.float32) * (0.3 + 0.7 * labels[:, None, None, None]).astype(np.float32)
    arrays = {"images": images, "labels": labels, "held_out_images": images[:50], "held_out_labels": labels[:50]}
    options = {"epochs": 40, "classes": 2}
    weights, info = race_classifier.train(arrays, options)
    again, _ = race_classifier.train(arrays, options)
    assert info["accuracy"] > 0.9 and all(np.array_equal(weights[name], again[name]) for name in weights)
    found, _ = race_classifier.features({**weights, "images": images}, {})
    assert found["features"].shape == (n, race_classifier.FEATURES)
    half, _ = race_classifier.features({**weights, "images": images[:10]}, {})
    np.testing.assert_allclose(half["features"], found["features"][:10], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_each_peer_trains_and_draws_in_the_environment_of_the_race(name, tmp_path):
    recipe = load_recipe(ROOT / "configs" / "demo.toml")
    small = dataclasses.replace(recipe.training, batch_size=8)
    recipe = Recipe(recipe.model, recipe.process, recipe.data, small, recipe.sampling, recipe.evaluation)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((200, 32, 32, 1), np.float32))
    contestant = CONTESTANTS[name]
    values = job(recipe=to_dict(recipe), matched=contestant.matched, n=2, images=str(tmp_path / "images.npy"))
    text = json.dumps(dataclasses.asdict(dataclasses.replace(values, out=str(tmp_path))))
    (tmp_path / "job.json").write_text(text)
    run_program([*peers_python(), "-m", contestant.script, str(tmp_path / "job.json")], name)
    facts, images = json.loads((tmp_path / "facts.json").read_text()), np.load(tmp_path / "samples.npy")
    assert facts.keys() == FACTS.keys() and images.shape == (2, 32, 32, 1) and np.isfinite(images).all()
    assert images.min() >= 0 and images.max() <= 1 and facts["steps"] >= 1
    if contestant.matched:
        assert 0.8 < facts["parameters"] / count_parameters(recipe.model) < 1.25
        assert facts["images_seen"] == 8 * facts["steps"]
    assert race_training.DRAWN_AT_ONCE > 2
