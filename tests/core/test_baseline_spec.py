"""The baseline network as data: its configuration, names, initial weights, upsampling matrix and files.

Names and shapes against the original's structure in PyTorch's own layers: tests/backend/test_baseline.py.
"""

import dataclasses
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.checkpoints.diffusers_config import unet_from_diffusers, unet_to_diffusers
from core.checkpoints.importing import read_unet
from core.checkpoints.sums import make_progress
from core.config import ARCHITECTURES, Architecture, ModelConfig, Recipe
from core.config.recipes import from_dict, load_recipe, to_dict
from core.networks.baseline import baseline_from_state_dict, baseline_plan, bilinear_matrix
from core.networks.specs import NETWORKS, count_parameters, initial_weights, param_specs, time_frequencies
from core.reading import read_json
from eval.parity.tolerances import STATISTICS_SIGMA

ORIGINAL = ModelConfig((64, 64), block_out_channels=(64, 128, 256, 256), architecture="baseline")
QUARTER = ModelConfig((32, 32), block_out_channels=(16, 32, 64, 64), architecture="baseline")
TINY = ModelConfig((8, 16), 2, 2, block_out_channels=(4, 8, 16, 16), num_class_embeds=3, architecture="baseline")


def test_every_architecture_has_its_rows():
    assert set(ARCHITECTURES) == set(NETWORKS) == set(get_args(Architecture))
    keys = {field.name for field in dataclasses.fields(ModelConfig)}
    assert all(set(row.keys) <= keys for row in ARCHITECTURES.values())
    assert len({row.class_name for row in NETWORKS.values()}) == len(NETWORKS)


def test_the_original_has_23_331_457_parameters_at_one_channel():
    assert count_parameters(ORIGINAL) == 23_331_457
    # Two more channels in (3x3 kernels) and out (a 1x1 kernel and a bias), 64 wide; a class costs 256.
    three = dataclasses.replace(ORIGINAL, in_channels=3, out_channels=3, num_class_embeds=10)
    assert count_parameters(three) - count_parameters(ORIGINAL) == 2 * 9 * 64 + 2 * (64 + 1) + 10 * 256


@pytest.mark.parametrize("config", (ORIGINAL, TINY), ids=("original", "tiny"))
def test_stages_hand_their_channels_on(config):
    """A stage's input channels are the output channels before it, plus those of the skip on the way up."""
    stages = {stage.name: stage for stage in baseline_plan(config)}
    skips = {"up1": "sa2", "up2": "sa1", "up3": "inc"}
    before = config.in_channels
    for name, stage in stages.items():
        skip = stages[skips[name]].out_channels if name in skips else 0
        assert stage.in_channels == before + skip, name
        before = stage.out_channels
    assert before == config.block_out_channels[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "model.block_out_channels = (32, 64, 64): must be (c, 2c, 4c, 4c) with c a multiple of 4"),
        ({"block_out_channels": []}, "model.block_out_channels = ()"),
        ({"block_out_channels": [6, 12, 24, 24]}, "model.block_out_channels = (6, 12, 24, 24)"),
        ({"block_out_channels": [64, 128, 256]}, "model.block_out_channels"),
        ({"block_out_channels": [8, 16, 32, 64]}, "model.block_out_channels"),
        ({"sample_size": [8, 12]}, "width 12 is not divisible by 8, which a network of 4 levels needs; 8 or 16 fits"),
        ({"in_channels": 0}, "model.in_channels = 0"),
        ({"out_channels": 0}, "model.out_channels = 0"),
        ({"num_class_embeds": 0}, "model.num_class_embeds = 0"),
        ({"dropout": 0.1}, "model.dropout = 0.1: must be left out where architecture is baseline"),
        ({"act_fn": "gelu"}, "model.act_fn = 'gelu': must be left out where architecture is baseline, which has only"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "model.down_block_types"),
        ({"up_block_types": ["UpBlock2D"] * 4}, "model.up_block_types"),
        ({"mid_block_type": None}, "model.mid_block_type = None"),
    ],
)
def test_what_the_baseline_cannot_be_is_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        from_dict(
            ModelConfig,
            {"architecture": "baseline", "block_out_channels": [8, 16, 32, 32], **values}
            if values
            else {"architecture": "baseline"},
            "model",
        )
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_unet_refuses_the_baselines_channels_without_its_block_types():
    with pytest.raises(ValueError, match="as long as block_out_channels"):
        ModelConfig(block_out_channels=(8, 16, 32, 32), norm_num_groups=4)


@pytest.mark.parametrize(("labels", "classes", "message"), [(True, None, "given"), (False, 3, "missing")])
def test_labels_must_go_with_the_network(labels, classes, message):
    config = dataclasses.replace(TINY, num_class_embeds=classes)
    with pytest.raises(ValueError, match=f"labels: {message}, but num_class_embeds = {classes}"):
        config.check_condition(1 if labels else None)
    config.check_condition(None if labels else 1)


def test_initial_weights_follow_pytorchs_bounds():
    """Uniform within 1 / sqrt(fan_in), biases by their layer's fan_in; in_proj by fan_in + fan_out, biases zero."""
    weights = initial_weights(QUARTER, 3, "float64")
    assert list(weights) == list(param_specs(QUARTER))
    for name, value in weights.items():
        path, leaf = name.rsplit(".", 1)
        if (
            value.ndim == 1
            and weights[f"{path}.weight" if leaf in ("weight", "bias") else f"{path}.out_proj.weight"].ndim == 1
        ):
            assert np.all(value == (leaf == "weight")), name  # norms
            continue
        if ".mha." in name and value.ndim == 1:
            assert not value.any(), name
            continue
        layer = value if value.ndim > 1 else weights[f"{path}.weight"]
        fan_in = math.prod(layer.shape[1:])
        bound = math.sqrt(6 / (fan_in + layer.shape[0])) if leaf == "in_proj_weight" else 1 / math.sqrt(fan_in)
        assert 0 < np.abs(value).max() <= bound, name
        # Variance of u^2 over uniform(-a, a) is 4 a^4 / 45.
        spread = STATISTICS_SIGMA * math.sqrt(4 / 45 / value.size) * bound**2
        assert abs((value**2).mean() - bound**2 / 3) < spread, name
    embedding = initial_weights(TINY, 3, "float64")["label_emb.weight"]
    assert abs(embedding.var() - 1) < STATISTICS_SIGMA * math.sqrt(2 / embedding.size)


def test_time_frequencies_are_the_originals_at_any_width():
    expected = [10_000.0 ** (-i / 256) for i in range(0, 256, 2)]
    for config in (ORIGINAL, TINY):
        assert np.allclose(time_frequencies(config), expected, rtol=1e-14, atol=0)


def test_the_upsampling_matrix_by_hand():
    thirds = [[3, 0], [2, 1], [1, 2], [0, 3]]
    assert np.allclose(bilinear_matrix(2), np.array(thirds) / 3, rtol=0, atol=1e-15)
    assert (bilinear_matrix(1) == 1).all() and bilinear_matrix(1).shape == (2, 1)
    # Linear functions are kept, first on first and last on last.
    line = bilinear_matrix(7) @ np.arange(7.0)
    assert np.allclose(line, np.linspace(0, 6, 14), rtol=0, atol=1e-14)


def test_a_state_dict_tells_its_configuration():
    for config in (QUARTER, TINY):
        weights = initial_weights(config, 0)
        assert baseline_from_state_dict(weights, config.sample_size) == config
    default = baseline_from_state_dict(initial_weights(QUARTER, 0))
    assert default == dataclasses.replace(QUARTER, sample_size=(64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {n: v for n, v in w.items() if n != "sa3.ln.bias"},
            r"1 missing, 0 left over \(missing sa3\.ln\.bias\)",
        ),
        (lambda w: {**w, "sa7.ln.bias": w["sa3.ln.bias"]}, r"0 missing, 1 left over \(left over sa7\.ln\.bias\)"),
        (
            lambda w: {**w, "bot1.double_conv.0.weight": w["bot2.double_conv.0.weight"]},
            r"bot1\.double_conv\.0\.weight has shape",
        ),
        (lambda w: {f"module.{n}": v for n, v in w.items()}, r"no convolution inc\.double_conv\.0\.weight"),
        (lambda w: {n: v for n, v in w.items() if n != "outc.weight"}, r"no convolution outc\.weight"),
        (
            lambda w: {**w, "inc.double_conv.0.weight": w["inc.double_conv.0.weight"][:3]},
            r"model\.block_out_channels = \(3, 6",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=r"^old\.pt: .*" + message):
        baseline_from_state_dict(change(initial_weights(TINY, 0)), (8, 16), "old.pt")


def test_its_configuration_file_is_its_own_and_the_unets_has_no_new_key():
    for config in (ORIGINAL, QUARTER, TINY):
        values = unet_to_diffusers(config)
        assert values["_class_name"] == "DiptychBaselineUNet" and unet_from_diffusers(values) == config
        assert set(values) == {
            "_class_name",
            "sample_size",
            "in_channels",
            "out_channels",
            "block_out_channels",
            "num_class_embeds",
        }
    assert "architecture" not in unet_to_diffusers(ModelConfig())
    with pytest.raises(ValueError, match=r"a\.json: model\.norm_eps = 1e-06: must be left out"):
        unet_from_diffusers({**unet_to_diffusers(TINY), "norm_eps": 1e-6}, "a.json")


def test_a_checkpoint_folder_says_that_it_is_not_diffusers(tmp_path):
    recipe = Recipe(TINY)
    ema = initial_weights(TINY, 0)
    state = {f"{part}/{n}": v for part in ("params", "exp_avg", "exp_avg_sq") for n, v in ema.items()}
    progress = make_progress(recipe, 1, {"adam_steps": 1, "skipped": 0, "skipped_in_a_row": 0})
    save_checkpoint(tmp_path / "a", Checkpoint(recipe, ema, state, progress, {}))
    index = read_json(tmp_path / "a" / "model_index.json")
    assert index["_class_name"] == "DiptychBaselinePipeline" and index["unet"] == ["diptych", "DiptychBaselineUNet"]
    assert "diffusers cannot open it" in (tmp_path / "a" / "README").read_text()
    assert load_checkpoint(tmp_path / "a").recipe == recipe
    config, weights = read_unet(tmp_path / "a")
    assert config == TINY and all((weights[n] == ema[n]).all() for n in ema)


def test_its_recipe_differs_from_ours_in_the_network_alone_and_takes_a_quarter_of_the_channels():
    configs = Path(__file__).resolve().parents[2] / "configs"
    recipe, ours = (load_recipe(configs / f"{name}.toml") for name in ("baseline-64", "lens-64"))
    assert recipe.model == ORIGINAL
    training = dataclasses.replace(recipe.training, accumulate=ours.training.accumulate)  # which changes no result
    assert dataclasses.replace(recipe, model=ours.model, training=training) == ours
    assert from_dict(Recipe, {**to_dict(recipe), "model": to_dict(QUARTER)}).model == QUARTER
