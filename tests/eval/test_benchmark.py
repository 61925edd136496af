"""The benchmark, with pretended contestants whose every step takes a known time; once, slowly, with the real ones."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.config.recipes import from_dict, load_recipe
from eval.__main__ import main
from eval.measure import machine
from eval.measure.machine import Watch, leaving_on_signals
from eval.measure.speed import Race, contestants, measure, ratio, ratios, summary
from eval.pages.benchmark_page import benchmark_sections, benchmark_text, ratio_picture, write_benchmark_page
from eval.pages.page import Notice
from eval.studies.performance_table import BEGIN, END, PerformanceTable, write_tables
from eval.twins.client import Worker
from tests.eval.html import read_page
from tests.fake_twins import SECONDS, make_checkout

NAMES = ["torch", "tensorflow", "control", "limit", "diffusers"]
PACES = {**SECONDS, "control": SECONDS["torch"]}


def test_summary_and_ratio_in_closed_form():
    s = summary([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (s["min"], s["q1"], s["median"], s["q3"], s["max"]) == (1, 2, 3, 4, 5)
    # Paired: the machine is twice as slow in the second repetition, for both; the ratio does not move.
    r = ratio({"a": [20.0, 40.0, 20.0], "b": [10.0, 20.0, 10.0]}, "a", "b")
    assert r["values"] == [0.5, 0.5, 0.5] and (r["of"], r["to"], r["min"], r["max"]) == ("a", "b", 0.5, 0.5)


def test_the_ratios_that_count():
    found = [(r["of"], r["to"]) for r in ratios({name: [1.0] for name in NAMES})]
    own = [("control", "torch"), ("tensorflow", "torch"), ("torch", "limit")]
    assert found == [*own, ("torch", "diffusers"), ("tensorflow", "diffusers")]
    assert [(r["of"], r["to"]) for r in ratios({"torch": [1.0], "tensorflow": [2.0]})] == [("tensorflow", "torch")]


@pytest.fixture(scope="module")
def measured(tmp_path_factory, this_python):
    root, recipe = make_checkout(tmp_path_factory.mktemp("checkout"))
    options = {"repetitions": 3, "steps": 4, "samples": 6, "starts": 2, "threads": 2, "peers": ("diffusers",)}
    return measure(load_recipe(recipe), root=root, **options), (root / "calls.log").read_text().split("\n")[:-1]


def test_known_times_are_found(measured):
    result, _ = measured
    assert list(result["contestants"]) == NAMES
    for name, entry in result["contestants"].items():
        floor, seconds = PACES[name], entry["seconds"]
        assert floor < seconds["training"]["median"] < floor + 0.05 and len(seconds["training"]["values"]) == 3
        for batch in (1, 6):  # a drawing takes the time of one step, and has three evaluations
            assert floor / 3 < seconds[f"evaluation {batch}"]["median"] < floor / 3 + 0.05
        assert entry["environment"]["threads"] == 2
        assert 10 * 2**20 < entry["peak_bytes"]["training"] < 4 * 2**30
        assert ("start" in seconds) == (name not in ("control", "limit"))
        assert name in ("control", "limit") or (len(seconds["start"]["values"]), seconds["start"]["min"] > floor) == (
            2,
            1,
        )
    found = {(r["of"], r["to"]): r["median"] for r in result["ratios"]["training"]}
    assert found["tensorflow", "torch"] == pytest.approx(0.5, rel=0.4)
    assert found["control", "torch"] == pytest.approx(1.0, rel=0.4)
    assert found["torch", "limit"] == pytest.approx(0.5, rel=0.4)
    assert found["torch", "diffusers"] == pytest.approx(4.0, rel=0.4)
    assert found["tensorflow", "diffusers"] == pytest.approx(2.0, rel=0.4)
    assert list(result["ratios"]) == ["start", "training", "evaluation 1", "evaluation 6"]


def test_repetitions_are_interleaved_in_shuffled_order_after_a_warm_up(measured):
    runs = [line.split() for line in measured[1]]
    shown = ["torch", "tensorflow", "torch", "limit", "diffusers"]  # the control is a PyTorch twin too
    starts, settling, timed = 3 + 5, 3 * 5, 4 * 5
    steps = [name for what, name in runs if what == "step"]
    assert sorted(steps[:3]) == ["diffusers", "tensorflow", "torch"] and sorted(steps[3:starts]) == sorted(shown)
    assert steps[starts : starts + settling] == [name for name in shown for _ in range(3)]
    rounds = [steps[starts + settling + i * timed :][:timed:4] for i in range(3)]
    assert all(sorted(names) == sorted(shown) for names in rounds) and len(steps) == starts + settling + 3 * timed
    assert len({tuple(names) for names in rounds}) > 1
    assert len([what for what, _ in runs if what == "sample"]) == 2 * (1 + 3) * 5


def test_the_table_has_every_median_and_every_ratio(measured):
    result, _ = measured
    lines = benchmark_text(result).splitlines()
    (line,) = (line for line in lines if line.startswith("training, ms a step"))
    medians = [e["seconds"]["training"]["median"] for e in result["contestants"].values()]
    assert line.split()[4:] == [f"{1000 * median:.3g}" for median in medians]
    for ratio_ in (r for entries in result["ratios"].values() for r in entries):
        quartiles = f"{ratio_['q1']:.2f} – {ratio_['q3']:.2f}"
        assert any(f"{ratio_['median']:.2f}" in line and quartiles in line for line in lines)
    assert any(line.split()[-1] == "2" for line in lines if line.startswith("start: TensorFlow / PyTorch"))


def test_the_page_warns_of_noise_and_of_a_busy_machine(measured):
    result = measured[0] | {"command": "command"}
    machines = [{**result["machine"], "load_before": load} for load in (0.0, 3.0)]
    found = [benchmark_sections({**result, "machine": state}) for state in machines]
    assert [sum(isinstance(section, Notice) for section in sections) for sections in found] == [1, 2]


def test_the_page_stands_alone_and_shows_the_medians(measured, tmp_path):
    result = measured[0] | {"command": "python -m eval benchmark --steps 4"}
    write_benchmark_page(tmp_path / "page.html", result)
    page = read_page(tmp_path / "page.html")
    assert page.stands_alone() and page.plots() == 4 and result["command"] in page.text
    rows = {row[0]: row[1:] for table in page.tables for row in table}
    medians = [e["seconds"]["training"]["median"] for e in result["contestants"].values()]
    assert [cell.split()[0] for cell in rows["training, ms a step"]] == [f"{1000 * median:.3g}" for median in medians]
    entry = result["ratios"]["evaluation 6"][1]
    assert rows["evaluation, batch 6: TensorFlow / PyTorch"][0].split()[0] == f"{entry['median']:.3g}"
    picture = ratio_picture(result)
    assert picture.startswith("<svg") and "currentColor" not in picture and "PyTorch again / PyTorch" in picture


def test_the_tables_of_the_page_of_performance(measured, tmp_path):
    page, result = tmp_path / "page.md", measured[0]
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    write_tables(page, {"first": result, "second": {**result, "ratios": {"training": result["ratios"]["training"]}}})
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    entry = result["ratios"]["training"][1]
    cell = f"{entry['median']:.2f} ({entry['q1']:.2f} – {entry['q3']:.2f})"
    assert f"| training: TensorFlow / PyTorch | {cell} | {cell} |" in text
    assert "| evaluation, large batch: PyTorch / diffusers | " in text and " | – |" in text
    milliseconds = 1000 * result["contestants"]["limit"]["seconds"]["evaluation 6"]["median"]
    assert f"| evaluation, large batch: PyTorch's products alone | {milliseconds:.3g} | " in text
    with pytest.raises(ValueError, match="takes NAME=FOLDER"):
        PerformanceTable(results=("demo",)).execute()


@pytest.mark.parametrize("name", ["repetitions", "steps", "samples", "starts", "threads"])
def test_numbers_below_1_are_refused(name, capsys):
    assert main(["benchmark", f"--{name}", "0"]) == 2
    assert f"--{name} 0: must be at least 1" in capsys.readouterr().err


def test_unknown_peers_and_other_threads_are_refused(tmp_path, this_python):
    for peers in (["jax"], ["diffusers", "diffusers"]):
        with pytest.raises(ValueError, match=f"--peer {peers[0]}: must be one of diffusers, denoising-.*, each once"):
            contestants(peers)
    root, recipe = make_checkout(tmp_path, more_threads=1)
    with pytest.raises(RuntimeError, match="torch: runs 3 threads: must be 2"):
        measure(load_recipe(recipe), root=root)


def test_spinning_threads_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert main(["benchmark"]) == 2
    assert capsys.readouterr().err.startswith("error: OMP_WAIT_POLICY=ACTIVE: waiting threads take cores")


def test_out_may_not_be_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["benchmark", "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_the_machine_is_noted_with_its_clock_where_the_system_says_it(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("model name\t: A processor\ncpu MHz\t\t: 2000.0\ncpu MHz\t\t: 3000.0\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(os, "getloadavg", iter([(0.5, 0, 0), (1.0, 0, 0), (2.0, 0, 0), (4.0, 0, 0)]).__next__)
    watch = Watch()
    for _ in range(3):
        watch.note()
    record = watch.record()
    assert record["processor"] == "A processor" and record["mhz"] == [2500.0] * 3
    assert record["load_before"] == 0.5 and record["load_during"] == [1.0, 2.0, 4.0]
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0, 0))
    without = Watch()
    without.note()
    assert without.record()["mhz"] is None and without.record()["processor"] != "A processor"


def state_of(pid):
    """The state letter of a process, such as T for stopped; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def in_time(condition):
    """Whether a condition comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_waiting_contestants_are_stopped_and_none_is_left(tmp_path, this_python):
    root, recipe = make_checkout(tmp_path)
    with pytest.raises(RuntimeError, match="on fire"):
        race = Race(contestants(()), load_recipe(recipe), 1, root, lambda what: None)
        with contextlib.ExitStack() as stack:
            for name in ("torch", "tensorflow"):
                race.started(name, stack)
            pids = [worker._child.pid for worker in race.workers.values()]
            assert in_time(lambda: [state_of(pid) for pid in pids] == ["T", "T"])
            race.training_seconds("torch", 1)  # a stopped worker goes on when it is called
            assert in_time(lambda: [state_of(pid) for pid in pids] == ["T", "T"])
            raise RuntimeError("the house is on fire")
    assert [state_of(pid) for pid in pids] == ["", ""]


@linux
def test_a_terminated_benchmark_leaves_no_stopped_process(tmp_path, this_python):
    root, _ = make_checkout(tmp_path)
    with pytest.raises(SystemExit) as ended, leaving_on_signals(), Worker("torch", root=root) as worker:
        worker.call("describe")
        worker.pause()
        pid = worker._child.pid
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert ended.value.code == 128 + signal.SIGTERM and state_of(pid) == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("peer", "package"), [("diffusers", "diffusers"), ("lucidrains", "denoising_diffusion_pytorch")]
)
def test_a_missing_peer_is_named_with_how_to_install_it(peer, package):
    pytest.importorskip("torch", reason="the TensorFlow environment has no PyTorch")
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from core.config.recipes import load_recipe\n"
        f"from tests.peers.{peer}_contestant import make_network\n"
        "try: make_network(load_recipe('configs/demo.toml'))\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("--peer ") and f"no module {package}: run {sys.executable} -m pip install" in said
    assert len(said.splitlines()) == 1


def test_the_limit_replays_every_product_of_a_step(tmp_path):
    torch = pytest.importorskip("torch", reason="the TensorFlow environment has no PyTorch")
    from tests.peers.products_contestant import Recorder

    layer, x = torch.nn.Conv2d(2, 4, 3), torch.randn(3, 2, 8, 8).to(memory_format=torch.channels_last)
    a = torch.randn(5, 6, requires_grad=True)
    with Recorder() as recorder:
        (layer(x.requires_grad_()).square().sum() + (a @ torch.randn(6, 7)).sum()).backward()
    results = [call() for call in recorder.calls]
    shapes = [tuple(r.shape) for r in results if isinstance(r, torch.Tensor)]
    assert (3, 4, 6, 6) in shapes and (5, 7) in shapes and (5, 6) in shapes  # forward, and the product backward
    (backward,) = (r for r in results if isinstance(r, tuple))
    assert [tuple(g.shape) for g in backward] == [(3, 2, 8, 8), (4, 2, 3, 3), (4,)]
    assert any(t.shape == (3, 2, 8, 8) and t.stride() == x.stride() for t in recorder.arrays.values())


@pytest.mark.diffusers
def test_the_peer_takes_the_very_steps_of_the_twin(tmp_path):
    pytest.importorskip("torch", reason="the TensorFlow environment has no PyTorch")
    from core.worker.tasks import TrainingTask
    from tests.peers.contestant import Trainer as Peer
    from tests.peers.diffusers_contestant import make_network
    from torch_impl.trainer import Trainer

    class WithState(Peer):
        def __init__(self, recipe):
            super().__init__(recipe, make_network)

        def state(self):
            return {}, {}, {}

        def step(self, batch, scalars):
            return {**super().step(batch, scalars), "grad_norm": 0.0}

    _, path = make_checkout(tmp_path)
    recipe = {**json.loads(json.dumps(load_recipe(path), default=vars))}
    recipe["process"] |= {"prediction": "eps"}
    recipe["training"] |= {"learning_rate": 1e-2, "clip_norm": 0.5}
    arrays = {"images": np.random.default_rng(0).random((8, 8, 8, 1), np.float32)}
    losses = [TrainingTask(kind)(arrays, {"recipe": recipe, "steps": 5})[0]["loss"] for kind in (Trainer, WithState)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][-1] < 0.9 * losses[0][0]
    for key, value in (("accumulate", 2), ("optimizer", "adamw"), ("weight_decay", 0.1)):
        other = {**recipe, "training": {**recipe["training"], key: value}}
        with pytest.raises(ValueError, match=f"training.{key} = "):
            WithState(from_dict(type(load_recipe(path)), other))


@pytest.mark.cross
@pytest.mark.slow
def test_both_frameworks_and_the_peer(tmp_path, capsys):
    _, recipe = make_checkout(tmp_path / "checkout")
    words = ["--repetitions", "2", "--steps", "2", "--samples", "3", "--threads", "1", "--peer", "diffusers"]
    words += ["--batch-size", "3", "--sampling-steps", "2"]
    assert main(["benchmark", "--config", str(recipe), *words, "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert result["protocol"]["batch_size"] == 3 and result["protocol"]["samples"] == 3
    assert "--batch-size 3 --sampling-steps 2" in result["command"]
    found = {name: entry["environment"]["framework"] for name, entry in result["contestants"].items()}
    assert found == dict(zip(NAMES, ["torch", "tensorflow", "torch", "torch", "diffusers"], strict=True))
    assert all(entry["environment"]["threads"] == 1 for entry in result["contestants"].values())
    assert all(len(entry["seconds"]["training"]["values"]) == 2 for entry in result["contestants"].values())
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
