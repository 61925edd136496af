"""The twin's executor on editing tables and their hook, over a network in closed form, against NumPy's."""

import numpy as np
import pytest

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.editing import decode_table, encode_table, keep_known, repaint_table, tail_table
from core.diffusion.process import make_process
from core.diffusion.table import run
from eval.parity.closeness import require_close
from eval.parity.tolerances import SAMPLER_FLOAT32, SAMPLER_FLOAT64

SHAPE = (3, 4, 6, 2)
PROCESS = make_process(ProcessConfig(60, beta_end=0.3, prediction="v"))
SLOPE, OFFSET = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 60))


def noise(kind, dtype):
    return lambda row: np.random.default_rng([kind, row]).standard_normal(SHAPE).astype(dtype)


TABLES = {
    "encode": encode_table(PROCESS, SamplingConfig("ddim", 20)),
    "decode": decode_table(PROCESS, SamplingConfig("ddim", 20)),
    "tail": tail_table(PROCESS, SamplingConfig("dpmsolver++", 20), 0.6)[0],
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", SAMPLER_FLOAT64), ("float32", SAMPLER_FLOAT32)])
def test_the_executor_equals_numpys(backend, dtype, tolerance):
    given = (values.astype(dtype) for values in (SLOPE, OFFSET, PROCESS.time))
    bound = backend.worker.affine_network(*given).bind()
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(dtype)

    def network(x, t):
        return SLOPE[int(t)] * x + OFFSET[int(t)]

    for name, table in TABLES.items():
        require_close(
            bound.run(table, x, noise(1, dtype)), run(table, network, x, noise(1, dtype)), tolerance, name, dtype
        )
    table, reached = repaint_table(PROCESS, SamplingConfig("ddpm", 20), 3, 2)
    hole = np.random.default_rng(2).random((1, 4, 6, 1)) < 0.5
    known = np.random.default_rng(3).uniform(-1, 1, SHAPE)
    found = bound.run(table, x, noise(1, dtype), after=keep_known(known, hole, reached, noise(2, dtype)))
    expected = run(
        table, network, x.astype(np.float64), noise(1, dtype), after=keep_known(known, hole, reached, noise(2, dtype))
    )
    require_close(found, expected, tolerance, "inpainting", dtype)
    where = np.broadcast_to(hole, SHAPE)
    assert np.array_equal(found[~where], known.astype(dtype)[~where])
