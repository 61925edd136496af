"""Inception Score against closed forms."""

import numpy as np
import pytest

from core.metrics.inception_score import inception_score


def one_hot(classes, n, high=50.0):
    return high * np.eye(n)[classes]


@pytest.mark.parametrize("high", [50.0, 1e4])  # at 1e4 the other classes' probabilities are 0
def test_extremes(high):
    assert inception_score(np.zeros((40, 7)), 4) == pytest.approx((1.0, 0.0), abs=1e-14)
    assert inception_score(one_hot(np.zeros(40, int), 7, high), 4) == pytest.approx((1.0, 0.0), abs=1e-14)
    cycling = one_hot(np.arange(70) % 7, 7, high)
    assert inception_score(cycling, 5) == pytest.approx((7.0, 0.0), abs=1e-13)
    never_the_last = one_hot(np.arange(60) % 6, 7, high)
    assert inception_score(never_the_last, 5) == pytest.approx((6.0, 0.0), abs=1e-13)


def test_known_entropies():
    # Half of the rows say p, half 1 - p: marginal (1/2, 1/2), so log 2 less the entropy of p.
    p = 0.9
    rows = np.log(np.tile([[p, 1 - p], [1 - p, p]], (20, 1))) + 3.0  # a constant a row is no matter
    expected = 2 * p**p * (1 - p) ** (1 - p)
    assert inception_score(rows, 4) == pytest.approx((expected, 0.0), abs=1e-13)
    # Certain rows, classes in proportions q: exp of the entropy of q.
    q = np.array([5, 3, 2])
    assert inception_score(one_hot(np.repeat(np.arange(3), q), 3), 1).mean == pytest.approx(
        np.exp(-(q / 10) @ np.log(q / 10)), rel=1e-13
    )


def test_splits_are_consecutive_and_uneven_where_they_must_be():
    # 7 rows in 3 splits: 2, 2 and 3, holding 1, 2 and 3 classes.
    score = inception_score(one_hot([0, 0, 1, 2, 0, 1, 2], 3), 3)
    assert score == pytest.approx((2.0, np.std([1, 2, 3])), abs=1e-12)
    # In order of class each split sees one class; shuffled it sees almost all.
    ordered = one_hot(np.repeat(np.arange(4), 100), 4)
    assert inception_score(ordered, 4).mean == pytest.approx(1.0)
    shuffled = inception_score(ordered, 4, seed=1)
    assert 3.8 < shuffled.mean < 4 and shuffled == inception_score(ordered, 4, seed=1) != inception_score(ordered, 4, 2)


def test_refuses_what_it_cannot_score():
    for arguments, words in (
        ((np.zeros((5, 3)), 6), "logits: 5 rows: must be at least 6"),
        ((np.zeros((5, 3)), 0), "splits = 0: must be at least 1"),
        ((np.zeros(5),), r"logits: shape \(5,\)"),
        ((np.full((20, 3), np.nan),), "logits: row 0"),
        ((np.zeros((20, 3)), 2, 2**32), "seed = 4294967296: must be in"),
    ):
        with pytest.raises(ValueError, match=words):
            inception_score(*arguments)
