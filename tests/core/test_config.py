"""Recipes: every rule refuses a bad value by name, unknown keys name the nearest, TOML and JSON round trip."""

import dataclasses
import json
import typing

import pytest

from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.nearest import nearest
from core.config.recipes import from_dict, load_recipe, to_dict

PARTS = {
    "model": ModelConfig,
    "process": ProcessConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "sampling": SamplingConfig,
}

# (part, values, a piece of the message); every key of every part whose values are limited stands here.
BAD = [
    ("model", {"block_out_channels": []}, "model.block_out_channels = ()"),
    ("model", {"block_out_channels": [2, 32, 32]}, "at least 4 each"),
    ("model", {"block_out_channels": [33, 33, 33], "norm_num_groups": 3}, "the first even"),
    ("model", {"down_block_types": ["DownBlock2D"]}, "as long as block_out_channels (3)"),
    ("model", {"up_block_types": ["UpBlock2D"]}, "and so must up_block_types"),
    ("model", {"down_block_types": ["DownBlock2D"] * 2 + ["SkipDownBlock2D"]}, "'SkipDownBlock2D': must be one of"),
    ("model", {"up_block_types": ["UpBlock2D"] * 2 + ["SkipUpBlock2D"]}, "'SkipUpBlock2D': must be one of"),
    ("model", {"mid_block_type": "UNetMidBlock2DCrossAttn"}, "UNetMidBlock2D or null"),
    ("model", {"act_fn": "relu"}, "model.act_fn = 'relu': must be one of ('silu', 'gelu')"),
    ("model", {"downsample_type": "pool"}, "model.downsample_type"),
    ("model", {"upsample_type": "bilinear"}, "model.upsample_type"),
    ("model", {"resnet_time_scale_shift": "ada_group"}, "model.resnet_time_scale_shift"),
    ("model", {"downsample_padding": 2}, "model.downsample_padding = 2"),
    ("model", {"freq_shift": 2}, "model.freq_shift = 2"),
    ("model", {"in_channels": 0}, "model.in_channels = 0: must be at least 1"),
    ("model", {"out_channels": 0}, "model.out_channels = 0"),
    ("model", {"layers_per_block": 0}, "model.layers_per_block = 0"),
    ("model", {"patch_size": 0}, "model.patch_size = 0"),
    ("model", {"norm_num_groups": 0}, "model.norm_num_groups = 0"),
    ("model", {"norm_num_groups": 24}, "a divisor of every block_out_channels (32, 64, 64)"),
    ("model", {"attn_norm_num_groups": 7}, "model.attn_norm_num_groups = 7: must be a divisor of 64"),
    ("model", {"attention_head_dim": 5}, "model.attention_head_dim = 5: must be a divisor of 64"),
    ("model", {"dropout": 1.0}, "model.dropout = 1.0: must be in [0, 1)"),
    ("model", {"norm_eps": 0.0}, "model.norm_eps"),
    ("model", {"mid_block_scale_factor": 0.0}, "model.mid_block_scale_factor"),
    ("model", {"num_class_embeds": 0}, "model.num_class_embeds"),
    ("model", {"architecture": "dit"}, "model.architecture = 'dit': must be one of unet, baseline"),
    ("data", {"space": "sphere"}, "data.space = 'sphere'"),
    ("data", {"whiten": "cholesky"}, "data.whiten = 'cholesky'"),
    ("data", {"space": "spd"}, "model.architecture = 'unet': must be chart where data.space is spd"),
    ("model", {"sample_size": [30, 32]}, "height 30 is not divisible by 4"),
    (
        "model",
        {"sample_size": [32, 2]},
        "width 2 is not divisible by 4, which a network of 3 levels needs; 4 or 8 fits",
    ),
    ("process", {"timesteps": 1}, "process.timesteps = 1"),
    ("process", {"schedule": "quadratic"}, "process.schedule = 'quadratic': must be one of linear, scaled_linear"),
    ("process", {"beta_start": 0.0}, "0 < beta_start <= beta_end < 1"),
    ("process", {"beta_start": 0.1}, "0 < beta_start <= beta_end < 1"),
    ("process", {"beta_end": 1.0}, "0 < beta_start <= beta_end < 1"),
    ("process", {"prediction": "epsilon"}, "process.prediction = 'epsilon': must be one of eps, x0, v, flow, edm"),
    (
        "process",
        {"prediction": "v", "schedule": "edm"},
        "process.prediction = 'v': must be another where schedule is edm",
    ),
    ("process", {"schedule": "flow"}, "process.prediction = 'eps' with schedule = 'flow'"),
    (
        "process",
        {"schedule": "flow", "prediction": "flow", "zero_terminal_snr": True},
        "process.zero_terminal_snr = True: must be false where schedule is flow",
    ),
    ("process", {"schedule": "flow", "prediction": "flow", "shift": 0.0}, "process.shift = 0.0: must be above 0"),
    ("process", {"shift": 3.0}, "process.shift = 3.0: must be 1 where schedule is linear; only flow has it"),
    ("process", {"sigma_min": 0.0}, "0 < sigma_min < sigma_max"),
    ("process", {"sigma_max": 0.001}, "0 < sigma_min < sigma_max"),
    ("process", {"sigma_max": float("inf")}, "process.sigma_max = inf: must be finite"),
    ("process", {"sigma_data": 0.0}, "process.sigma_data = 0.0: must be above 0"),
    ("process", {"loss_weight": "p3"}, "process.loss_weight = 'p3': must be one of simple, min_snr, p2, edm"),
    ("process", {"variance": "small"}, "process.variance = 'small': must be one of fixed, learned"),
    ("process", {"variance": "learned"}, "process.loss = 'simple': must be hybrid or vlb where variance is learned"),
    (
        "process",
        {"variance": "learned", "loss": "hybrid", "schedule": "edm"},
        "process.variance = 'learned': must be fixed where schedule is edm",
    ),
    ("process", {"loss": "vlb"}, "process.loss = 'vlb': must be simple where variance is fixed"),
    (
        "process",
        {"variance": "learned", "loss": "vlb", "loss_weight": "p2"},
        "process.loss_weight = 'p2': must be simple with loss vlb",
    ),
    ("process", {"vlb_weight": 0.0}, "process.vlb_weight = 0.0: must be above 0"),
    (
        "process",
        {"variance": "learned", "loss": "hybrid"},
        "model.out_channels = 1: must equal twice in_channels 1, the second half",
    ),
    (
        "sampling",
        {"variance": "learned"},
        "sampling.variance = 'learned': must be fixed_small or fixed_large where process.variance is fixed",
    ),
    ("process", {"p2_k": 0.0}, "process.p2_k = 0.0: must be above 0"),
    ("process", {"p2_gamma": -1.0}, "process.p2_gamma = -1.0: must be at least 0"),
    ("process", {"stretch": -0.1}, "process.stretch = -0.1: must be at least 0"),
    ("process", {"stretch": 0.1, "variance": "learned", "loss": "vlb"}, "process.stretch = 0.1: must be 0 where"),
    ("process", {"min_snr_gamma": 0.0}, "process.min_snr_gamma"),
    ("process", {"zero_terminal_snr": True}, "use prediction v or x0"),
    ("data", {"low_resolution": 1}, "data.low_resolution = 1: must be 0, or at least 2"),
    ("data", {"beside": "a", "low_resolution": 2}, "data.low_resolution = 2: must be 0 with data.beside"),
    ("data", {"beside_size": 0}, "data.beside_size = (0, 0): must be at least 1 pixel high and wide"),
    ("data", {"beside_fit": "stretch"}, "data.beside_fit = 'stretch': must be one of exact, resize, crop, pad"),
    ("data", {"beside": "simulate:degraded", "beside_psf": 0.0}, "data.beside_psf = 0.0: must be above 0 and below"),
    ("data", {"beside": "simulate:degraded", "beside_psf": 8.0}, "below data.field_of_view 7.5"),
    ("data", {"beside_noise": -0.1}, "data.beside_noise = -0.1: must be at least 0"),
    ("data", {"beside": "a", "skip_broken": True}, "data.skip_broken = True: must be false with data.beside"),
    ("data", {"beside": "a"}, "model.condition_channels = 0: must be the number of channels of the images with"),
    ("data", {"source": ""}, "data.source"),
    ("data", {"simulate_count": 1}, "data.simulate_count"),
    ("data", {"simulate_seed": -1}, "data.simulate_seed"),
    ("data", {"simulate_seed": 2**63}, "data.simulate_seed"),
    ("data", {"simulate_classes": ["axion"]}, "among no, sphere, vort"),
    ("data", {"simulate_classes": []}, "at least one class"),
    ("data", {"simulate_classes": ["no", "no"]}, "named once each"),
    ("data", {"field_of_view": 0.0}, "data.field_of_view"),
    ("data", {"fit": "stretch"}, "data.fit = 'stretch': must be one of exact, resize, crop, pad"),
    ("data", {"normalise": "z"}, "data.normalise"),
    ("data", {"held_out": 1.0}, "data.held_out"),
    (
        "data",
        {"condition": ["theta_e"]},
        "data.condition = ('theta_e',): must be as many names as model.vector_channels = 0",
    ),
    ("data", {"condition": ["theta_e", "theta_e"]}, "parameters named once each"),
    ("model", {"vector_channels": -1}, "model.vector_channels = -1"),
    ("model", {"vector_channels": 2}, "data.condition = (): must be as many names as model.vector_channels = 2"),
    ("model", {"condition_channels": 1}, "model.condition_channels = 1: must be at least 0 and below in_channels 1"),
    ("training", {"condition_dropout": 1.0}, "training.condition_dropout = 1.0: must be in [0, 1)"),
    ("training", {"condition_dropout": 0.1}, "0 where there are neither classes nor data.condition"),
    ("sampling", {"guidance": -1.0}, "sampling.guidance = -1.0"),
    ("sampling", {"guidance": 2.0}, "sampling.guidance = 2.0: must be 1 without training.condition_dropout"),
    ("sampling", {"guidance_min": -1.0}, "sampling.guidance_min"),
    (
        "sampling",
        {"guidance_min": 2.0, "guidance_max": 1.0},
        "sampling.guidance_max = 1.0: must be above guidance_min, or 0",
    ),
    *[
        ("training", {key: 0}, f"training.{key} = 0: must be at least 1")
        for key in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every")
    ],
    *[
        ("training", {key: -1}, f"training.{key} = -1")
        for key in (
            "warmup_steps",
            "sample_every",
            "sample_count",
            "keep_checkpoints",
            "threads",
            "weight_decay",
            "clip_norm",
            "seed",
        )
    ],
    ("training", {"batch_size": 10, "accumulate": 4}, "training.accumulate = 4: must be a divisor of batch_size 10"),
    ("training", {"optimizer": "sgd"}, "training.optimizer = 'sgd': must be one of adam, adamw, muon"),
    ("training", {"learning_rate": 0.0}, "training.learning_rate"),
    ("training", {"learning_rate": float("inf")}, "training.learning_rate"),
    ("training", {"muon_learning_rate": 0.0}, "training.muon_learning_rate = 0.0: must be above 0"),
    ("training", {"muon_learning_rate": float("nan")}, "training.muon_learning_rate"),
    ("training", {"decay": "step"}, "training.decay"),
    *[
        ("training", {key: 1.5}, f"training.{key} = 1.5: must be in [0, 1]")
        for key in ("decay_start", "final_fraction")
    ],
    *[
        ("training", {key: 1.0}, f"training.{key} = 1.0: must be in [0, 1)")
        for key in ("muon_momentum", "beta1", "beta2", "ema_decay")
    ],
    ("training", {"timestep_sampling": "normal"}, "must be one of uniform, log_normal, importance"),
    ("training", {"ema_profiles": [0.3]}, "training.ema_profiles = 0.3: must be above 0 and below 0.2887 each"),
    ("training", {"ema_profiles": [0.1, 0.1]}, "training.ema_profiles = (0.1, 0.1): must be named once each"),
    ("training", {"p_mean": float("nan")}, "training.p_mean"),
    ("training", {"p_std": 0.0}, "training.p_std = 0.0: must be above 0"),
    ("training", {"adam_eps": 0.0}, "training.adam_eps"),
    ("training", {"dtype": "float16"}, "training.dtype"),
    ("training", {"autocast": "fp16"}, "training.autocast"),
    ("training", {"autocast": "bf16", "dtype": "float64"}, "none where dtype is float64"),
    ("sampling", {"sampler": "plms"}, "sampling.sampler = 'plms': must be one of ddpm, ddim, dpmsolver++"),
    ("sampling", {"steps": 0}, "sampling.steps"),
    ("sampling", {"steps": 1001}, "at most process.timesteps 1000"),
    ("sampling", {"spacing": "even"}, "sampling.spacing"),
    ("sampling", {"eta": 1.5}, "sampling.eta"),
    ("sampling", {"variance": "small"}, "sampling.variance"),
    ("sampling", {"order": 5}, "sampling.order"),
    ("sampling", {"unipc_variant": "bh3"}, "sampling.unipc_variant"),
    ("sampling", {"churn": -1.0}, "sampling.churn"),
    ("sampling", {"churn_min": -1.0}, "sampling.churn_min"),
    ("sampling", {"churn_min": 2.0, "churn_max": 1.0}, "sampling.churn_max = 1.0: must be above churn_min, or 0"),
    ("sampling", {"churn_noise": -1.0}, "sampling.churn_noise"),
    ("sampling", {"dynamic_threshold": 1.5}, "sampling.dynamic_threshold"),
    ("sampling", {"dynamic_threshold": 0.9, "clip": False}, "sampling.dynamic_threshold"),
    ("sampling", {"nfe": -1}, "sampling.nfe"),
    ("sampling", {"noise": "gpu"}, "sampling.noise = 'gpu': must be one of host, device"),
    ("sampling", {"batch_size": 0}, "sampling.batch_size"),
]


@pytest.mark.parametrize(("part", "values", "message"), BAD)
def test_a_bad_value_is_refused_by_name(part, values, message):
    with pytest.raises(ValueError) as error:
        from_dict(Recipe, {part: values})
    assert message in str(error.value) and "\n" not in str(error.value)


# What any value of the right type is allowed for.
FREE = {
    "model": {"center_input_sample", "flip_sin_to_cos", "add_attention"},
    "data": {"augment", "cache", "skip_broken"},
    "training": {"gradient_checkpointing", "stratified"},
    "sampling": {"clip"},
}


@pytest.mark.parametrize("part", PARTS)
def test_every_key_has_a_value_that_is_refused(part):
    refused = {key for where, values, _ in BAD if where == part for key in values}
    assert refused | FREE.get(part, set()) == {field.name for field in dataclasses.fields(PARTS[part])}


@pytest.mark.parametrize("part", PARTS)
def test_every_key_refuses_another_type(part):
    hints = typing.get_type_hints(PARTS[part])
    for key in hints:
        with pytest.raises(ValueError, match=rf"{part}\.{key} = \{{'a': 1\}}"):
            from_dict(Recipe, {part: {key: {"a": 1}}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainig": {}}, "unknown key 'trainig'; did you mean training?"),
        ({"training": {"batchsize": 3}}, "unknown key 'training.batchsize'; did you mean batch_size?"),
        ({"training": {"lr": 3}}, "unknown key 'training.lr'"),
        ({"training": 3}, "training = 3: must be a table"),
        ({"model": {"in_channels": True}}, "model.in_channels = True: must be int"),
        ({"model": {"in_channels": 1.0}}, "model.in_channels = 1.0: must be int"),
        ({"model": {"dropout": "0.1"}}, "model.dropout = '0.1': must be float"),
        ({"model": {"dropout": False}}, "model.dropout = False: must be float"),
        ({"model": {"center_input_sample": 1}}, "model.center_input_sample = 1: must be bool"),
        ({"model": {"sample_size": [32]}}, "model.sample_size = [32]: must be a list of 2"),
        ({"model": {"block_out_channels": [32, 64.0, 64]}}, "model.block_out_channels = 64.0: must be int"),
        ({"model": {"block_out_channels": "32"}}, "must be a list"),
        ({"model": {"in_channels": 3}}, "model.out_channels = 1: must equal in_channels 3"),
        (
            {"model": {"dropout": 0.1}, "training": {"gradient_checkpointing": True}},
            "training.gradient_checkpointing = True: must be false where model.dropout = 0.1",
        ),
        (
            {
                "model": {"architecture": "baseline", "block_out_channels": [4, 8, 16, 16]},
                "training": {"gradient_checkpointing": True},
            },
            "training.gradient_checkpointing = True: must be false where model.architecture is baseline",
        ),
        ({"data": {"augment": True, "source": "simulate:model-1"}}, "data.augment = true with simulate:model-1"),
        (
            {"model": {"vector_channels": 1}, "data": {"augment": True, "source": "a.npz", "condition": ["x"]}},
            "data.augment = True: must be false with data.condition",
        ),
        (
            {"model": {"num_class_embeds": 1}, "training": {"condition_dropout": 0.1}},
            "model.num_class_embeds = 1: must be at least 2 with training.condition_dropout",
        ),
        (
            {"model": {"in_channels": 3, "condition_channels": 1}},
            "model.out_channels = 1: must equal in_channels 3 - condition_channels 1",
        ),
        (
            {"model": {"in_channels": 3, "condition_channels": 1, "out_channels": 2}, "data": {"low_resolution": 2}},
            "model.condition_channels = 1: must be the image's 2 with data.low_resolution",
        ),
        (
            {"model": {"in_channels": 2, "condition_channels": 1}, "data": {"low_resolution": 3}},
            "data.low_resolution = 3: must be a divisor of model.sample_size (64, 64)",
        ),
        (
            {"model": {"in_channels": 3, "condition_channels": 2}, "data": {"beside": "simulate:degraded"}},
            "model.condition_channels = 2: must be the image's 1 with data.beside = 'simulate:degraded'",
        ),
        (
            {
                "model": {"in_channels": 2, "condition_channels": 1},
                "data": {"beside": "simulate:degraded", "beside_size": [16, 24]},
            },
            "data.beside_size = (16, 24): must be made of divisors of model.sample_size (64, 64)",
        ),
    ],
)
def test_a_wrong_key_or_type_is_refused_in_one_line(values, message):
    with pytest.raises(ValueError) as error:
        from_dict(Recipe, values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_nothing_near_is_not_suggested():
    assert nearest("xyzzy", ["batch_size", "steps"]) == ""


RECIPE = """
[model]
sample_size = 16
in_channels = 3
out_channels = 3
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
block_out_channels = [8, 16]
norm_num_groups = 4
attention_head_dim = "none"
num_class_embeds = 3
[process]
schedule = "cosine"
prediction = "v"
zero_terminal_snr = true
[training]
learning_rate = 1
batch_size = 8
accumulate = 4
[sampling]
sampler = "ddpm"
"""
EXPECTED = Recipe(
    ModelConfig(
        (16, 16),
        3,
        3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=None,
        num_class_embeds=3,
    ),
    ProcessConfig(schedule="cosine", prediction="v", zero_terminal_snr=True),
    training=TrainingConfig(learning_rate=1.0, batch_size=8, accumulate=4),
    sampling=SamplingConfig("ddpm"),
)


def test_a_toml_recipe_is_read_and_survives_json(tmp_path):
    (tmp_path / "a.toml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "a.toml")
    assert recipe == EXPECTED and type(recipe.training.learning_rate) is float
    assert recipe.image_shape == (16, 16, 3)
    (tmp_path / "recipe.json").write_text(json.dumps(to_dict(recipe)))
    again = load_recipe(tmp_path / "recipe.json")
    assert again == recipe and again.model.sample_size == (16, 16) and hash(again) == hash(recipe)


def test_the_empty_recipe_is_the_default():
    assert from_dict(Recipe, {}) == Recipe()
    for name, part in PARTS.items():
        assert getattr(Recipe(), name) == part()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", b"[model\n"),
        ("a.toml", b"\xff\xfe"),
        ("a.toml", b"[model]\nchannels = 3\n"),
        ("a.json", b'{"model": '),
        ("a.json", b'{"model": {"in_channels": 0}}'),
    ],
)
def test_a_recipe_that_cannot_be_read_names_its_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_recipe(tmp_path / name)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"b\.toml: no such file"):
        load_recipe(tmp_path / "b.toml")


@pytest.mark.parametrize(("size", "fits"), [((8, 12), True), ((4, 4), True), ((8, 10), False), ((0, 8), False)])
def test_sizes_that_fit(size, fits):
    config = ModelConfig()
    assert config.downscale == 4
    if fits:
        config.check_size(*size)
    else:
        with pytest.raises(ValueError, match="not divisible by 4"):
            config.check_size(*size)
