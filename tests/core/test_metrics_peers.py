"""The metrics against torch-fidelity and pytorch-fid on the same features; where they differ, who is right."""

import sys

import numpy as np
import pytest
import torch

from core.metrics.frechet import frechet_distance_from_features
from core.metrics.manifold import precision_recall
from eval.parity.tolerances import METRIC_PEER_SINGULAR
from tests.peers import metrics_exactness
from tests.peers.metrics_exactness import comparisons, make_features, pytorch_fid, torch_fidelity_fid

pytestmark = pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # pytorch-fid's sqrtm

SIZES = {"rows": 800, "dim": 128, "few": 60, "subset_size": 100, "subsets": 20}


@pytest.fixture(scope="module")
def table():
    return list(comparisons(**SIZES))


def test_every_number_that_a_peer_computes_too_is_the_same(table):
    assert len(table) == 13
    for row in table:
        assert np.isfinite(row.ours) and np.isfinite(row.theirs) and row.theirs > 0
        assert row.difference <= row.tolerance, f"{row.metric}: {row.ours} here, {row.theirs} by {row.peer}"


def test_with_fewer_rows_than_features_the_error_is_the_peers():
    """A set twice as wide as another: |shift|^2 + tr C exactly."""
    x, _ = make_features(60, 128)
    y = 2 * x + 1
    exact = ((x.mean(axis=0) + 1) ** 2).sum() + x.var(axis=0, ddof=1).sum()
    ours, *theirs = (
        abs(f(x, y) / exact - 1) for f in (frechet_distance_from_features, pytorch_fid, torch_fidelity_fid)
    )
    assert ours < 1e-13
    assert all(1e-11 < error < METRIC_PEER_SINGULAR for error in theirs)


def test_float32_features_as_an_extractor_gives_them():
    """torch-fidelity forms moments of a float32 tensor in float64, and so do we."""
    x, y = (z.astype(np.float32) for z in make_features(800, 128))
    assert frechet_distance_from_features(x, y) == pytest.approx(torch_fidelity_fid(x, y), rel=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_precision_and_recall_of_a_set_against_its_copies(k):
    """Both count ties on a sphere as inside where the peer's distances are exact."""
    from torch_fidelity import metric_prc

    x = np.random.default_rng(0).integers(0, 4, (60, 3)).astype(float)
    y = np.random.default_rng(1).integers(0, 5, (50, 3)).astype(float)
    options = {"prc_neighborhood": k, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    theirs = metric_prc.prc_features_to_metric(torch.from_numpy(y), torch.from_numpy(x), **options)
    assert precision_recall(x, y, k) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1.2e-7)
    assert 0 < theirs["precision"] < 1 or 0 < theirs["recall"] < 1


def test_the_table_is_printed(monkeypatch, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    monkeypatch.setattr(sys, "argv", ["metrics_exactness", *flags])
    metrics_exactness.main()
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if " torch-fidelity " in line or " pytorch-fid " in line]) == 13
    assert METRIC_PEER_SINGULAR.why in printed
