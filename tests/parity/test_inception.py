"""Inception between the frameworks: every tap from the same images and weights, both resizes, both precisions.

PyTorch's is held against pytorch-fid's and torch-fidelity's in test_peers_inception.py.
"""

from pathlib import Path

import numpy as np
import pytest

from core.extractors.inception import TAPS
from core.files import write_tensors
from eval.parity.closeness import require_close
from eval.parity.tolerances import INCEPTION_FLOAT32, INCEPTION_FLOAT64
from tests.inception_weights import random_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    write_tensors(path, random_weights())
    return path


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", INCEPTION_FLOAT32), ("float64", INCEPTION_FLOAT64)])
@pytest.mark.parametrize(("resize", "shape"), [("clean", (2, 150, 130, 1)), ("legacy", (2, 28, 36, 3))])
def test_the_twins_see_the_same(twins, weights, resize, shape, dtype, tolerance):
    arrays = {"images": np.random.default_rng(1).random(shape, np.float32)}
    options = {
        "extractor": "inception",
        "weights": str(weights),
        "resize": resize,
        "dtype": dtype,
        "taps": list(TAPS),
        "batch_size": 2,
    }
    (torch, _), (tensorflow, _) = twins.both("features", arrays, **options)
    assert torch.keys() == tensorflow.keys() == set(TAPS)
    for tap in TAPS:
        measured = require_close(tensorflow[tap], torch[tap], tolerance, tap, dtype)
        print(tap, measured)
        assert np.abs(torch[tap][0] - torch[tap][1]).max() > 0
