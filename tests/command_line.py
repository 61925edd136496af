"""Calls of the command line in this process, and a recipe that the NumPy twin trains in a moment."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from core.checkpoints.checkpoint import resolve_checkpoint
from core.commands.main import main

TWIN = "tests.numpy_impl"
RECIPE = """
[model]
sample_size = [8, 16]
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
mid_block_type = "none"
[process]
timesteps = 100
[data]
simulate_count = 24
cache = "CACHE"
[training]
steps = 4
batch_size = 4
warmup_steps = 2
log_every = 1
checkpoint_every = 2
sample_count = 2
keep_checkpoints = 1
[sampling]
steps = 3
"""


def call(package: str, *argv: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call of a twin's command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(package, [str(word) for word in argv])
        except SystemExit as end:  # --help
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def run(*argv: object) -> tuple[int, str, str]:
    """The same of the NumPy twin."""
    return call(TWIN, *argv)


def refused(code: int, *argv: object) -> str:
    """The one line on stderr of a call that must end with this code."""
    found, out, err = run(*argv)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert found == code and "Traceback" not in err and len(lines) == 1, (found, out, err)
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


def steps_of(folder: Path) -> list[int]:
    """The steps in a run's metrics."""
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, bytes]:
    """The bytes of the last checkpoint's tensors: EMA, raw weights, both moments."""
    last = resolve_checkpoint(folder)
    return {p.relative_to(last).as_posix(): p.read_bytes() for p in sorted(last.rglob("*.safetensors"))}
