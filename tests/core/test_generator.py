"""The Python library over the NumPy twin: drawing, conditions, edits, likelihood and training as a user calls them."""

import dataclasses

import numpy as np
import pytest

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import open_trained
from core.commands.main import main
from core.config.recipes import load_recipe
from core.exits import RunError
from core.inference.generator import Generator, open_generator
from core.training.loop import start_training
from core.training.run import train_in
from core.twin import Twin
from tests.command_line import RECIPE
from tests.numpy_impl.sampler import Network

TWIN = Twin("tests.numpy_impl")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Lenses with classes and an Einstein radius to condition on, dropped now and then."""
    folder = tmp_path_factory.mktemp("library")
    text = RECIPE.replace("CACHE", str(folder / "cache")).replace(
        "[model]", "[model]\nnum_class_embeds = 4\nvector_channels = 1"
    )
    text = text.replace("[data]", '[data]\ncondition = ["theta_e"]\nheld_out = 0.4')
    (folder / "tiny.toml").write_text(text.replace("[training]", "[training]\ncondition_dropout = 0.2"))
    return load_recipe(folder / "tiny.toml")


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_in(TWIN, recipe, folder) == 0
    return folder


@pytest.fixture
def generator(run):
    return open_generator(TWIN, run)


def test_two_lines_draw_what_the_command_line_draws(run, generator, tmp_path):
    images = generator.sample(3, seed=5)
    assert images.shape == (3, 8, 16, 1) and images.min() >= 0 and images.max() <= 1
    argv = ["sample", str(run), "--n", "3", "--seed", "5", "--out", str(tmp_path / "out")]
    assert main(TWIN.package, argv) == 0
    assert np.array_equal(np.load(tmp_path / "out" / "samples.npy"), images.astype(np.float32))


def test_an_image_is_the_same_alone_and_among_others(generator):
    whole = generator.sample(5, seed=1, batch_size=2)
    assert np.array_equal(generator.sample(1, seed=1, first=3), whole[3:4])


def echo(generator):
    """The generator over a network that shows what it is conditioned on, for a table that returns its prediction."""

    def network(x, t, labels, vector, keep):
        seen.append((labels.tolist(), vector.ravel().round(6).tolist(), keep.tolist()))
        return 0 * x

    seen = []
    return Generator(Network(network), generator.trained), seen


def test_classes_and_parameters_reach_the_network(generator):
    shown, seen = echo(generator)
    known = generator.trained.data["condition"]
    shown.sample(2, sampler="ddim", steps=1, class_name="vort", theta_e=1.2)
    standardised = round((1.2 - known["mean"][0]) / known["std"][0], 6)
    assert seen == [([2, 2], pytest.approx([standardised] * 2, abs=1e-5), [1.0, 1.0])]


def test_guidance_evaluates_the_unconditional_network_too(generator):
    shown, seen = echo(generator)
    shown.sample(1, sampler="ddim", steps=2, guidance=3.0)
    assert [keep for _, _, keep in seen] == [[1.0], [0.0]] * 2
    assert [labels for labels, _, _ in seen][1] == [3], "the class that stands for none"


def test_a_weaker_network_guides_under_the_same_condition(generator):
    plain, guided = generator.sample(2), generator.sample(2, guidance=2.0, guide=generator)
    np.testing.assert_allclose(guided, plain, atol=1e-6)  # away from itself: nowhere


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": 3}, "colour: neither an option of sampling nor a condition"),
        ({"class_name": "axion"}, "axion"),
        ({"sampler": "ddim", "order": 3}, "sampling.order"),
        ({"steps": 0}, "sampling.steps = 0"),
    ],
)
def test_what_cannot_be_drawn_is_said(generator, options, words):
    with pytest.raises(ValueError, match=words):
        generator.sample(1, **options)


def test_a_guide_must_fit(generator):
    with pytest.raises(ValueError, match="no noise level is guided"):
        generator.sample(1, guide=generator)
    process = dataclasses.replace(generator.trained.process, prediction="v")
    other = Generator(generator.twin_network, dataclasses.replace(generator.trained, process=process))
    with pytest.raises(ValueError, match="same process"):
        generator.sample(1, guidance=2.0, guide=other)


def test_the_hook_sees_every_evaluation_and_may_change_the_image(generator):
    rows = []

    def after(row, x, x_0):
        rows.append((row, x.shape, x_0.shape))
        return np.zeros_like(x)

    assert np.all(generator.sample(2, after=after) == 0.5)
    assert rows == [(row, (2, 8, 16, 1), (2, 8, 16, 1)) for row in range(3)]


def test_network_and_process_are_at_hand(generator):
    assert generator.network is generator.twin_network.module
    assert generator.process.timesteps == 100 and generator.model.num_class_embeds == 4


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("img2img", {"strength": 0.5}, 4),
        ("inpaint", {"hole": np.eye(8, 16, dtype=bool), "steps": 20}, 4),
        ("interpolate", {"frames": 3, "steps": 5}, 6),
        ("reconstruct", {"steps": 5}, 4),
    ],
)
def test_edits_return_images(generator, name, arguments, count):
    images = generator.sample(4, seed=2)
    edited = getattr(generator.edit, name)(images, **arguments)
    assert edited.images.shape == (count, 8, 16, 1) and np.isfinite(edited.images).all()
    if name == "inpaint":
        outside = ~arguments["hole"]
        np.testing.assert_allclose(edited.images[:, outside], images[:, outside], atol=1e-6)


def test_images_of_a_stretched_network_are_stretched_back(generator):
    plain, images = generator.sample(4, seed=2), generator.sample(4, seed=3)
    process = dataclasses.replace(generator.trained.process, stretch=0.05)
    stretched = dataclasses.replace(generator, trained=dataclasses.replace(generator.trained, process=process))
    low, high = 0.05**0.5, 1.05**0.5
    np.testing.assert_allclose(stretched.sample(4, seed=2), (plain * (high - low) + low) ** 2 - 0.05, atol=1e-6)
    there = (np.sqrt(images + 0.05) - low) / (high - low)  # what the network sees of the images
    expected = generator.edit.reconstruct(there, steps=5).images
    back = (expected * (high - low) + low) ** 2 - 0.05
    np.testing.assert_allclose(stretched.edit.reconstruct(images, steps=5).images, back, atol=1e-5)
    hole = np.eye(8, 16, dtype=bool)
    np.testing.assert_allclose(stretched.edit.inpaint(images, hole=hole).images[:, ~hole], images[:, ~hole], atol=1e-6)
    with pytest.raises(ValueError, match="stretch"):
        stretched.likelihood(images, condition=generator.condition(range(4), 0))


def test_upscaling_wants_a_network_trained_for_it(generator):
    with pytest.raises(ValueError, match=r"data\.low_resolution"):
        generator.edit.upscale(np.zeros((1, 4, 8, 1)))


def test_likelihood_is_bits_per_dimension_of_each_image(generator):
    images, samples = generator.sample(3), range(3)
    with pytest.raises(ValueError, match="condition: missing"):
        generator.likelihood(images)
    condition = generator.condition(samples, 0)
    found = generator.likelihood(images, levels=5, condition=condition)
    assert found["total"].shape == (3,) and found["divergences"].shape == (3, 5)
    assert np.isfinite(generator.likelihood(images, "ode", condition=condition, steps=2)["total"]).all()


def test_a_loop_of_one_s_own_trains_as_the_command_does(recipe, run):
    training = start_training(TWIN, recipe)
    seen = [(step, metrics) for step, metrics in training]
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert all(set(metrics) == {"loss", "grad_norm", "lr", "skipped"} for _, metrics in seen)
    assert all(isinstance(value, float) for _, metrics in seen for value in metrics.values())
    kept = open_trained(resolve_checkpoint(run))
    ema, _, _ = training.trainer.state()
    assert all(np.array_equal(ema[name], kept.weights[name]) for name in ema)
    assert np.array_equal(training.generator().sample(2), open_generator(TWIN, run).sample(2))


def test_a_run_goes_on(recipe, tmp_path):
    short = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, steps=2))
    assert train_in(TWIN, short, tmp_path / "run") == train_in(TWIN, recipe, tmp_path / "run", resume=True) == 0
    assert (tmp_path / "run" / "latest").read_text() == "step-00000004\n"
    with pytest.raises(ValueError, match="already holds a run"):
        train_in(TWIN, recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="already at step 4"):
        train_in(TWIN, recipe, tmp_path / "run", resume=True)


def test_diverged_weights_are_an_error_and_no_image(generator):
    broken = Generator(Network(lambda x, t, **condition: np.nan * x), generator.trained)
    with pytest.raises(RunError, match="the weights have diverged"):
        broken.sample(1)
