"""Several processes that train one network: by torchrun's variables, TF_CONFIG, and the devices of one process."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from core.config.recipes import load_recipe
from core.training.ranks import Ranks, check_divisible, gather_uneven
from eval.twins.interpreters import ROOT, child_environment
from eval.twins.launched import free_ports

RECIPE = """
[model]
sample_size = 16
block_out_channels = [8, 16]
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
attention_head_dim = 8
num_class_embeds = 4
vector_channels = 1
[process]
timesteps = 2
beta_end = 0.6
[data]
simulate_count = 40
condition = ["theta_e"]
cache = "CACHE"
[training]
dtype = "float64"
steps = 20
batch_size = 16
accumulate = 2
clip_norm = 0.5
optimizer = "adamw"
weight_decay = 0.1
learning_rate = 2e-3
warmup_steps = 5
condition_dropout = 0.2
timestep_sampling = "importance"
ema_profiles = [0.1]
checkpoint_every = 5
keep_checkpoints = 0
sample_count = 3
log_every = 5
[sampling]
steps = 2
batch_size = 2
"""
TOLERANCE = 1e-12
"""Of each tensor's largest value after twenty steps; measured 2e-14."""
SECONDS = 300
LONG = ("--training.steps", "5000", "--training.checkpoint-every", "20")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "tiny.toml").write_text(RECIPE.replace("CACHE", str(folder / "cache")))
    return folder


@pytest.fixture(scope="module")
def start(backend, place):
    """Starts `train` in several processes; each with its own words where there are lists of them."""
    begun = []

    def begin(count, run, *words, each=None):
        ports, processes = free_ports(count), []
        for rank in range(count):
            environment = child_environment(1)
            if backend.name == "torch":
                variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": ports[0]}
                environment |= {key: str(value) for key, value in variables.items()} | {"MASTER_ADDR": "127.0.0.1"}
            else:
                workers = [f"127.0.0.1:{port}" for port in ports]
                task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
                environment["TF_CONFIG"] = json.dumps(task)
            config = [] if "--resume" in words else ["--config", str(place / "tiny.toml"), "--run", str(run)]
            command = [sys.executable, "-m", repr(backend), "train", *config, *words, *(each or [[]] * count)[rank]]
            with open(place / f"rank-{rank}.txt", "wb") as log:
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=-3))
        begun.extend(processes)
        return processes

    yield begin
    for process in begun:
        process.kill()


@pytest.fixture(scope="module")
def alone(backend, place):
    """The run of one process."""
    run = place / "alone"
    command = [sys.executable, "-m", repr(backend), "train", "--config", str(place / "tiny.toml"), "--run", str(run)]
    subprocess.run(command, cwd=ROOT, env=child_environment(1), check=True, capture_output=True)
    return run


def ended(processes) -> list[int]:
    return [process.wait(SECONDS) for process in processes]


def said(place, rank) -> str:
    return (place / f"rank-{rank}.txt").read_text(errors="replace").replace("\r", "\n")


def last(run) -> Checkpoint:
    return load_checkpoint(resolve_checkpoint(run))


def steps_in(run) -> int:
    """The newest step whose checkpoint is whole."""
    latest = run / "latest"
    return int(latest.read_text().strip().removeprefix("step-")) if latest.is_file() else 0


def wait_until(run, step, processes) -> None:
    end = time.monotonic() + SECONDS
    while steps_in(run) < step:
        assert all(process.poll() is None for process in processes) and time.monotonic() < end
        time.sleep(0.05)


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    """Each tensor relative to its largest value, or where that is all rounding, to the largest of its set."""
    assert found.progress["counters"] == expected.progress["counters"]
    sets = [(found.ema, expected.ema), (found.state, expected.state)]
    for ours, theirs in sets:
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            scale = np.abs(value).max()
            if name.endswith("to_k.bias"):  # its true gradient is zero
                continue
            assert np.abs(ours[name] - value).max() <= TOLERANCE * scale, name


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_processes_changes_nothing(start, place, alone, count):
    run = place / f"of-{count}"
    assert ended(start(count, run)) == [0] * count, said(place, 0)
    assert_equal(last(run), last(alone))
    grids = [next((folder / "samples").glob("*.png")).read_bytes() for folder in (run, alone)]
    assert grids[0] == grids[1]
    lines = [[json.loads(line)["loss"] for line in (r / "metrics.jsonl").open()] for r in (run, alone)]
    np.testing.assert_allclose(lines[0], lines[1], rtol=1e-12)
    assert f"on {count} devices" in said(place, 0)
    assert "wrote" in said(place, 0) and "wrote" not in said(place, 1) and "starts" not in said(place, 1)


def test_a_run_goes_on_with_another_number_of_processes(start, place, alone):
    run = place / "changed"
    processes = start(2, run, *LONG[:2], "--training.checkpoint-every", "5")
    wait_until(run, 10, processes)
    for process in processes:
        process.kill()
    (run / "latest").write_text("step-00000010\n")
    assert ended(start(1, run, "--resume", str(run), "--training.steps", "20")) == [0], said(place, 0)
    assert_equal(last(run), last(alone))


def test_a_killed_rank_ends_all_and_loses_nothing(start, place):
    run = place / "killed"
    processes = start(2, run, *LONG)
    wait_until(run, 20, processes)
    processes[1].kill()
    assert processes[0].wait(SECONDS) == 1
    lines = [line for line in said(place, 0).splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "(rank 1)" in lines[0] and f"--resume {run}" in lines[0], lines
    assert last(run).progress["step"] == steps_in(run) >= 20


def test_a_signal_to_one_rank_saves_and_ends_all(start, place):
    run = place / "terminated"
    processes = start(2, run, *LONG)
    wait_until(run, 20, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert ended(processes) == [143, 143], said(place, 0)
    assert steps_in(run) % 20 and "interrupted" in said(place, 0)


def test_ranks_that_were_started_otherwise_are_refused(start, place):
    processes = start(2, place / "odd", each=[["--training.seed", "0"], ["--training.seed", "1"]])
    codes = ended(processes)
    assert codes == [2, 2] and "rank 1 has another recipe than rank 0" in said(place, 0)
    assert not (place / "odd" / "recipe.json").exists()


def test_a_write_that_fails_on_rank_0_stops_all(start, place):
    run = place / "full"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    first, second = start(2, run)
    assert first.wait(SECONDS) == 1 and "No space left" in said(place, 0)
    assert second.wait(SECONDS) == 1 and "(rank 0)" in said(place, 1)


def test_torchrun_goes_on_by_itself(backend, place, alone):
    if backend.name != "torch":
        pytest.skip("torchrun starts PyTorch's processes")
    run, log = place / "restarted", place / "torchrun.txt"
    flags = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "--", repr(backend), "train"]
    words = ["--config", str(place / "tiny.toml"), "--run", str(run)]
    with open(log, "wb") as file:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *flags, *words],
            cwd=ROOT,
            env=child_environment(1),
            stdout=file,
            stderr=file,
        )
    wait_until(run, 5, [launcher])
    os.kill(rank_of(launcher.pid, 1), signal.SIGKILL)
    assert launcher.wait(SECONDS) == 0, log.read_text()[-2000:]
    assert "goes on" in log.read_text()
    assert_equal(last(run), last(alone))


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank among a launcher's children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(c) for c in children if f"\0RANK={rank}\0" in Path(f"/proc/{c}/environ").read_text())


def test_the_devices_of_one_process_share_a_batch(backend, place, alone):
    if backend.name != "tensorflow":
        pytest.skip("a process of PyTorch has one device")
    run = place / "mirrored"
    program = (
        "import sys, tf_impl, tensorflow as tf; from core.commands.main import main; "
        "cpu, = tf.config.list_physical_devices('CPU'); two = [tf.config.LogicalDeviceConfiguration()] * 2; "
        "tf.config.set_logical_device_configuration(cpu, two); sys.exit(main('tf_impl', sys.argv[1:]))"
    )
    words = ["train", "--config", str(place / "tiny.toml"), "--run", str(run)]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, env=child_environment(1), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "on 2 devices" in done.stderr
    assert_equal(last(run), last(alone))


def test_what_the_ranks_cannot_share_is_refused(place):
    recipe = load_recipe(place / "tiny.toml")
    check_divisible(recipe, Ranks(0, 4, 2))
    with pytest.raises(ValueError, match=r"batch_size = 16: must be a multiple of 6, which is 3 devices times"):
        check_divisible(recipe, Ranks(0, 3))
    assert gather_uneven(Ranks(), np.arange(3), 5)[0].tolist() == [0, 1, 2]
    assert replace(Ranks(), rank=2, count=4).part(16) == range(8, 12)
