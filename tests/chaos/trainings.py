"""Trainings of a second in child processes, forked from one that has imported the framework and run nothing in it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.commands.main import main

RECIPE = """
[model]
sample_size = SIZE
block_out_channels = [8]
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
mid_block_type = "none"
dropout = 0.1
[process]
timesteps = 100
[data]
simulate_count = 16
held_out = 0.4
cache = "cache"
[training]
steps = 8
batch_size = 4
accumulate = 2
learning_rate = 1e-3
warmup_steps = 3
timestep_sampling = "importance"
ema_profiles = [0.05, 0.1]
log_every = 1
checkpoint_every = 2
keep_checkpoints = KEEP
sample_every = 4
sample_count = 2
threads = 1
[sampling]
steps = 2
[evaluation]
every = EVERY
n = 2
"""
STEPS, EVERY = 8, 2
"""training.steps and training.checkpoint_every of the recipe."""
RECIPES = {
    "all": RECIPE.replace("SIZE", "8").replace("KEEP", "0").replace("EVERY", "0"),
    "best": RECIPE.replace("SIZE", "32").replace("KEEP", "1").replace("EVERY", "3"),
}
"""`all` keeps every checkpoint; `best` keeps the last one, and the one of the smallest distance. Its images have the 32
pixels that the lens extractor needs."""
PATIENCE = 300.0
"""Seconds after which a child is said to hang."""
TMPFS, NEW_MOUNTS, PRIVATE, DETACH = b"tmpfs", 0x00020000, (1 << 18) | (1 << 14), 2
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Child:
    """A process that trains, and the file of what it prints."""

    pid: int
    log: Path
    code: int | None = None

    def ended(self) -> bool:
        """Whether it has ended; then `code` is its exit code, or minus the signal that ended it."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self) -> int:
        """Wait for its end; the exit code. A child that hangs is killed, and its code is 98."""
        deadline = time.monotonic() + PATIENCE
        while not self.ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.code = 98
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def send(self, signum: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, signum)

    @property
    def says(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")


def load(package: str, folder: Path) -> None:
    """Import a twin, and all that a training of its imports: a child lists its modules."""
    importlib.import_module(f"{package}.trainer")
    listed = folder / "modules"
    (folder / "recipe.toml").write_text(RECIPES["best"])
    child = start(package, folder, "train", "--config", "recipe.toml", "--run", "first", listed=listed)
    if child.wait():
        raise RuntimeError(child.says)
    for name in json.loads(listed.read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def start(package: str, folder: Path, *argv: str, limit: int = 0, listed: Path | None = None) -> Child:
    """Run a twin's command line in a child.

    Args:
        package: torch_impl or tf_impl, imported.
        folder: working folder of the child.
        argv: the words of the command line.
        limit: largest size of a file in bytes; 0 for none.
        listed: file for the names of the modules that the child has imported at its end.
    """
    log = folder / f"log-{time.monotonic_ns()}"
    log.touch()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 99
    try:
        os.setsid()  # Ctrl-C is for the campaign alone
        os.chdir(folder)
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = main(package, list(argv))
        if listed:
            listed.write_text(json.dumps(sorted(sys.modules)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def may_mount() -> bool:
    """Whether this process may mount file systems, which no other process sees and which vanish with it."""
    return not libc.unshare(NEW_MOUNTS) and not libc.mount(b"none", b"/", None, PRIVATE, None)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes in memory at an empty folder."""
    folder.mkdir()
    resize(folder, size, 0)
    try:
        yield
    finally:
        libc.umount2(os.fsencode(folder), DETACH)


def resize(folder: Path, size: int, flags: int = 32) -> None:
    """Give a small disk another size; 32 is MS_REMOUNT."""
    if libc.mount(TMPFS, os.fsencode(folder), TMPFS, flags, b"size=%d" % size):
        raise OSError(ctypes.get_errno(), "cannot mount a tmpfs", str(folder))


def content(run: Path) -> dict[str, bytes]:
    """Every file of a run by its path, without the clock's entries and without the lock."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or name == "lock":
            continue
        found[name] = path.read_bytes()
        if path.name in ("training_state.json", "metrics.jsonl"):
            values = [json.loads(part) for part in (found[name].splitlines() if "metrics" in name else [found[name]])]
            for each in values:
                for clock in ("seconds", "images_per_second", "waiting"):
                    each.pop(clock, None)
            found[name] = json.dumps(values).encode()
    return found
