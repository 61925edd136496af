"""What every metric costs at the size that FID is published at: seconds and memory, ours alone.

Run by the PyTorch interpreter from the checkout: `OPENBLAS_NUM_THREADS=2 python -m tests.peers.metrics_cost`; some
three minutes on two cores. One call each, after the features are made. The memory is the rise of the process's
peak, which Linux alone tells.
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from core.metrics.frechet import frechet_distance_from_features
from core.metrics.intervals import frechet_floor, frechet_infinity, frechet_interval
from core.metrics.kid import kid
from core.metrics.manifold import density_coverage, precision_recall
from tests.peers.frechet_speed import peak
from tests.peers.metrics_exactness import make_features


def metrics(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], object]]:
    """Name -> the call."""
    n = len(x)
    return {
        "Fréchet distance, moments included": lambda: frechet_distance_from_features(x, y),
        "its interval, 10 groups of either set": lambda: frechet_interval(x, y),
        f"its floor, 5 draws of {n // 2:,}": lambda: frechet_floor(x, n // 2),
        f"its limit for infinite N, from {n // 2:,}": lambda: frechet_infinity(x, y, n // 2),
        "KID, all pairs, with standard error": lambda: kid(x, y),
        "precision and recall": lambda: precision_recall(x, y),
        "density and coverage": lambda: density_coverage(x, y),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each set")
    parser.add_argument("--dim", type=int, default=2048, help="features")
    flags = parser.parse_args()
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "not set")
    print(f"N = {flags.rows:,}, d = {flags.dim:,}, OPENBLAS_NUM_THREADS = {threads}")
    for name, call in metrics(*make_features(flags.rows, flags.dim)).items():
        started = time.perf_counter()
        memory = peak(call)
        print(f"  {name:42}{time.perf_counter() - started:8.2f} s  peak +{memory} MB", flush=True)


if __name__ == "__main__":
    main()
