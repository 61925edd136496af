"""How much faster the baseline network is here than in its authors' formulation, on one batch forward and backward.

Run by the PyTorch interpreter from the checkout: `python -m tests.peers.baseline_speed [--threads N]`. Both
networks have the same weights and take turns, so that what else the machine does falls on both alike. The
original's attention returns its weights, which is what calling `mha(x, x, x)` does, and so builds them: 1 GB a
layer at 64 x 64 and batch 4. Then ours' forward pass by stage, so that one sees what attention at full resolution
(sa6) takes of it. `--only NAME` runs one network alone, for its peak of main memory.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch

from core.config import ModelConfig
from core.networks.specs import initial_weights
from tests.peers.original_baseline import UNet
from torch_impl.weights import build_unet


def seconds(network: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> float:
    """One forward and backward pass."""
    network.zero_grad(set_to_none=True)
    started = time.perf_counter()
    network(x, t).square().mean().backward()
    return time.perf_counter() - started


@torch.inference_mode()
def stage_seconds(network: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, repeat: int) -> dict[str, float]:
    """Median seconds of every stage in a forward pass."""
    starts: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    for name, stage in network.named_children():
        stage.register_forward_pre_hook(lambda *_, name=name: starts.update({name: time.perf_counter()}))
        stage.register_forward_hook(
            lambda *_, name=name: found.setdefault(name, []).append(time.perf_counter() - starts[name])
        )
    for _ in range(repeat + 1):
        network(x, t)
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def main() -> None:
    """Print the medians and the median ratio, and where ours' time goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--batch-size", type=int, default=4, help="images")
    parser.add_argument("--repeat", type=int, default=5, help="timed passes of each network, after one untimed")
    parser.add_argument("--base", type=int, default=64, help="channels of the first level")
    parser.add_argument(
        "--only", choices=("original", "ours"), help="run this network alone, and say its peak of memory"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for PyTorch's choice")
    flags = parser.parse_args()
    if flags.threads:
        torch.set_num_threads(flags.threads)
    size, base = (flags.size, flags.size), flags.base
    config = ModelConfig(size, block_out_channels=(base, 2 * base, 4 * base, 4 * base), architecture="baseline")
    weights = initial_weights(config, 0)
    original = UNet(1, 1, height=flags.size, width=flags.size, base=base).train()
    original.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    networks = {"original": original, "ours": build_unet(config, weights).train()}
    networks = {name: network for name, network in networks.items() if flags.only in (None, name)}
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((flags.batch_size, 1, *size), np.float32))
    t = torch.arange(flags.batch_size) * 200
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(flags.repeat + 1):
        for name, network in networks.items():
            times[name].append(seconds(network, x, t))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, values in times.items():
        spread = f"{min(values[1:]):.2f} to {max(values[1:]):.2f}"
        print(f"{name:9} {medians[name]:.2f} s (median of {flags.repeat}, {spread})")
    if flags.only:
        print(f"peak      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of main memory")
        return
    ratios = [theirs / own for theirs, own in zip(times["original"][1:], times["ours"][1:], strict=True)]
    print(f"ratio     {statistics.median(ratios):.2f} (median over the turns, {min(ratios):.2f} to {max(ratios):.2f})")
    stages = stage_seconds(networks["ours"], x, t, flags.repeat)
    whole = sum(stages.values())
    for name in sorted(stages, key=stages.__getitem__, reverse=True)[:5]:
        print(f"{name:9} {stages[name] / whole:.0%} of ours' forward pass, {1000 * stages[name]:.0f} ms")
    print(f"attention {sum(v for n, v in stages.items() if n.startswith('sa')) / whole:.0%} of it in all")


if __name__ == "__main__":
    main()
