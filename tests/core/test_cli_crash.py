"""A run that is stopped at any moment: a full disk, Ctrl-C, SIGKILL before any operation on a file."""

import json
import os
import resource
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from core.checkpoints.run_folder import RunFolder
from core.training.stopping import stop_on_signals
from tests.command_line import refused, run, steps_of, weights_of
from tests.numpy_impl.trainer import Trainer


def forked(function) -> int:
    """Run a function in a child of its own; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            os._exit(function())
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("limit", [0, 2_000, 40_000])  # bytes: the metrics, the recipe and the weights do not fit
def test_a_full_disk_is_one_line_and_what_was_written_is_whole(recipe, tmp_path, limit):
    folder = tmp_path / "run"
    assert run("train", "--config", recipe, "--run", folder, "--training.steps", 2)[0] == 0
    before = weights_of(folder)

    pipe = os.pipe()

    def limited() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code, _, err = run("train", "--resume", folder, "--training.steps", 4)
        os.write(pipe[1], err.encode()[-2000:])
        return code

    assert forked(limited) == 1
    os.close(pipe[1])
    with open(pipe[0], encoding="utf-8") as file:
        errors = [line for line in file.read().splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "File too large" in errors[0] and str(folder) in errors[0]
    assert weights_of(folder) == before
    assert run("train", "--resume", folder, "--training.steps", 4)[0] == 0
    assert steps_of(folder) == [1, 2, 3, 4]


@pytest.fixture
def hangup_ends():
    """SIGHUP ends a process here, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("signum", "expected"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda n: str(int(n)),
)
def test_a_signal_saves_and_says_how_to_go_on(recipe, tmp_path, monkeypatch, hangup_ends, signum, expected):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert run("train", "--config", recipe, "--run", whole)[0] == 0
    monkeypatch.setattr(Trainer, "interrupt_at", 3)
    monkeypatch.setattr(Trainer, "interrupt_with", signum)
    code, out, err = run("train", "--config", recipe, "--run", folder)
    assert code == expected, err
    assert out.endswith(f"go on with: python -m tests.numpy_impl train --resume {folder}\n")
    assert (folder / "latest").read_text() == "step-00000003\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    monkeypatch.undo()
    assert run("train", "--resume", folder)[0] == 0
    assert weights_of(folder) == weights_of(whole) and steps_of(folder) == steps_of(whole) == [1, 2, 3, 4]


@pytest.mark.parametrize("where", ["log", "save"])
def test_a_signal_during_logging_or_saving_costs_no_step(recipe, tmp_path, monkeypatch, where):
    folder, method = tmp_path / "run", getattr(RunFolder, where)

    def interrupted(self, *arguments):
        if sent[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        sent[0] -= 1
        return method(self, *arguments)

    for every in (2, 100):
        sent = [0 if where == "save" else 1]  # the first checkpoint, or the line of step 2
        monkeypatch.setattr(RunFolder, where, interrupted)
        flags = ("--training.steps", 6, "--training.checkpoint-every", every)
        code, _, err = run("train", "--config", recipe, "--run", folder, *flags)
        if where == "save" and every == 100:  # the only checkpoint is the last step's
            assert code == 0, err
        else:
            assert code == 143 and (folder / "latest").read_text() == "step-00000003\n", err
            assert steps_of(folder) == [1, 2, 3]
        shutil.rmtree(folder)


def test_under_nohup_a_hangup_is_ignored(recipe, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(Trainer, "interrupt_at", 2)
        monkeypatch.setattr(Trainer, "interrupt_with", signal.SIGHUP)
        assert run("train", "--config", recipe, "--run", tmp_path / "run")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "run" / "latest").read_text() == "step-00000004\n"


def test_a_second_signal_ends_at_once():
    with stop_on_signals() as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopper.signum == signal.SIGTERM
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGTERM)
        assert end.value.code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_training_in_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: stop_on_signals().__enter__()).result()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_diverging_run_keeps_its_last_good_checkpoint(recipe, tmp_path):
    """The rate makes the weights overflow; the folder keeps one checkpoint, every step may write one."""
    folder = tmp_path / "run"
    flags = ("--training.learning-rate", 1e30, "--training.steps", 40, "--training.checkpoint-every", 1)
    line = refused(1, "train", "--config", recipe, "--run", folder, *flags, "--training.sample-count", 0)
    checkpoint = load_checkpoint(resolve_checkpoint(folder))
    assert str(resolve_checkpoint(folder)) in line and "--retune" in line
    steps = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    good = [values["step"] for values in steps if not values["skipped"]]
    assert checkpoint.progress["step"] == good[-1], "nothing was saved while steps were skipped"


def test_the_loop_reads_a_result_only_where_it_logs_or_saves(recipe, tmp_path, monkeypatch):
    """Any reading waits for the device."""
    reads, step = [], Trainer.step

    class Result(float):
        def __float__(self):
            reads.append(taken[-1])
            return float.__float__(self)

        def __int__(self):
            reads.append(taken[-1])
            return int(float.__float__(self))

    taken = []

    def watched(self, batch, scalars):
        metrics = step(self, batch, scalars)
        taken.append(self.counters["adam_steps"])
        return {name: Result(value) for name, value in metrics.items()}

    monkeypatch.setattr(Trainer, "step", watched)
    flags = ("--training.steps", 9, "--training.log-every", 4, "--training.checkpoint-every", 6)
    assert run("train", "--config", recipe, "--run", tmp_path / "run", *flags, "--training.sample-count", 0)[0] == 0
    assert taken == [*range(1, 10)] and set(reads) == {4, 6, 8, 9}


@pytest.mark.parametrize(("every", "steps"), [(1, 20), (8, 24), (50, 40)])
def test_a_diverging_run_ends_where_it_next_looks(recipe, tmp_path, monkeypatch, every, steps):
    taken, step = [], Trainer.step

    def diverged(self, batch, scalars):
        taken.append(scalars)
        return step(self, {**batch, "x_0": batch["x_0"] * np.inf}, scalars)

    monkeypatch.setattr(Trainer, "step", diverged)
    flags = ("--training.steps", 40, "--training.log-every", every, "--training.checkpoint-every", 1000)
    with np.errstate(invalid="ignore"):
        line = refused(1, "train", "--config", recipe, "--run", tmp_path / "run", *flags)
    assert f"20 steps in a row had a loss or gradient that is not finite; the last was step {steps}" in line
    assert len(taken) == steps


def test_weights_that_are_not_finite_are_not_saved(recipe, tmp_path, monkeypatch):
    folder, step = tmp_path / "run", Trainer.step

    def poisoned(self, batch, scalars):
        metrics = step(self, batch, scalars)
        if self.counters["adam_steps"] == 3:
            self.params["conv_in.bias"][0] = np.nan
        return metrics

    monkeypatch.setattr(Trainer, "step", poisoned)
    flags = ("--training.checkpoint-every", 1, "--training.sample-count", 0)
    line = refused(1, "train", "--config", recipe, "--run", folder, *flags)
    assert "params/conv_in.bias is not finite" in line and "step-00000002" in line
    assert load_checkpoint(resolve_checkpoint(folder)).progress["step"] == 2


OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_goes_on_as_if_it_had_not_been(recipe, tmp_path, stride):
    """SIGKILL before the n-th operation on a file, for every n; then go on, and compare every bit."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train = ("train", "--config", recipe, "--run")
    assert run(*train, whole)[0] == 0
    expected = weights_of(whole)
    grids = {path.name: path.read_bytes() for path in (whole / "samples").iterdir()}
    seen = set()
    for n in range(1, 1000, stride):
        shutil.rmtree(folder, ignore_errors=True)

        def killed_child(n: int = n) -> int:
            left = n

            def hook(event: str, arguments: tuple) -> None:
                nonlocal left
                if event in OPERATIONS and (event != "open" or str(folder) in str(arguments[0])):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            return run(*train, folder)[0]

        code = forked(killed_child)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        for checkpoint in (folder / "checkpoints").glob("step-*"):
            load_checkpoint(checkpoint)  # what has its final name is whole
        started, named = (folder / "recipe.json").exists(), (folder / "latest").exists()
        seen.add((started, (folder / "latest").read_text() if named else ""))
        code, _, err = run("train", "--resume", folder) if started else run(*train, folder)
        assert code == 0 or "already at step 4" in err, (n, err)
        assert weights_of(folder) == expected, n
        assert steps_of(folder) == [1, 2, 3, 4], n
        assert {path.name: path.read_bytes() for path in (folder / "samples").iterdir()} == grids, n
        if code == 0:
            assert not [path for path in folder.rglob(".*")], n
    assert n > 50 and seen >= {(False, ""), (True, ""), (True, "step-00000002\n"), (True, "step-00000004\n")}
