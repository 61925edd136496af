"""Images a second through Inception: both twins and torch-fidelity's network, with the same random weights.

Run by the PyTorch interpreter from the checkout: `python -m tests.peers.inception_speed [--threads N]`; both
environments are needed. 32 images of 64 x 64 x 3, brought to 299 pixels by the legacy resize, the pool of 2,048
out. All take turns, so that what else the machine does falls on all alike.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import tests.peers.torchvision_stub  # noqa: F401  before the peer, which imports torchvision
from core.files import write_tensors
from eval.twins.client import Worker
from tests.inception_weights import random_weights


def peer(folder: Path, weights: dict[str, np.ndarray], pixels: np.ndarray) -> Callable[[], object]:
    """torch-fidelity's extractor on 8-bit images."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, folder / "weights.pth")
    network = FeatureExtractorInceptionV3("peer", ["2048"], str(folder / "weights.pth"))
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def call() -> object:
        return network(batch)

    return call


def main() -> None:
    """Print medians and extremes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each")
    parser.add_argument("--images", type=int, default=32, help="images a call")
    parser.add_argument("--repeat", type=int, default=5, help="timed calls of each, after one untimed")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    weights, pixels = random_weights(), np.random.default_rng(0).integers(0, 256, (flags.images, 64, 64, 3), np.uint8)
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("torch", threads=flags.threads) as first,
        Worker("tensorflow", threads=flags.threads) as second,
    ):
        path = Path(folder) / "weights.safetensors"
        write_tensors(path, weights)
        options = {"extractor": "inception", "weights": str(path), "resize": "legacy", "dtype": "float32"}
        options |= {"taps": ["2048"], "batch_size": 32}
        arrays = {"images": pixels / np.float32(255)}
        calls: dict[str, Callable[[], object]] = {
            "PyTorch": lambda: first.call("features", arrays, **options),
            "TensorFlow": lambda: second.call("features", arrays, **options),
            "torch-fidelity": peer(Path(folder), weights, pixels),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(flags.repeat + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    print(f"{flags.images} images of 64 x 64 x 3, {flags.threads} threads, median of {flags.repeat}")
    for name, found in seconds.items():
        low, middle, high = (flags.images / value for value in (max(found), statistics.median(found), min(found)))
        print(f"  {name:15}{middle:6.1f} images/s ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
