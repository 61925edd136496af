"""Faults of which the parity ladder must find every one; they stand in faults.toml, beside this file.

A fault in core alters both frameworks alike. It shows against closed forms (rungs 1 to 4), or between two ways to the
same images (rung 9). A fault in one twin shows against the other twin. A fault that only several processes have shows
against one process (rung 10).
"""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig


@dataclass(frozen=True)
class Fault:
    """A piece of a file, what it becomes, and the rung that must turn red first."""

    name: str
    file: str
    old: str
    """Stands in the file exactly once."""
    new: str
    rung: int
    recipe: str = "classes"


_SMALL = ModelConfig(
    sample_size=(8, 12),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    dropout=0.1,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)
RECIPES: dict[str, Recipe] = {
    # Time added, classes, weights by SNR, padding on both sides; small, since the later rungs are climbed with it.
    "classes": Recipe(
        dataclasses.replace(_SMALL, mid_block_type=None, norm_eps=1e-6, num_class_embeds=3),
        ProcessConfig(timesteps=100, schedule="cosine", prediction="v", loss_weight="min_snr"),
        sampling=SamplingConfig("ddim", 10),
    ),
    # Time as scale and shift, the original DDPM's padding and sinusoids, gelu, two channels, equal widths.
    "shift": Recipe(
        dataclasses.replace(
            _SMALL,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 8),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            downsample_padding=0,
            freq_shift=1,
            flip_sin_to_cos=False,
            act_fn="gelu",
            resnet_time_scale_shift="scale_shift",
            attn_norm_num_groups=2,
        ),
        ProcessConfig(timesteps=100),
        sampling=SamplingConfig("ddpm", 10, variance="fixed_large"),
    ),
    # The optimiser Muon, on the network of "classes" without its classes.
    "muon": Recipe(
        dataclasses.replace(_SMALL, mid_block_type=None),
        ProcessConfig(timesteps=100, prediction="v"),
        training=TrainingConfig(optimizer="muon"),
        sampling=SamplingConfig("ddim", 10),
    ),
    # An image beside each, and the stretch of both.
    "pairs": Recipe(
        dataclasses.replace(_SMALL, mid_block_type=None, in_channels=2, condition_channels=1),
        ProcessConfig(timesteps=100, prediction="v", stretch=0.02),
        DataConfig(beside="simulate:degraded", beside_size=(4, 6)),
        sampling=SamplingConfig("ddim", 10),
    ),
    # Of two timesteps, each has its ten losses, and its probability, after some of the twenty steps.
    "importance": Recipe(
        dataclasses.replace(_SMALL, mid_block_type=None),
        ProcessConfig(2, beta_end=0.6),
        training=TrainingConfig(timestep_sampling="importance"),
        sampling=SamplingConfig("ddim", 2),
    ),
}
"""What the ladder is climbed with: tiny networks that between them use every option that a fault touches."""

FAULTS = tuple(
    Fault(**fault) for fault in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["fault"]
)
