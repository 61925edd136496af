"""smalldiffusion in the race, by its examples/fashion_mnist_unet.py.

Unet of width 64 with multiples 1, 1, 2 and attention at 16 pixels (at 14 for the example's 28), the log-linear
schedule, AdamW with rate 7e-4, mirrored images and EMA of .999. Its own sampler draws with 20 steps and gam 1.6. The
example's batches hold 1,024 images, of which two cores finish a handful in three minutes: here they hold 64. Matched,
the network has as many parameters as ours, as nearly as its widths in multiples of 32 allow, and the learning rate, its
warm-up and decay, and the batch size are our recipe's.
"""

import itertools
import sys

import torch

import tests.peers.torchvision_stub  # noqa: F401  the package imports torchvision
from core.config import Recipe
from core.networks.specs import count_parameters
from tests.peers.race_training import Entry, Job, ours_rate, run

LEARNING_RATE, BATCH_SIZE = 7e-4, 64
EXAMPLE = {"ch": 64, "ch_mult": (1, 1, 2), "attn_resolutions": (16,)}
DRAWING_STEPS, GAM = 20, 1.6


def matched_options(recipe: Recipe, size: int, channels: int) -> dict:
    """Options of the Unet whose number of parameters is nearest to our network's; it has our number of levels."""
    from smalldiffusion import Unet

    levels, wanted = len(recipe.model.block_out_channels), count_parameters(recipe.model)

    def count(options: dict) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in Unet(size, channels, channels, **options).parameters() if p.requires_grad)

    tried = [
        {
            "ch": width,
            "ch_mult": (1,) * (levels - doubled) + (2,) * doubled,
            "num_res_blocks": blocks,
            "attn_resolutions": (size >> (levels - 1),),
        }
        for width, doubled, blocks in itertools.product((32, 64, 96), range(levels), (1, 2, 3))
    ]
    return min(tried, key=lambda options: abs(count(options) - wanted))


def make(job: Job, recipe: Recipe, shape: tuple[int, int, int]) -> Entry:
    """The entry, as the example has it or matched with our recipe."""
    from smalldiffusion import Scaled, ScheduleLogLinear, Unet, samples
    from smalldiffusion.diffusion import generate_train_sample
    from torch_ema import ExponentialMovingAverage

    height, width, channels = shape
    if height != width:
        raise ValueError(f"smalldiffusion: images of {height} x {width}: must be square")
    options = matched_options(recipe, height, channels) if job.matched else EXAMPLE
    network = Scaled(Unet)(height, channels, channels, **options)
    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    ema = ExponentialMovingAverage(network.parameters(), decay=0.999)
    get_loss, config = type(network).get_loss, recipe.training

    def loss(images: torch.Tensor) -> torch.Tensor:
        x_0, sigma, eps, _ = generate_train_sample(images * 2 - 1, schedule)
        return get_loss(network, x_0, sigma, eps, cond=None)

    def draw(n: int) -> torch.Tensor:
        *_, x_0 = samples(network, schedule.sample_sigmas(DRAWING_STEPS), gam=GAM, batchsize=n)
        return (x_0 + 1) / 2

    return Entry(
        network,
        torch.optim.AdamW(network.parameters(), LEARNING_RATE),
        loss,
        rate=ours_rate(recipe) if job.matched else lambda share: LEARNING_RATE,
        warmup_steps=config.warmup_steps if job.matched else 0,
        batch_size=config.batch_size if job.matched else BATCH_SIZE,
        flip=True,
        clip_norm=0.0,
        average=ema.update,
        averaged=ema.average_parameters,
        draw=draw,
        sampler=f"its own, {DRAWING_STEPS} steps, gam {GAM}",
        evaluations=DRAWING_STEPS,
        packages=("smalldiffusion", "torch-ema"),
    )


if __name__ == "__main__":
    sys.exit(run(make))
