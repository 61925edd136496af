"""The parity ladder as tests: every rung of eval/parity on tiny networks, one worker a framework.

Oracles, comparisons and tolerances are the ladder's own; tests/parity/test_mutations.py shows that it turns red.
`-rA` prints what is measured.
"""

import dataclasses

import numpy as np
import pytest

from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from eval.parity import rungs_core, rungs_distillation, rungs_images, rungs_network, rungs_training
from eval.parity.configurations import CONFIGURATIONS
from eval.parity.ladder import Board, climb
from eval.parity.report import all_rungs
from eval.parity.subject import Subject, random_weights

# Attention, classes, a size that is not square; the baseline has two channels besides.
UNET = ModelConfig(
    sample_size=(8, 12),
    block_out_channels=(8, 8),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
)
BASELINE = ModelConfig((8, 16), 2, 2, block_out_channels=(8, 16, 32, 32), num_class_embeds=3, architecture="baseline")
# Four classes, the last for none; two numbers; three images in ten without either. A middle block is in the others.
CONDITIONAL = dataclasses.replace(
    UNET,
    num_class_embeds=4,
    vector_channels=2,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(8,),
    mid_block_type=None,
)
# Three classes, one of them for none, and two covariates of matrices of 3 x 3.
CHART = ModelConfig(
    (1, 1),
    6,
    6,
    block_out_channels=(16,),
    layers_per_block=2,
    architecture="chart",
    num_class_embeds=3,
    vector_channels=2,
)
RECIPES = {
    "unet": Recipe(UNET, ProcessConfig(), sampling=SamplingConfig("ddim", 30, spacing="leading", eta=0.5)),
    "baseline": Recipe(BASELINE, ProcessConfig(schedule="cosine", prediction="v")),
    "conditional": Recipe(
        CONDITIONAL,
        ProcessConfig(prediction="v"),
        DataConfig(condition=("theta_e", "gamma1")),
        TrainingConfig(condition_dropout=0.3),
    ),
    "chart": Recipe(
        CHART,
        ProcessConfig(schedule="cosine", prediction="v"),
        DataConfig("simulate:spd-regression", space="spd", condition=("y1", "y2")),
        TrainingConfig(condition_dropout=0.3),
        SamplingConfig(clip=False),
    ),
}
IMAGE = dataclasses.replace(CONDITIONAL, in_channels=3, condition_channels=2)
# Beside the default: other processes, losses, ways to draw levels, and Muon, on all rungs but those of the images. They
# do not depend on the network, which is smaller.
SMALL = dataclasses.replace(CONDITIONAL, num_class_embeds=None, vector_channels=0)
OBJECTIVES = {
    "flow": Recipe(
        SMALL,
        process=ProcessConfig(schedule="flow", shift=3.0, prediction="flow", loss_weight="min_snr"),
        sampling=SamplingConfig("ddim", 20),
    ),
    "edm": Recipe(
        SMALL,
        process=ProcessConfig(schedule="edm", prediction="edm"),
        sampling=SamplingConfig("ddim", 20, eta=0.5, clip=False),
    ),
    # So few levels that all have their ten losses, and their probabilities, after some of the twenty steps.
    "importance": Recipe(
        SMALL,
        process=ProcessConfig(2, beta_end=0.6),
        sampling=SamplingConfig(steps=2),
        training=TrainingConfig(timestep_sampling="importance", stratified=True),
    ),
    "hybrid": Recipe(
        dataclasses.replace(SMALL, out_channels=2),
        ProcessConfig(20, variance="learned", loss="hybrid"),
        sampling=SamplingConfig("ddim", 20),
    ),
    "vlb": Recipe(
        dataclasses.replace(SMALL, out_channels=2),
        ProcessConfig(20, schedule="cosine", prediction="v", variance="learned", loss="vlb"),
        sampling=SamplingConfig("ddim", 20),
    ),
    "muon": Recipe(SMALL, ProcessConfig(prediction="v"), training=TrainingConfig(optimizer="muon")),
    "log_normal": Recipe(
        SMALL,
        process=ProcessConfig(schedule="edm", prediction="edm", loss_weight="edm"),
        sampling=RECIPES["unet"].sampling,
        training=TrainingConfig(timestep_sampling="log_normal", ema_profiles=(0.05, 0.1)),
    ),
}
RUNGS = all_rungs(images=16, ddpm_images=0, long_steps=0)
LONG_RUNGS = [rung for rung in all_rungs(images=2, ddpm_images=8, long_steps=60)[-3:] if rung[0] != 10]
QUICK = ("flow", "hybrid", "muon")
"""Of OBJECTIVES; the others are slow."""


def subject(name: str, recipe: Recipe) -> Subject:
    return Subject(name, recipe, random_weights(recipe))


def hold(board: Board) -> None:
    """Assert that every comparison on a board holds; print the one nearest its tolerance."""
    assert board.measurements
    worst = max(board.measurements, key=lambda m: m.measured / (m.tolerance or 1))
    print(f"{worst.quantity} ({worst.dtype}): {worst.measured:.2e} of {worst.tolerance:.0e}, {worst.where}")
    red = [
        f"{m.quantity} ({m.dtype}): {m.measured:.3g} > {m.tolerance:.0e}, {m.where}"
        for m in board.measurements
        if not m.ok
    ]
    assert not red, "\n".join(red)


# What TensorFlow compiles for long; the conditional network's twenty steps are in rung 6.
SLOW = {*(("baseline", number) for number in (6, 7, 8, 9)), ("conditional", 8), *((name, 10) for name in RECIPES)}


def cases(rungs, slow: tuple[str, ...] = ()) -> list:
    """Parameters of a test: a subject and a rung."""
    return [
        pytest.param(
            name,
            number,
            rung,
            id=f"{name}-{number}-{rung.__name__}",
            marks=[pytest.mark.slow] if name in slow or (name, number) in SLOW else [],
        )
        for name in RECIPES
        for number, rung in rungs
    ]


@pytest.mark.parametrize(("name", "number", "rung"), cases(RUNGS))
def test_every_rung_holds(twins, name, number, rung):
    hold(climb(twins, subject(name, RECIPES[name]), [(number, rung)], lambda _: None))


@pytest.mark.parametrize(("name", "number", "rung"), cases(LONG_RUNGS, slow=tuple(RECIPES)))
def test_the_long_rungs_hold(twins, name, number, rung):
    """DDPM at all its levels, and sixty optimiser steps."""
    clip = RECIPES[name].sampling.clip
    recipe = dataclasses.replace(RECIPES[name], sampling=SamplingConfig(clip=clip))
    hold(climb(twins, subject(name, recipe), [(number, rung)], lambda _: None))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in OBJECTIVES]
)
def test_every_objective_is_the_same(twins, name):
    """Tables, batches and samplers against closed forms; loss, gradients and twenty steps between the frameworks."""
    wanted = (
        rungs_core.tables,
        rungs_core.batches,
        rungs_core.samplers,
        rungs_distillation.distillation,
        rungs_network.gradients,
        rungs_training.steps_of_training,
    )
    if name in ("importance", "muon"):
        wanted = (*wanted, rungs_training.going_on)
    hold(climb(twins, subject(name, OBJECTIVES[name]), [(1, rung) for rung in wanted], lambda _: None))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_network_gives_the_same_output(twins, name):
    hold(climb(twins, subject(name, Recipe(CONFIGURATIONS[name])), [(5, rungs_network.network)], lambda _: None))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_network_has_the_same_layers_and_gradients(twins, name):
    rungs = [(5, rungs_network.layers), (6, rungs_network.gradients)]
    hold(climb(twins, subject(name, Recipe(CONFIGURATIONS[name])), rungs, lambda _: None))


def test_a_network_with_an_image_as_a_condition(twins):
    """Class, numbers and an image of two channels: output, layers and gradients."""
    recipe = dataclasses.replace(RECIPES["conditional"], model=IMAGE)
    rungs = [(5, rungs_network.network), (5, rungs_network.layers), (6, rungs_network.gradients)]
    hold(climb(twins, subject("image", recipe), rungs, lambda _: None))


def test_images_of_a_seed_are_pictures_and_differ(twins):
    """Equal images would prove nothing if they were all black or all alike."""
    board, chosen = Board(), subject("unet", RECIPES["unet"])
    found = rungs_images.draw(twins, chosen.recipe, chosen.cast("float32"), 0, 4, board)
    for images in found:
        assert images.shape == (4, *chosen.recipe.image_shape) and images.dtype == np.float32
        assert images.std() > 0.05 and np.abs(images[:2] - images[2:]).max() > 0.1
