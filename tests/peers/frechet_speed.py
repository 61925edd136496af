"""How much faster the Fréchet distance is here than in pytorch-fid and torch-fidelity, and what memory each takes.

Run by the PyTorch interpreter from the checkout: `OPENBLAS_NUM_THREADS=2 python -m tests.peers.frechet_speed`; some
three minutes on two cores, nearly all of it the peers'. From moments (means and covariances of 10,000 rows) to the
number, and from features (500 rows) to the number. All take turns, so that what else the machine does falls on all
alike. Linux only, for the memory: the rise of the process's peak above what it held before.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tests.peers.torchvision_stub  # noqa: F401  both peers import torchvision
from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from tests.peers.metrics_exactness import make_features, pytorch_fid, torch_fidelity_fid

Contestants = dict[str, Callable[[], float]]


def from_moments(x: np.ndarray, y: np.ndarray) -> Contestants:
    """Each on the same means and covariances."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity import metric_fid

    mean1, mean2 = x.mean(axis=0), y.mean(axis=0)
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    statistics1, statistics2 = {"mu": mean1, "sigma": cov1}, {"mu": mean2, "sigma": cov2}
    return {
        "ours": lambda: frechet_distance(mean1, cov1, mean2, cov2),
        "torch-fidelity": lambda: metric_fid.fid_statistics_to_metric(statistics1, statistics2, verbose=False)[
            metric_fid.KEY_METRIC_FID
        ],
        "pytorch-fid": lambda: float(calculate_frechet_distance(mean1, cov1, mean2, cov2)),
    }


def from_features(x: np.ndarray, y: np.ndarray) -> Contestants:
    """Each on the same rows."""
    return {
        "ours": lambda: frechet_distance_from_features(x, y),
        "torch-fidelity": lambda: torch_fidelity_fid(x, y),
        "pytorch-fid": lambda: pytorch_fid(x, y),
    }


def status(key: str) -> int:
    """A line of /proc/self/status in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) // 1024


def peak(function: Callable[[], float]) -> int:
    """Rise of the process's peak memory in a call, MB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    function()
    return status("VmHWM") - before


def race(title: str, contestants: Contestants, repeat: int) -> None:
    """Time in turns, after one untimed call that measures memory, and print medians and ratios."""
    memory = {name: peak(function) for name, function in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeat):
        for name, function in contestants.items():
            started = time.perf_counter()
            value = function()
            times[name].append(time.perf_counter() - started)
            assert np.isfinite(value)
    print(f"{title}, median of {repeat}")
    ours = statistics.median(times["ours"])
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(
            f"  {name:15}{median:8.3f} s ({spread})  {median / ours:7.1f} x ours  peak +{memory[name]} MB", flush=True
        )


def main() -> None:
    """Print both races."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048, help="features")
    parser.add_argument("--rows", type=int, default=10_000, help="rows behind the moments")
    parser.add_argument("--few", type=int, default=500, help="rows of the sets with fewer rows than features")
    parser.add_argument("--repeat", type=int, default=5, help="timed calls of each, after one untimed")
    flags = parser.parse_args()
    print(f"d = {flags.dim}, OPENBLAS_NUM_THREADS = {os.environ.get('OPENBLAS_NUM_THREADS', 'not set')}")
    x, y = make_features(flags.rows, flags.dim)
    race(f"from the moments of {flags.rows:,} rows to the number", from_moments(x, y), flags.repeat)
    a, b = x[: flags.few].copy(), y[: flags.few].copy()
    race(f"from {flags.few:,} rows of features to the number", from_features(a, b), flags.repeat)


if __name__ == "__main__":
    main()
