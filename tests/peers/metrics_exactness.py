"""The metrics held against torch-fidelity and pytorch-fid on the same features: a table of values and differences.

Run by the PyTorch interpreter from the checkout: `python -m tests.peers.metrics_exactness [--rows N] [--dim D]`; two to
three minutes at the defaults. tests/core/test_metrics_peers.py demands the same of smaller sets.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist

import tests.peers.torchvision_stub  # noqa: F401  both peers import torchvision
from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from core.metrics.inception_score import inception_score
from core.metrics.kid import kid
from core.metrics.manifold import precision_recall
from core.metrics.mmd import two_sample
from core.metrics.moments import moments_of
from eval.parity.tolerances import (
    METRIC_PEER,
    METRIC_PEER_GAUSSIAN,
    METRIC_PEER_SHARE,
    METRIC_PEER_SINGULAR,
    Tolerance,
)

SINGULAR, GAUSSIAN, SHARE = METRIC_PEER_SINGULAR, METRIC_PEER_GAUSSIAN, METRIC_PEER_SHARE


class Comparison(NamedTuple):
    """One number by us and by a peer."""

    metric: str
    peer: str
    ours: float
    theirs: float
    tolerance: Tolerance = METRIC_PEER
    """Largest relative difference that is right, and why."""

    @property
    def difference(self) -> float:
        """Relative to the peer's number."""
        return abs(self.ours - self.theirs) / abs(self.theirs)


def make_features(rows: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two sets much like Inception's pool: positive, correlated, with eigenvalues over four decades."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) * np.geomspace(1, 1e-2, dim) / np.sqrt(dim)
    other = mixing + 0.3 * rng.standard_normal((dim, dim)) * np.geomspace(1, 1e-2, dim) / np.sqrt(dim)
    x, y = rng.standard_normal((2, rows, dim))
    return np.abs(0.4 + x @ mixing.T), np.abs(0.42 + y @ other.T)


def pytorch_fid(x: np.ndarray, y: np.ndarray) -> float:
    """pytorch-fid from features, as its calculate_activation_statistics forms the moments."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    moments = [(np.mean(z, axis=0), np.cov(z, rowvar=False)) for z in (x, y)]
    return float(calculate_frechet_distance(*moments[0], *moments[1]))


def torch_fidelity_fid(x: np.ndarray, y: np.ndarray) -> float:
    """torch-fidelity's Fréchet distance from features."""
    from torch_fidelity import metric_fid

    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]


def frechet_comparisons(x: np.ndarray, y: np.ndarray, few: int) -> Iterator[Comparison]:
    """From moments, and from fewer rows than features."""
    first, second = moments_of([x]), moments_of([y])
    ours = frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
    size = f"N = {len(x):,}, d = {x.shape[1]:,}"
    yield Comparison(f"Fréchet distance, {size}", "pytorch-fid", ours, pytorch_fid(x, y))
    yield Comparison(f"Fréchet distance, {size}", "torch-fidelity", ours, torch_fidelity_fid(x, y))
    a, b = x[:few], y[:few]
    ours, size = frechet_distance_from_features(a, b), f"N = {few:,}, d = {x.shape[1]:,}"
    yield Comparison(f"Fréchet distance, {size}", "pytorch-fid", ours, pytorch_fid(a, b), SINGULAR)
    yield Comparison(f"Fréchet distance, {size}", "torch-fidelity", ours, torch_fidelity_fid(a, b), SINGULAR)


def kid_comparisons(x: np.ndarray, y: np.ndarray, subset_size: int, subsets: int) -> Iterator[Comparison]:
    """Over the very same subsets; and the Gaussian kernel on the whole sets."""
    from torch_fidelity import metric_kid

    tensors = torch.from_numpy(x), torch.from_numpy(y)
    rng = np.random.RandomState(2020)  # torch-fidelity draws rows of the first set, then of the second
    rows = [[rng.choice(len(z), subset_size, replace=False) for z in (x, y)] for _ in range(subsets)]
    ours = np.array([kid(x[first], y[second]).value for first, second in rows])
    options = {"kid_subset_size": subset_size, "kid_subsets": subsets, "rng_seed": 2020, "verbose": False}
    theirs = metric_kid.kid_features_to_metric(*tensors, **options)
    size = f"{subsets} subsets of {subset_size:,}"
    yield Comparison(f"KID, {size}, mean", "torch-fidelity", float(ours.mean()), theirs[metric_kid.KEY_METRIC_KID_MEAN])
    yield Comparison(f"KID, {size}, std", "torch-fidelity", float(ours.std()), theirs[metric_kid.KEY_METRIC_KID_STD])
    few, sigma = 2 * subset_size, 10.0
    a, b = (z[:few] / np.linalg.norm(z[:few], axis=1, keepdims=True) for z in (x, y))
    sums = metric_kid.kernel_mmd(a, b, kid_kernel="rbf", kid_kernel_rbf_sigma=sigma)
    ours_unbiased = two_sample(a, b, lambda u, v: np.exp(-cdist(u, v, "sqeuclidean") / (2 * sigma**2))).unbiased
    yield Comparison(f"MMD, Gaussian kernel, N = {few:,}", "torch-fidelity", ours_unbiased, float(sums), GAUSSIAN)


def other_comparisons(x: np.ndarray, y: np.ndarray, classes: int) -> Iterator[Comparison]:
    """Precision, recall and Inception Score."""
    from torch_fidelity import metric_isc, metric_prc

    ours = precision_recall(real=x, generated=y, k=3)
    options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": True, "verbose": False}
    theirs = metric_prc.prc_features_to_metric(torch.from_numpy(y), torch.from_numpy(x), **options)
    size = f"N = {len(x):,}, k = 3"
    yield Comparison(f"precision, {size}", "torch-fidelity", ours.precision, theirs["precision"], SHARE)
    yield Comparison(f"recall, {size}", "torch-fidelity", ours.recall, theirs["recall"], SHARE)
    logits = 8 * y[:, :classes]
    for name, shuffle, seed in (("in order", False, None), ("shuffled", True, 2020)):
        score = inception_score(logits, 10, seed)
        theirs = metric_isc.isc_features_to_metric(torch.from_numpy(logits), 10, shuffle, 2020)
        for ours_value, key in (
            (score.mean, metric_isc.KEY_METRIC_ISC_MEAN),
            (score.std, metric_isc.KEY_METRIC_ISC_STD),
        ):
            title = f"Inception Score, 10 splits, {name}, {key.rsplit('_', 1)[1]}"
            yield Comparison(title, "torch-fidelity", ours_value, theirs[key])


def comparisons(rows: int, dim: int, few: int, subset_size: int, subsets: int) -> Iterator[Comparison]:
    """Everything that a peer computes too."""
    x, y = make_features(rows, dim)
    yield from frechet_comparisons(x, y, few)
    yield from kid_comparisons(x, y, subset_size, subsets)
    yield from other_comparisons(x, y, min(dim, 1000))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each set")
    parser.add_argument("--dim", type=int, default=2048, help="features")
    parser.add_argument("--few", type=int, default=500, help="rows of the sets with fewer rows than features")
    parser.add_argument("--subset-size", type=int, default=1000, help="rows of a KID subset")
    parser.add_argument("--subsets", type=int, default=100, help="KID subsets")
    flags = parser.parse_args()
    reasons: dict[float, str] = {}
    print(f"{'metric':44}{'peer':16}{'ours':>22}{'theirs':>22}  {'difference':11}tolerance")
    for row in comparisons(flags.rows, flags.dim, flags.few, flags.subset_size, flags.subsets):
        numbers = f"{row.ours:22.15g}{row.theirs:22.15g}  {row.difference:<11.1e}{row.tolerance:g}"
        print(f"{row.metric:44}{row.peer:16}{numbers}", flush=True)
        reasons[row.tolerance] = row.tolerance.why
    print("\ndifferences are relative to the peer's number; the tolerances' reasons:")
    for tolerance, why in reasons.items():
        print(f"{tolerance:<8g}{why}")


if __name__ == "__main__":
    main()
