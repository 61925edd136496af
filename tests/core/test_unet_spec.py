"""The U-Net as data: names, shapes and totals against diffusers, initial weights against their formula, and the two
configuration files of diffusers."""

import dataclasses
import math

import numpy as np
import pytest

from core.checkpoints.diffusers_config import unet_from_diffusers, unet_to_diffusers
from core.checkpoints.scheduler_config import process_from_diffusers, scheduler_to_diffusers
from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.networks.specs import count_parameters, initial_weights, param_specs, time_frequencies
from core.networks.unet import unet_plan
from eval.parity.configurations import CONFIGURATIONS, FACTORS, factors_of, missing_pairs
from eval.parity.tolerances import STATISTICS_SIGMA

# google/ddpm-cifar10-32, the network of Ho et al. 2020 in diffusers' keys.
CIFAR10 = ModelConfig(
    sample_size=(32, 32),
    in_channels=3,
    out_channels=3,
    freq_shift=1,
    flip_sin_to_cos=False,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(128, 256, 256, 256),
    downsample_padding=0,
    attention_head_dim=None,
    norm_eps=1e-6,
)
NETWORKS = {"cifar-10": CIFAR10, "default": ModelConfig(), **CONFIGURATIONS}


def test_every_pair_of_options_meets_in_some_network():
    networks = list(CONFIGURATIONS.values())
    assert missing_pairs(networks) == []
    for network in networks:
        assert factors_of(network).keys() == FACTORS.keys()
        assert all(factors_of(network)[name] in values for name, values in FACTORS.items())


def test_a_pair_that_is_missing_is_found():
    networks = list(CONFIGURATIONS.values())
    assert ("act_fn", "gelu", "freq_shift", 1) in missing_pairs([n for n in networks if n.freq_shift == 0]) or (
        "freq_shift",
        1,
        "act_fn",
        "gelu",
    ) in missing_pairs([n for n in networks if n.freq_shift == 0])
    no_middle = [n for n in networks if n.mid_block_type]
    assert {(a, x) for a, x, _, _ in missing_pairs(no_middle)} >= {("mid", "none")}


def test_every_option_of_the_network_is_a_factor():
    """Every key of ModelConfig is among the pairs, or is listed here with a reason."""
    elsewhere = {
        "out_channels",  # equal to in_channels in a Recipe
        "down_block_types",
        "up_block_types",
        "mid_block_type",
        "add_attention",  # down_*, up_* and mid
        "architecture",  # these are options of the unet; tests/backend/test_baseline.py has the other one
        "patch_size",  # the network "patches"
        "vector_channels",
        "condition_channels",  # tests/backend/test_conditioning.py
        "dropout",  # a network drawn from is deterministic; tests/backend/test_trainer.py
    }
    assert {f.name for f in dataclasses.fields(ModelConfig)} - elsewhere == {
        n for n in FACTORS if hasattr(ModelConfig(), n)
    }


def test_the_cifar10_network_has_the_papers_35_7_million_parameters():
    assert count_parameters(CIFAR10) == 35_746_307


@pytest.mark.diffusers
@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_diffusers(name):
    import torch
    from diffusers import UNet2DModel

    config = NETWORKS[name]
    pixels = config.patch_size**2  # UNet2DModel has no patches, so it gets their pixels as channels
    channels = {"in_channels": config.in_channels * pixels, "out_channels": config.out_channels * pixels}
    keys = {k: v for k, v in unet_to_diffusers(config).items() if not k.startswith("_")} | channels
    with torch.device("meta"):
        peer = UNet2DModel(**keys)
    assert {n: tuple(v.shape) for n, v in peer.state_dict().items()} == {
        n: s.shape for n, s in param_specs(config).items()
    }
    assert count_parameters(config) == sum(v.numel() for v in peer.parameters())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_initial_weights_follow_their_formula(name):
    """Uniform of variance 1 / fan_avg (var(uniform(-a, a)) = a^2 / 3); the branches' last layers are zero."""
    config = CONFIGURATIONS[name]
    weights, specs = initial_weights(config, 7, "float64"), param_specs(config)
    assert weights.keys() == specs.keys()
    for key, value in weights.items():
        assert value.shape == specs[key].shape
        if key.endswith(("conv2.weight", "to_out.0.weight", "conv_out.weight", ".bias")):
            assert not value.any()
        elif value.ndim == 1:
            assert np.all(value == 1)  # norms
        elif key == "class_embedding.weight":
            assert abs(value.var() - 1) < STATISTICS_SIGMA * math.sqrt(2 / value.size)
        else:
            out, into, *kernel = value.shape
            a = math.sqrt(3 / (math.prod(kernel) * (into + out) / 2))
            assert np.abs(value).max() <= a
            # Variance of u^2 over uniform(-a, a) is 4 a^4 / 45.
            assert abs((value**2).mean() - a * a / 3) < STATISTICS_SIGMA * math.sqrt(4 / 45 / value.size) * a * a


def test_initial_weights_depend_on_the_seed_and_the_name_and_nothing_else():
    small = CONFIGURATIONS["network-01"]
    one, same, other = (initial_weights(small, seed) for seed in (1, 1, 2))
    drawn = [n for n, v in one.items() if v.ndim > 1 and v.any()]
    assert all(one[n].tobytes() == same[n].tobytes() and (one[n] != other[n]).any() for n in drawn)
    assert all(v.dtype == np.float32 for v in one.values())
    double = initial_weights(small, 1, "float64")
    assert all((double[n].astype(np.float32) == one[n]).all() for n in one)
    # Another option of the network leaves the draws of equal layers alone.
    flipped = initial_weights(dataclasses.replace(small, flip_sin_to_cos=not small.flip_sin_to_cos), 1)
    assert all(flipped[n].tobytes() == one[n].tobytes() for n in one)
    first = [v.ravel()[:4] for n, v in one.items() if n in drawn]
    assert len(np.unique(np.round(first, 9), axis=0)) == len(first)


@pytest.mark.parametrize("shift", (0, 1))
def test_time_frequencies_by_hand(shift):
    config = dataclasses.replace(ModelConfig(), freq_shift=shift)
    found = time_frequencies(config)
    expected = [10_000.0 ** (-i / (16 - shift)) for i in range(16)]
    assert found.dtype == np.float64 and np.allclose(found, expected, rtol=1e-14, atol=0)
    assert found[0] == 1 and (shift == 0 or np.isclose(found[-1], 1e-4, rtol=1e-14))


def test_the_plan_of_the_middle_attention():
    """diffusers: no norm there with scale_shift, unless attn_norm_num_groups asks for one."""
    groups = {}
    for shift in ("default", "scale_shift"):
        for own in (None, 2):
            config = dataclasses.replace(ModelConfig(), resnet_time_scale_shift=shift, attn_norm_num_groups=own)
            (attention,) = unet_plan(config).mid.attentions
            assert attention.heads == 64 // 8
            groups[shift, own] = attention.groups
    assert groups == {
        ("default", None): 32,
        ("default", 2): 2,
        ("scale_shift", None): None,
        ("scale_shift", 2): 2,
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_survives_diffusers_configuration_file(name):
    config = NETWORKS[name]
    values = unet_to_diffusers(config)
    assert values["_class_name"] == ("UNet2DModel" if config.patch_size == 1 else "DiptychPatchUNet")
    assert unet_from_diffusers(values) == dataclasses.replace(config, patch_size=1)  # recipe.json has the patches


@pytest.mark.diffusers
def test_a_file_that_leaves_keys_out_means_diffusers_defaults():
    import torch
    from diffusers import UNet2DModel

    with torch.device("meta"):
        peer = UNet2DModel()
    config = unet_from_diffusers({})
    assert {n: s.shape for n, s in param_specs(config).items()} == {
        n: tuple(v.shape) for n, v in peer.state_dict().items()
    }
    theirs = {k: v for k, v in peer.config.items() if k in unet_to_diffusers(config) and k[0] != "_"}
    ours = unet_to_diffusers(config)
    differing = {k for k in theirs if ours[k] != (list(v) if isinstance(v := theirs[k], tuple) else v)}
    assert differing == {"sample_size"}  # null there: any


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name = 'UNet2DConditionModel': only UNet2DModel can be read"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier' is not supported (only 'positional')"),
        ({"time_embedding_dim": 64}, "time_embedding_dim = 64 is not supported"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep' is not supported"),
        ({"num_train_timesteps": 1000}, "num_train_timesteps = 1000 is not supported"),
        ({"cross_attention_dim": 8}, "key 'cross_attention_dim' is not supported"),
        ({"block_out_channel": [8]}, "key 'block_out_channel' is not supported; did you mean block_out_channels?"),
        ({"act_fn": "mish"}, "model.act_fn = 'mish'"),
        ({"down_block_types": ["SkipDownBlock2D"] * 4}, "'SkipDownBlock2D'"),
        ({"norm_num_groups": 5}, "model.norm_num_groups = 5"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        unet_from_diffusers(values, "a/config.json")
    assert str(error.value).startswith("a/config.json: ") and message in str(error.value)


def test_old_files_name_blocks_otherwise_and_hold_numbers_as_floats():
    old = {
        "down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"],
        "up_block_types": ["UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
        "block_out_channels": [32, 64],
        "attention_head_dim": 8.0,
        "sample_size": 16,
    }
    config = unet_from_diffusers(old)
    assert config.down_block_types == ("DownBlock2D", "AttnDownBlock2D") and config.sample_size == (16, 16)
    assert config.up_block_types == ("AttnUpBlock2D", "UpBlock2D") and config.attention_head_dim == 8


PROCESSES = [
    ProcessConfig(),
    ProcessConfig(250, "scaled_linear", 1e-3, 0.03, prediction="v", zero_terminal_snr=True),
    ProcessConfig(schedule="cosine", prediction="x0"),
    ProcessConfig(schedule="sigmoid"),
]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_process_survives_diffusers_configuration_file(process):
    assert process_from_diffusers(scheduler_to_diffusers(process, SamplingConfig())) == process


@pytest.mark.diffusers
@pytest.mark.parametrize("process", PROCESSES)
def test_diffusers_scheduler_reads_the_process(process):
    """Its tables are float32, so equality of the schedule is to 1e-4; test_diffusion_schedules is exact."""
    from diffusers import DDPMScheduler

    from core.diffusion.process import make_process

    values = {k: v for k, v in scheduler_to_diffusers(process, SamplingConfig("ddpm")).items() if k[0] != "_"}
    peer = DDPMScheduler.from_config(values)
    assert {k: peer.config[k] for k in values} == values
    # Zero terminal signal is 2^-24 there, so the last level is left out.
    ours = make_process(process).alphas_cumprod[:-1]
    assert np.abs(peer.alphas_cumprod.numpy()[:-1] - ours).max() < 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trained_betas": [0.1]}, "trained_betas is not supported"),
        ({"beta_schedule": "laplace"}, "beta_schedule = 'laplace' is not supported"),
        ({"prediction_type": "flow"}, "prediction_type = 'flow' is not supported (only epsilon, sample, v_prediction)"),
        ({"num_train_timesteps": 1}, "process.timesteps = 1"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name = 'ScoreSdeVeScheduler' is not supported"),
    ],
)
def test_a_process_that_is_not_supported_is_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        process_from_diffusers(values, "s.json")
    assert str(error.value).startswith("s.json: ") and message in str(error.value)
