"""kill -9 of a real training process at a chosen write, then --resume: every bit as if it had not happened.

tests/core/test_cli.py kills a NumPy twin at every write; here the frameworks are killed at the two that matter most.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
[model]
sample_size = [8, 16]
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
add_attention = false
dropout = 0.1
[process]
timesteps = 100
[data]
simulate_count = 24
cache = "CACHE"
[training]
steps = 6
batch_size = 4
accumulate = 2
learning_rate = 1e-3
warmup_steps = 3
log_every = 1
checkpoint_every = 2
keep_checkpoints = 0
sample_count = 0
threads = 1
"""
# Runs a twin as `python -m` does, with a SIGKILL before the n-th opening of a file whose path holds WORDS.
KILLED = """
import os, runpy, signal, sys
package, words, left = sys.argv[1], sys.argv[2].split("*"), int(sys.argv[3])
def hook(event, arguments):
    global left
    if event == "open" and all(word in str(arguments[0]) for word in words):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
sys.argv = [package, *sys.argv[4:]]
runpy.run_module(package, run_name="__main__", alter_sys=True)
"""


def start(command: list, *argv) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command, *map(str, argv)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def finish(child: subprocess.Popen, code: int) -> None:
    _, err = child.communicate(timeout=300)
    assert child.returncode == code, err[-2000:]


def tensors(checkpoint: Path) -> dict[str, bytes]:
    """EMA, raw weights and both moments, and all that says where the run stands but the clock."""
    files = {p.relative_to(checkpoint).as_posix(): p.read_bytes() for p in sorted(checkpoint.rglob("*.safetensors"))}
    assert set(files) == {"training_state.safetensors", "unet/diffusion_pytorch_model.safetensors"}
    progress = json.loads((checkpoint / "training_state.json").read_text())
    return files | {
        "progress": json.dumps({key: value for key, value in progress.items() if key != "seconds"}).encode()
    }


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith((".partial", ".tmp"))]


@pytest.fixture(scope="module")
def story(backend, tmp_path_factory) -> dict[str, Path]:
    """A run that nobody disturbs, and the folder of one after each of its ends: killed, killed again, finished."""
    base, package = tmp_path_factory.mktemp("crash"), repr(backend)
    recipe, whole, folder = base / "tiny.toml", base / "whole", base / "run"
    recipe.write_text(RECIPE.replace("CACHE", str(base / "cache")))
    found = {"whole": whole}

    def keep(name: str) -> None:
        found[name] = shutil.copytree(folder, base / name, symlinks=True)

    train = ["train", "--config", recipe, "--run"]
    uninterrupted = start(["-m", package], *train, whole)
    # Two steps after the checkpoint of step 2: the file is opened twice before the first line.
    killed = start(["-c", KILLED, package, "run/metrics.jsonl", "6"], *train, folder)
    finish(killed, -signal.SIGKILL)
    finish(uninterrupted, 0)
    keep("killed while it trained")
    # The tensors of step 6 are there, the state's description is not.
    words = ["step-00000006*training_state.json", "1", "train", "--resume"]
    finish(start(["-c", KILLED, package, *words], folder), -signal.SIGKILL)
    keep("killed while it saved")
    finish(start(["-m", package], "train", "--resume", folder), 0)
    keep("finished")
    return found


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_is_killed_while_it_trains_keeps_its_last_checkpoint_and_its_lines(story):
    folder = story["killed while it trained"]
    assert (folder / "latest").read_text() == "step-00000002\n" and not partials(folder)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3]


def test_a_run_that_is_killed_while_it_saves_keeps_the_checkpoints_before(story):
    folder = story["killed while it saved"]
    assert (folder / "latest").read_text() == "step-00000004\n"
    left = partials(folder)
    assert any((path / "training_state.safetensors").is_file() for path in left)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir() if path not in left)
    assert names == ["step-00000002", "step-00000004"]
    for name in names:
        load_checkpoint(folder / "checkpoints" / name)
        assert tensors(folder / "checkpoints" / name) == tensors(story["whole"] / "checkpoints" / name)


def test_a_killed_run_ends_with_every_bit_of_one_that_was_not(story):
    folder, whole = story["finished"], story["whole"]
    assert tensors(resolve_checkpoint(folder)) == tensors(whole / "checkpoints" / "step-00000006")
    assert not partials(folder)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "grad_norm", "lr", "skipped"):
        assert [line[key] for line in lines(folder)] == [line[key] for line in lines(whole)]
