"""A small classifier of the race's labelled images, whose features the distance is measured on.

It is trained on real images and their labels alone, with a fixed seed. The worker's protocol asks for its training and
for features. Run by the PyTorch interpreter from the checkout: `python -m tests.peers.race_classifier`.
"""

import itertools
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from core.worker.protocol import Arrays, serve, with_prefix
from tests.peers.contestant import set_threads

FEATURES, BATCH_SIZE, LEARNING_RATE, SEED = 64, 128, 3e-3, 0


class Classifier(torch.nn.Module):
    """Three convolutions that halve the image each, FEATURES features, and one logit a class."""

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        pairs = itertools.pairwise(widths)
        self.convolutions = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.features = torch.nn.Linear(widths[-1] * (size[0] // 8) * (size[1] // 8), FEATURES)
        self.logits = torch.nn.Linear(FEATURES, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, FEATURES), before their activation, and logits (B, classes) of images (B, C, H, W)."""
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        features = self.features(x.flatten(1))
        return features, self.logits(F.relu(features))


def _evaluate(network: Classifier, images: np.ndarray, output: int) -> np.ndarray:
    """The features (output 0) or logits (1) of images (N, H, W, C)."""
    with torch.inference_mode():
        parts = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).split(256)
        return torch.cat([network(part)[output] for part in parts]).numpy()


def train(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Train on `images` (N, H, W, C) in [0, 1] and `labels` (N,) for options.epochs; weights/NAME out.

    info: accuracy on `held_out_images` and `held_out_labels`, a share.
    """
    torch.manual_seed(SEED)
    images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(arrays["labels"])
    network = Classifier(images.shape[1], images.shape[2:], options["classes"])
    steps = options["epochs"] * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(options["epochs"]):
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows])[1], labels[rows]).backward()
            optimizer.step()
            schedule.step()
    found = _evaluate(network.eval(), arrays["held_out_images"], 1).argmax(axis=1)
    accuracy = float((found == arrays["held_out_labels"]).mean())
    return {f"weights/{name}": value.numpy() for name, value in network.state_dict().items()}, {"accuracy": accuracy}


def features(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """The `features` (N, FEATURES) of `images` (N, H, W, C) in [0, 1] by weights/NAME."""
    weights = {name: torch.from_numpy(value) for name, value in with_prefix(arrays, "weights/").items()}
    images = arrays["images"]
    network = Classifier(images.shape[3], images.shape[1:3], len(weights["logits.bias"]))
    network.load_state_dict(weights)
    return {"features": _evaluate(network.eval(), images, 0)}, {}


if __name__ == "__main__":
    sys.exit(serve(set_threads, {"train": train, "features": features}, sys.argv[1:]))
