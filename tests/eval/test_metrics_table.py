"""The table of metrics: one row each, one value each, and a function that several rows share runs once."""

import numpy as np
import pytest

from core.metrics.manifold import precision_recall
from eval.measure.metrics import METRICS, Metric, measure_all, measure_features, rows
from tests.eval.rings import rings


def test_keys_are_unique_and_every_row_is_in_a_group_that_is_measured():
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    groups = {metric.group for metric in METRICS}
    assert sum(len(rows(group)) for group in groups) == len(METRICS) == len(rows(*groups))


def test_a_function_of_several_rows_runs_once_and_each_row_has_its_number():
    calls = []

    def both(a, b):
        calls.append(1)
        return {"low": 1.0, "high": 2.0}

    low, high = (Metric(key, key, "", both) for key in ("low", "high"))
    whole = Metric("pair", "pair", "", lambda a, b: {"value": 3.0, "error": 0.5}, shown="{value:.1f} ± {error:.2f}")
    found = measure_all((low, high, whole), {}, {})
    assert found == {"low": 1.0, "high": 2.0, "pair": {"value": 3.0, "error": 0.5}} and len(calls) == 1
    assert low.text(found["low"]) == "1" and whole.text(found["pair"]) == "3.0 ± 0.50"


def test_precision_is_of_the_generated_set_and_recall_of_the_real_one():
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((40, 3)), 0.3 * rng.standard_normal((40, 3))
    found = measure_all(rows("features"), {"features": generated}, {"features": real})
    expected = precision_recall(real, generated)
    assert (found["precision"], found["recall"]) == expected and found["precision"] > found["recall"]


@pytest.mark.parametrize("metric", rows("images"), ids=lambda metric: metric.key)
def test_a_set_is_at_no_distance_from_itself_and_at_some_from_another(metric):
    one, _ = measure_features(rings(30, 0))
    other, _ = measure_features(rings(30, 1, (7.0, 10.0), noise=0.03))
    assert abs(metric.measure(one, one)) < 1e-8 and metric.measure(one, other) > 1e-6
