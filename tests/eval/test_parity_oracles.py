"""The ladder's closed forms are core's tables. Both are held against papers and peers in their own tests."""

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.networks.specs import time_frequencies
from eval.parity import closed_forms
from eval.parity.closeness import difference
from eval.parity.tolerances import SAMPLER_FLOAT64, TABLE

PROCESSES = {
    "linear-eps": ProcessConfig(),
    "linear-x0-short": ProcessConfig(timesteps=50, prediction="x0", loss_weight="min_snr"),
    "cosine-v": ProcessConfig(schedule="cosine", prediction="v", loss_weight="min_snr"),
    "sigmoid-eps": ProcessConfig(schedule="sigmoid", loss_weight="min_snr", min_snr_gamma=2.0),
    "scaled-zero-v": ProcessConfig(schedule="scaled_linear", prediction="v", zero_terminal_snr=True),
}
PLAIN = [("ddpm", 0.0, "fixed_small"), ("ddpm", 0.0, "fixed_large"), ("dpmsolver++", 0.0, "fixed_small")]
KINDS = [*PLAIN, *(("ddim", eta, "fixed_small") for eta in (0.0, 0.4, 1.0))]


@pytest.mark.parametrize("name", PROCESSES)
def test_the_closed_forms_are_cores_tables(name):
    """Both are held against papers and peers in their own tests; here that one can be the other's oracle."""
    process = make_process(PROCESSES[name])
    for table, expected in closed_forms.process_tables(PROCESSES[name]).items():
        assert difference(getattr(process, table), expected.astype(np.float64), table).measured <= TABLE, table


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[2]}")
@pytest.mark.parametrize("name", PROCESSES)
def test_the_formulas_of_the_samplers_are_cores_tables(name, kind):
    config, (sampler, eta, variance) = PROCESSES[name], kind
    process, x_T = make_process(config), np.random.default_rng(4).standard_normal((3, 4, 5))
    for spacing, steps in (("trailing", 1), ("trailing", 2), ("trailing", 48), ("leading", 20), ("linspace", 30)):
        for clip in (True, False):
            sampling = SamplingConfig(sampler, steps, spacing, eta, variance, clip)

            def noise(row):
                return np.random.default_rng([5, row]).standard_normal((3, 4, 5))

            def network(x, t):
                return 0.3 * x + 0.1 * np.cos(0.01 * t)

            found = run(make_table(process, sampling), network, x_T, noise)
            expected = closed_forms.sample(config, sampling, network, x_T, noise).astype(np.float64)
            assert difference(found, expected, "image").measured <= SAMPLER_FLOAT64, sampling


def test_the_frequencies_are_cores():
    baseline = ModelConfig(architecture="baseline", block_out_channels=(4, 8, 16, 16))
    for config in (ModelConfig(), ModelConfig(freq_shift=1), baseline):
        expected = closed_forms.time_frequencies(config).astype(np.float64)
        assert difference(time_frequencies(config), expected, "frequencies").measured <= TABLE
