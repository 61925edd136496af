"""diffusers in the race, by its examples/unconditional_image_generation/train_unconditional.py.

Network, DDPM schedule (linear, 1,000 timesteps), objective (eps), AdamW, cosine decay after 500 steps of warm-up, clip
at 1.0, batches of 16 and the average of the weights are the example's. Matched, the network is UNet2DModel with our
recipe's keys, and the learning rate, its warm-up and decay, and the batch size are the recipe's. The example draws with
1,000 steps of DDPM; here diffusers' own DDIM draws with 50.
"""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F

import tests.peers.torchvision_stub  # noqa: F401  diffusers imports torchvision
from core.checkpoints.diffusers_config import unet_to_diffusers
from core.config import ModelConfig, Recipe
from tests.peers.race_training import WARMUP_SHARE, Entry, Job, ours_rate, run

LEARNING_RATE, WARMUP_STEPS, BATCH_SIZE = 1e-4, 500, 16
WIDTHS, ATTENTION_LEVEL = (128, 128, 256, 256, 512, 512), 4
DRAWING_STEPS = 50


def cosine(share: float) -> float:
    """The example's decay: half a cosine after the warm-up."""
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * max(share - WARMUP_SHARE, 0) / (1 - WARMUP_SHARE)))


def example_network(height: int, width: int, channels: int) -> torch.nn.Module:
    """The network of the example."""
    from diffusers import UNet2DModel

    levels = range(len(WIDTHS))
    down = ["AttnDownBlock2D" if level == ATTENTION_LEVEL else "DownBlock2D" for level in levels]
    up = ["AttnUpBlock2D" if level == ATTENTION_LEVEL else "UpBlock2D" for level in reversed(levels)]
    options = {"block_out_channels": WIDTHS, "down_block_types": down, "up_block_types": up, "layers_per_block": 2}
    return UNet2DModel(sample_size=(height, width), in_channels=channels, out_channels=channels, **options)


def matched_network(model: ModelConfig) -> torch.nn.Module:
    """UNet2DModel with the keys of ours. It has no patches: where ours has, it works at full resolution."""
    from diffusers import UNet2DModel

    if model.architecture != "unet":
        raise ValueError(f"diffusers: has no network like architecture = {model.architecture!r}")
    return UNet2DModel.from_config(unet_to_diffusers(dataclasses.replace(model, patch_size=1)))


def make(job: Job, recipe: Recipe, shape: tuple[int, int, int]) -> Entry:
    """The entry, as the example has it or matched with our recipe."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    height, width, channels = shape
    network = matched_network(recipe.model) if job.matched else example_network(*shape)
    config, process = recipe.training, DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, (0.95, 0.999), 1e-8, 1e-6)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    sampler = DDIMScheduler.from_config(process.config)
    sampler.set_timesteps(DRAWING_STEPS)

    def loss(images: torch.Tensor) -> torch.Tensor:
        x_0 = images * 2 - 1
        noise = torch.randn_like(x_0)
        timesteps = torch.randint(0, 1000, (len(x_0),))
        return F.mse_loss(network(process.add_noise(x_0, noise, timesteps), timesteps).sample, noise)

    @contextlib.contextmanager
    def averaged() -> Iterator[None]:
        ema.copy_to(network.parameters())
        yield

    def draw(n: int) -> torch.Tensor:
        x = torch.randn(n, channels, height, width)
        for timestep in sampler.timesteps:
            x = sampler.step(network(x, timestep).sample, timestep, x).prev_sample
        return x / 2 + 0.5

    return Entry(
        network,
        optimizer,
        loss,
        rate=ours_rate(recipe) if job.matched else cosine,
        warmup_steps=config.warmup_steps if job.matched else WARMUP_STEPS,
        batch_size=config.batch_size if job.matched else BATCH_SIZE,
        flip=False,  # --random_flip is off by default
        clip_norm=1.0,
        average=lambda: ema.step(network.parameters()),
        averaged=averaged,
        draw=draw,
        sampler=f"DDIM, {DRAWING_STEPS} steps",
        evaluations=DRAWING_STEPS,
        packages=("diffusers",),
    )


if __name__ == "__main__":
    sys.exit(run(make))
