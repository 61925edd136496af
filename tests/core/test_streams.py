"""Every random stream gives the numbers stored in data/streams.npz, so that a seed keeps its images.

The file holds the first draws of each, made by the code before the purposes stood in one table.
"""

from pathlib import Path

import numpy as np
import pytest

from core.data.lenses import PRESETS, simulate
from core.data.order import batch_indices, epoch_permutation, symmetry_codes
from core.data.pixels import fingerprint
from core.extractors.lens_training import degrade, training_groups
from core.metrics.inception_score import inception_score
from core.metrics.intervals import frechet_floor, frechet_infinity, frechet_interval
from core.random import PURPOSES, gaussian, generator, integers

STORED = dict(np.load(Path(__file__).parent / "data" / "streams.npz"))
SEED, SAMPLE, STEP = 2**62 + 7, 3, 11
LENSES = ("lens_smooth", "lens_substructure", "lens_noise", "beside_noise")
WITHOUT_SAMPLE, WITHOUT_STEP = ("symmetry",), (*LENSES, "order", "rows")


def test_every_purpose_is_stored():
    assert {name.split()[0] for name in STORED if " generator" in name} == set(PURPOSES)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_purpose_s_stream(purpose):
    sample = 0 if purpose in WITHOUT_SAMPLE else SAMPLE
    step = 0 if purpose in WITHOUT_STEP else STEP
    assert np.array_equal(generator(SEED, purpose, sample, step).random(100), STORED[f"{purpose} generator"])
    if f"{purpose} gaussian" in STORED:
        drawn = gaussian(SEED, purpose, range(25), STEP, (2, 2, 1))
        assert np.array_equal(drawn.ravel(), STORED[f"{purpose} gaussian"])
        assert np.array_equal(integers(SEED, purpose, range(100), STEP, 1000), STORED[f"{purpose} integers"])


def test_the_lens_extractor_s_streams():
    for n in range(3):  # the set, its order and reflections, the held-out images' faults
        assert np.array_equal(generator(5, "rows", n).random(100), STORED[f"rows generator {n}"])
    groups = training_groups(51 * 500, 9)[:100]
    drawn = [[group.size, group.field_of_view, group.first] for group in groups]
    assert np.array_equal(drawn, STORED["training_groups"])
    x = np.linspace(0, 1, 2 * 64 * 64).reshape(2, 64, 64, 1)
    x, y = degrade(x, np.zeros((2, 8)), np.random.default_rng(3))
    assert np.allclose(np.concatenate([x.ravel()[::90], y.ravel()]), STORED["degrade"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("preset", PRESETS)
def test_simulated_lenses(preset):
    images, _, parameters = simulate(preset, 3, (10, 10), 5)
    assert np.allclose(images, STORED[f"simulate {preset}"], rtol=0, atol=1e-6)
    drawn = np.stack([parameters[name] for name in sorted(parameters)])
    assert np.allclose(drawn, STORED[f"simulate {preset} parameters"], rtol=1e-13, atol=0)


def test_order_symmetries_and_split_of_a_data_set():
    assert np.array_equal(epoch_permutation(7, 3, 100), STORED["epoch_permutation"])
    batches = [batch_indices(7, step, 20, 37) for step in range(5)]
    assert np.array_equal(np.concatenate(batches), STORED["batch_indices"])
    assert np.array_equal(symmetry_codes(7, 3, 100, True), STORED["symmetry_codes square"])
    assert np.array_equal(symmetry_codes(7, 3, 100, False), STORED["symmetry_codes oblong"])
    pictures = np.arange(100 * 4, dtype=np.uint8).reshape(100, 2, 2, 1)
    heads = [int.from_bytes(fingerprint(picture)[:8], "big") for picture in pictures]
    assert np.array_equal(np.array(heads, np.uint64), STORED["fingerprint"])


def test_rows_that_a_statistic_takes():
    a, b = np.random.default_rng(0).standard_normal((2, 60, 4))
    limit = frechet_infinity(a, b, 20, 6, cut_both=True, seed=9)
    found = {
        "frechet_interval": frechet_interval(a, b, seed=9),
        "frechet_floor": frechet_floor(a, 20, 5, seed=9).values,
        "frechet_infinity": [limit.value, limit.standard_error, *limit.distances],
        "inception_score": inception_score(a, 5, seed=9),
    }
    for name, values in found.items():
        assert np.allclose(values, STORED[name], rtol=1e-9, atol=0), name
