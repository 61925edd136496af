"""The lens extractor between the frameworks: the committed weights on simulated images of several sizes."""

import json
import sys

import numpy as np
import pytest

from core.data.lenses import simulate
from core.extractors.features import EXTRACTORS
from eval.__main__ import main
from eval.parity.closeness import require_close
from eval.parity.tolerances import LENS_FLOAT32, NETWORK_FLOAT64

LENS = EXTRACTORS["lens"]
OPTIONS = {
    "extractor": "lens",
    "weights": str(LENS.weights_file()),
    "resize": "clean",
    "taps": list(LENS.taps),
    "batch_size": 8,
}


@pytest.mark.parametrize("dtype, tolerance", (("float64", NETWORK_FLOAT64), ("float32", LENS_FLOAT32)))
@pytest.mark.parametrize("preset, size, field", (("lensing", 64, 7.5), ("lensing", 32, 5.0), ("model-1", 150, 7.5)))
def test_the_extractor_sees_the_same(twins, preset, size, field, dtype, tolerance):
    images, _, _ = simulate(preset, 12, (size, size), 4, field_of_view=field)
    (torch, _), (tensorflow, _) = twins.both("features", {"images": images}, dtype=dtype, **OPTIONS)
    assert torch.keys() == tensorflow.keys() == {"features", "parameters", "logits"}
    for name, expected in torch.items():
        worst = require_close(tensorflow[name], expected, tolerance, name, dtype)
        print(f"{size} {dtype} {name}: {worst:.2e}")
    assert torch["features"].std(axis=0).max() > 0.01  # the images are told apart


def test_wrong_images_are_the_callers_fault(twins):
    for twin in twins.values():
        with pytest.raises(ValueError, match="3 channels"):
            twin.call("features", {"images": np.zeros((1, 64, 64, 3))}, dtype="float32", **OPTIONS)


@pytest.mark.slow
def test_the_damage_study_says_the_same_through_either(tmp_path):
    found = {}
    for framework, flags in (
        ("torch", ["--torch-python", sys.executable]),
        ("tensorflow", ["--framework", "tensorflow"]),
    ):
        out = tmp_path / framework
        assert main(["damage", "--n", "100", "--size", "32", "--field-of-view", "5", "--out", str(out), *flags]) == 0
        found[framework] = json.loads((out / "damage.json").read_text())
        assert found[framework]["protocol"]["framework"] == framework
    for a, b in zip(found["torch"]["damages"], found["tensorflow"]["damages"], strict=True):
        for key, metric in a["metrics"].items():
            means = [[entry["mean"] for entry in m["strengths"]] for m in (metric, b["metrics"][key])]
            np.testing.assert_allclose(*means, rtol=1e-3, atol=1e-6, err_msg=f"{a['key']} {key}")
