"""denoising-diffusion-pytorch in the race, by the defaults of its Unet, GaussianDiffusion and Trainer.

Unet of width 64 with multiples 1, 2, 4, 8; v-prediction on the sigmoid schedule of 1,000 timesteps; Adam with rate 1e-4
and betas .9 and .99; batches of 16, mirrored images, clip at 1.0, EMA of .995 every ten steps. Matched, the network has
as many parameters as ours (tests/peers/lucidrains_contestant.py), and the learning rate, its warm-up and decay, and the
batch size are our recipe's. Its own DDIM draws with 50 steps.
"""

import contextlib
import sys

import torch

import tests.peers.torchvision_stub  # noqa: F401  the package imports torchvision
from core.config import Recipe
from tests.peers.lucidrains_contestant import make_network
from tests.peers.race_training import Entry, Job, ours_rate, run

LEARNING_RATE, BATCH_SIZE, WIDTH, MULTIPLES = 1e-4, 16, 64, (1, 2, 4, 8)
DRAWING_STEPS = 50


def make(job: Job, recipe: Recipe, shape: tuple[int, int, int]) -> Entry:
    """The entry, as the package has it or matched with our recipe."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as package
    from ema_pytorch import EMA

    package.tqdm = lambda items, **_: items  # no bar for each batch that is drawn
    height, width, channels = shape
    network = make_network(recipe).network if job.matched else Unet(WIDTH, dim_mults=MULTIPLES, channels=channels)
    diffusion = GaussianDiffusion(network, image_size=(height, width), sampling_timesteps=DRAWING_STEPS)
    ema = EMA(diffusion, beta=0.995, update_every=10)
    config = recipe.training
    return Entry(
        diffusion,
        torch.optim.Adam(diffusion.parameters(), LEARNING_RATE, (0.9, 0.99)),
        diffusion,
        rate=ours_rate(recipe) if job.matched else lambda share: LEARNING_RATE,
        warmup_steps=config.warmup_steps if job.matched else 0,
        batch_size=config.batch_size if job.matched else BATCH_SIZE,
        flip=True,
        clip_norm=1.0,
        average=ema.update,
        averaged=contextlib.nullcontext,
        draw=lambda n: ema.ema_model.sample(batch_size=n),
        sampler=f"DDIM, {DRAWING_STEPS} steps",
        evaluations=DRAWING_STEPS,
        packages=("denoising-diffusion-pytorch", "ema-pytorch"),
    )


if __name__ == "__main__":
    sys.exit(run(make))
