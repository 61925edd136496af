"""The race over pretended twins and a pretended peer: what is trained, kept, measured and refused."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from core.exits import RunError
from core.files import write_json
from eval.__main__ import main
from eval.measure import race as races
from eval.measure import race_contestants, race_sets, race_table
from eval.measure.race import race
from eval.measure.race_contestants import FACTS, without_first_step
from eval.measure.race_sets import Course, open_course
from eval.measure.race_table import Contestant, RaceSet
from eval.pages.page import Prose
from eval.pages.race_page import race_text, write_race_page
from eval.twins import features as fid_features
from eval.twins import race_environment
from eval.twins.interpreters import ROOT
from eval.twins.race_environment import peers_python
from tests.eval.html import read_page
from tests.eval.test_fid import PixelWorker
from tests.fake_twins import TINY, make_checkout

N, FEWER, CLASSES = 30, 24, 3
MINUTES = 0.005
ALL = ("torch", "diffusers", "diffusers-matched")
PEER = """
    import json, sys
    from pathlib import Path
    import numpy as np
    job = json.loads(Path(sys.argv[1]).read_text())
    images, n = np.load(job["images"]), job["fewer"] if job["matched"] else job["n"]
    with Path("calls.log").open("a") as file:
        file.write(f"peer {len(images)} {job['seconds']} {job['threads']} {job['matched']}\\n")
    rng = np.random.default_rng(job["seed"])
    np.save(Path(job["out"]) / "samples.npy", rng.random((n, *images.shape[1:]), np.float32))
    facts = {"seconds": job["seconds"], "steps": 3, "images_seen": 12, "parameters": 1000, "drawing_seconds": 1.0}
    facts |= {"n": n, "sampler": "its own", "evaluations": 20, "versions": {"peer": "1"}}
    Path(job["out"], "facts.json").write_text(json.dumps(facts))
"""


def make_place(root):
    """A checkout with pretended twins, a pretended peer and a tiny recipe."""
    make_checkout(root)
    (root / "tests" / "peers" / "race_fake.py").write_text(textwrap.dedent(PEER))
    recipe = TINY.replace("simulate_count = 40", "simulate_count = 130")
    recipe = recipe.replace("sample_size = 8", f"sample_size = 8\n    num_class_embeds = {CLASSES}")
    (root / "tiny.toml").write_text(textwrap.dedent(recipe))
    return root


def patch_tables(patch, python):
    """Let the tables name what make_place() has made."""
    for module in (races, race_contestants):
        patch.setattr(module, "peers_python", lambda root: [python])
    patch.setattr(race_contestants, "FEWER", FEWER)
    patch.setattr(fid_features, "Worker", PixelWorker)
    patch.setitem(race_table.SETS, "lens-32", RaceSet("tiny.toml", ("lens",), False))
    for name, matched in (("diffusers", False), ("diffusers-matched", True)):
        fake = Contestant(f"peer {matched}", script="tests.peers.race_fake", matched=matched)
        patch.setitem(race_table.CONTESTANTS, name, fake)


def run(root, contestants=ALL, minutes=(MINUTES,), seeds=(0,), n=N, threads=1, out="race"):
    return race(("lens-32",), minutes, contestants, seeds, n, threads, root / out, root)


@pytest.fixture(scope="module")
def raced(tmp_path_factory, this_python):
    """A race from nothing: its checkout and its results."""
    with pytest.MonkeyPatch.context() as patch:
        root = make_place(tmp_path_factory.mktemp("race") / "checkout")
        patch_tables(patch, this_python)
        patch.chdir(root)
        results = run(root)
        (root / "first-calls.log").write_bytes((root / "calls.log").read_bytes())  # other tests race on in this folder
        yield root, results


@pytest.fixture
def tables(monkeypatch, this_python):
    patch_tables(monkeypatch, this_python)


def path_of(root, contestant, seed=0):
    return root / "race" / f"lens-32-{MINUTES:g}min-{contestant}-seed{seed}.json"


def test_every_start_leaves_its_facts_its_images_and_its_distance(raced):
    root, results = raced
    assert [result["made_from"]["contestant"] for result in results] == ["diffusers-matched", "diffusers", "torch"]
    for contestant, drawn in zip(ALL, (N, N, FEWER), strict=True):
        result = json.loads(path_of(root, contestant).read_text())
        assert result["facts"].keys() == FACTS.keys() and result["facts"]["n"] == drawn
        assert len(np.load(path_of(root, contestant).with_suffix("") / "samples.npy")) == drawn
        assert list(result["measured"]) == [str(FEWER)], "all of a cell are measured at the N that all have"
        found = result["measured"][str(FEWER)]["features"]["lens"]
        assert found["n"] == {"real": FEWER, "generated": FEWER} and found["floor"]["n"]["real"] == FEWER
        assert found["frechet"]["low"] < found["frechet"]["value"] < found["frechet"]["high"]


def test_all_train_on_the_same_images_for_the_same_time_without_classes(raced):
    root, _ = raced
    lines = [line for line in (root / "first-calls.log").read_text().splitlines() if line.startswith("peer")]
    course = open_course("lens-32", root / "race", 1, root)
    images = np.load(root / "race" / "train-lens-32.npy")
    np.testing.assert_array_equal(images, course.dataset.images[course.dataset.train])
    assert lines == [f"peer {len(images)} {60 * MINUTES} 1 {matched}" for matched in (False, True)]
    work = path_of(root, "torch").with_suffix("")
    recipe = json.loads((work / "run" / "recipe.json").read_text())
    assert recipe["model"]["num_class_embeds"] is None and recipe["training"]["threads"] == 1
    assert recipe["training"]["steps"] == json.loads(path_of(root, "torch").read_text())["facts"]["steps"]


def test_the_tables_and_the_page_have_every_contestant(raced):
    root, results = raced
    text = race_text(results)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {MINUTES:g} ")]
    assert sorted(row[1] for row in rows) == ["Diptych, PyTorch", "peer False", "peer True"]
    distances = [float(row[4].split(" [")[0]) for row in rows]
    assert distances == sorted(distances) and {row[3] for row in rows} == {str(FEWER)}
    page = read_page(write_race_page(root / "race", results))
    assert (
        all(address.startswith("#") for address in page.loads)
        and not page.open
        and len(page.tables) == 1
        and len(page.tables[0]) == 4
    )
    assert (root / "race" / "race.md").read_text() == text + "\n"
    known = {"floors": [], "accuracy": 0.9017}
    assert Prose("race").floors(**known).endswith("The classifier is right on 90.2 % of held-out images.")
    svg = (root / "race" / "race-lens-32-lens.svg").read_text()
    assert "peer True" in svg and "seconds of training" in svg


def test_a_race_goes_on_and_does_damaged_parts_again(raced, tables, caplog):
    root, before = raced
    log = root / "calls.log"
    calls = log.read_text()
    assert run(root) == before and log.read_text() == calls
    path_of(root, "diffusers").write_text("{")
    (path_of(root, "diffusers-matched").with_suffix("") / "samples.npy").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again = run(root)
    new = log.read_text()[len(calls) :].splitlines()
    assert [line.split()[0] for line in new] == ["peer", "peer"], "the twin's start was whole"
    assert sum("it does not count" in record.message for record in caplog.records) >= 2
    kept = [{key: result[key] for key in ("made_from", "facts", "samples_sha256")} for result in again]
    assert kept == [{key: result[key] for key in kept[0]} for result in before]
    path = path_of(root, "diffusers")
    result = json.loads(path.read_text())
    entry = result["measured"][str(FEWER)] | {"classifier": {"accuracy": 0.5}}
    for measured in ({}, {str(FEWER): entry}):  # measured again, without training
        write_json(path, result | {"measured": measured})
        assert run(root) == again
    assert len(log.read_text()[len(calls) :].splitlines()) == 2


def test_other_settings_need_another_folder(raced, tables):
    root, _ = raced
    for options, named in (({"n": 25}, "n 30 there, 25 here"), ({"threads": 2}, "threads 1 there, 2 here")):
        with pytest.raises(ValueError, match=rf"{named}.*name another --out"):
            run(root, **options)
    recipe = root / "tiny.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("steps = 3", "steps = 4"))
    with pytest.raises(ValueError, match=r"course_sha256 \w+ there, \w+ here\); name another --out"):
        run(root, ("tensorflow",))
    recipe.write_text(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": (0,)}, "--minutes 0: must be above 0"),
        ({"minutes": (-1,)}, "--minutes -1"),
        ({"minutes": (1e9,)}, "at most 10000"),
        ({"minutes": (3, 3)}, "--minutes 3: given twice"),
        ({"seeds": (1, 1)}, "--seed 1: given twice"),
        ({"n": 19}, "--n 19: must be at least 20"),
        ({"n": 1000}, "--n 1000: must be at most"),
        ({"threads": 0}, "--threads 0"),
    ],
)
def test_what_cannot_be_raced_is_refused_before_anything_is_trained(raced, tables, options, message):
    root, _ = raced
    with pytest.raises(ValueError, match=message):
        run(root, **options, out="other")
    assert not (root / "other").exists()


def test_a_peer_that_fails_or_draws_something_else_ends_the_race(raced, tables):
    root, _ = raced
    script = root / "tests" / "peers" / "race_fake.py"
    whole = script.read_text()
    try:
        script.write_text("import sys\nsys.exit('the peer is broken')\n")
        with pytest.raises(RunError, match="the peer is broken"):
            run(root, ("diffusers",), out="broken")
        script.write_text(whole.replace("(n, *images.shape[1:])", "(n, 4, 4, 1)"))
        with pytest.raises(RunError, match=r"drew images of \(30, 4, 4, 1\)"):
            run(root, ("diffusers",), out="broken")
    finally:
        script.write_text(whole)


def test_a_signal_to_the_race_ends_the_contestant_too(tmp_path):
    program = tmp_path / "slow.py"
    program.write_text("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n")
    race_of_one = "import sys\nfrom pathlib import Path\nfrom eval.measure.machine import leaving_on_signals\n"
    race_of_one += "from eval.twins.client import run_program\nwith leaving_on_signals():\n"
    race_of_one += f"    run_program([sys.executable, {str(program)!r}], 'slow', root=Path({str(tmp_path)!r}))\n"
    process = subprocess.Popen([sys.executable, "-c", race_of_one], cwd=ROOT)
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_the_seconds_of_a_training_leave_out_what_compiles():
    lines = [{"step": 10, "seconds": 25.0}, {"step": 20, "seconds": 30.0}, {"step": 40, "seconds": 40.0}]
    assert without_first_step(lines, 41.0) == 20.0
    assert without_first_step(lines[:1], 25.5) == 25.5


class FakeWorker:
    """A classifier whose only weight is the number of trainings."""

    trained = 0

    def call(self, task, arrays=None, /, **options):
        assert task == "train" and len(arrays["images"]) == len(arrays["labels"]) and options["classes"] == CLASSES
        assert len(arrays["held_out_images"]) == len(arrays["held_out_labels"])
        FakeWorker.trained += 1
        return {"weights/w": np.full(3, float(self.trained))}, {"accuracy": 0.9}


def test_the_classifier_is_trained_once_and_again_where_its_file_is_damaged(raced, tables, tmp_path):
    root, _ = raced
    course = dataclasses.replace(open_course("lens-32", tmp_path, 1, root), folder=tmp_path)
    for trainings in (1, 1):
        weights, known = course.classifier(FakeWorker())
        assert FakeWorker.trained == trainings and known["accuracy"] == 0.9 and weights["w"][0] == trainings
    assert course.classifier_record() == {}, "this set is not measured by it"
    np.savez(tmp_path / "classifier-lens-32.npz", w=np.zeros(3))
    assert course.classifier(FakeWorker())[0]["w"][0] == 2
    assert isinstance(course, Course) and course.classifier(FakeWorker())[1]["epochs"] == race_sets.EPOCHS


def test_the_environment_is_made_once_and_says_why_it_cannot_be(tmp_path, monkeypatch, this_python):
    (tmp_path / "envs").mkdir()
    for name in race_environment.REQUIREMENTS:
        (tmp_path / "envs" / name).write_text("")
    python = tmp_path / ".venvs" / "race" / "bin" / "python"
    calls, failing = [], ["pip"]

    def fake(command, **options):
        calls.append(command)
        if "venv" in command:
            python.parent.mkdir(parents=True)
            python.touch()
            (python.parents[1] / "pyvenv.cfg").touch()
        failed = any(word in command for word in failing)
        error = "WARNING: Retrying\nERROR: No matching distribution found for diffusers==0.42.1\n"
        return subprocess.CompletedProcess(command, int(failed), json.dumps([str(tmp_path)]), error * failed)

    monkeypatch.setattr(race_environment.subprocess, "run", fake)
    with pytest.raises(
        RunError, match=r"installing the peers \(this needs a network once\) failed: ERROR: No matching"
    ):
        peers_python(tmp_path)
    failing.clear()
    assert peers_python(tmp_path) == [str(python)]
    assert (tmp_path / "diptych-pytorch.pth").read_text() == f"{tmp_path}\n"
    done = len(calls)
    assert peers_python(tmp_path) == [str(python)] and len(calls) == done
    (tmp_path / "envs" / "race.txt").write_text("einops==1")
    assert peers_python(tmp_path) and len(calls) == done + 5


def test_the_verb_refuses_unknown_names(capsys):
    for words in (["--set", "lens-33"], ["--contestant", "nobody"], ["--minutes", "three"], ["--seed", "-1"]):
        assert main(["race", *words]) == 2
        assert words[0] in capsys.readouterr().err
