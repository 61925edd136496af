"""The share of the time that a training waits for its batches, by a clock of the test's own."""

import json
from types import SimpleNamespace

import pytest

from core.ahead import Ahead
from core.training import loop, training
from core.training.training import Training
from eval.pages.demo_page import waiting_row
from tests.command_line import run
from tests.numpy_impl.trainer import Trainer


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what a test adds to `seconds`."""
    clock = SimpleNamespace(seconds=0.0)
    clock.monotonic = clock.perf_counter = lambda: clock.seconds
    for module in (loop, training):
        monkeypatch.setattr(module, "time", clock)
    return clock


def lasting(monkeypatch, clock, owner, name, seconds):
    """Let every call of a method last some seconds."""
    method = getattr(owner, name)

    def slow(self, *arguments):
        clock.seconds += seconds
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, slow)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("seconds", "shown"), [(1.0, "waiting=25%"), (0.1, None)])
@pytest.mark.parametrize("owner", [Training, Ahead], ids=["in the loop", "in a thread"])
def test_a_slow_batch_is_noted_and_shown(recipe, tmp_path, monkeypatch, clock, owner, seconds, shown):
    monkeypatch.setattr(Trainer, "asynchronous", owner is Ahead)
    lasting(monkeypatch, clock, owner, {Training: "batch", Ahead: "take"}[owner], seconds)
    lasting(monkeypatch, clock, Trainer, "step", 3.0)
    flags = ("--training.log-every", 2)
    code, _, err = run("train", "--config", recipe, "--run", tmp_path / "run", *flags)
    assert code == 0, err
    share = round(seconds / (seconds + 3), 4)
    assert [(line["step"], line["waiting"]) for line in lines_of(tmp_path / "run")] == [(2, share), (4, share)]
    assert shown in err if shown else "waiting" not in err


def test_a_clock_that_stands_still_gives_a_share_of_0_and_a_run_of_before_goes_on(recipe, tmp_path, clock):
    folder = tmp_path / "run"
    assert run("train", "--config", recipe, "--run", folder)[0] == 0
    lines = lines_of(folder)
    assert {line.pop("waiting") for line in lines} == {0.0}
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run("train", "--resume", folder, "--training.steps", 6)[0] == 0
    assert ["waiting" in line for line in lines_of(folder)] == [False] * 4 + [True] * 2


def test_the_demo_s_page_has_a_row_where_a_framework_waits_much():
    old, little, much = [{"step": 1}], [{"waiting": None}, {"waiting": 0.05}, {"waiting": 0.05}], [{"waiting": 0.061}]
    assert waiting_row({"PyTorch": old, "TensorFlow": little}) == []
    assert waiting_row({"PyTorch": old, "TensorFlow": much}) == [["waiting for data", "0%", "6%"]]
