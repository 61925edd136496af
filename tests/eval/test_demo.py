"""The demo, with pretended twins under the real command line; once, slowly, with the real ones."""

import json
import logging
import os
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

from core.config import Recipe
from core.exits import RunError
from core.images import to_unit
from eval.__main__ import main
from eval.pages.demo_page import amplification, distance_figures
from eval.twins.interpreters import FLAGS, FRAMEWORKS, VARIABLES
from eval.verbs.demo_folder import DemoFolder, first_step_seconds, open_demo, read_metrics
from eval.verbs.demo_steps import make_demo, prepare, sample, train
from tests.eval.html import read_page
from tests.fake_twins import SHIFT, make_checkout


@pytest.fixture
def checkout(tmp_path, this_python):
    return make_checkout(tmp_path / "checkout")


def demo(checkout, out="demo", **options):
    root, recipe = checkout
    return make_demo(str(recipe), str(root / out), root=root, **{"n": 5, **options})


def reopened(checkout) -> DemoFolder:
    root, recipe = checkout
    return open_demo(root / "demo", recipe, 5, False, root)


def calls(checkout):
    return (checkout[0] / "calls.log").read_text().split("\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory, this_python):
    """A demo from nothing: its checkout, its folder, and what was logged."""
    made_in = make_checkout(tmp_path_factory.mktemp("demo") / "checkout")
    logger, handler, lines = logging.getLogger("eval"), logging.Handler(), []
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("INFO")
    page = demo(made_in)
    logger.removeHandler(handler)
    logger.setLevel(level)
    return made_in, page.parent, lines


def drawn(folder, name):
    return np.load(folder / "samples" / name / "samples.npy")


def test_each_phase_is_announced(made):
    assert [line[:3] for line in made[2]] == [f"{i}/6" for i in range(1, 7)]


def test_every_command_of_the_twins_is_in_the_record(made):
    commands = json.loads((made[1] / "demo.json").read_text())["commands"]
    assert commands[0] == "python -m torch_impl train --config tiny.toml --run demo/torch" and len(commands) == 5
    assert json.loads((made[1] / "compare.json").read_text())["counts"]["PyTorch"] == 5


def test_images_of_one_seed_differ_by_the_frameworks_alone(made):
    first, second = drawn(made[1], "torch"), drawn(made[1], "tensorflow")
    np.testing.assert_allclose(second - first, SHIFT, atol=1e-6)
    np.testing.assert_array_equal(second, drawn(made[1], "tensorflow-with-torch-weights"))  # the seed alone decides
    assert first.shape == (5, 8, 8, 1) and abs(first.mean() - to_unit(np.zeros(1))[0]) < 0.1


def test_the_page_stands_alone_and_says_how_far_the_frameworks_are_apart(made):
    page = read_page(made[1] / "report.html")
    result = json.loads((made[1] / "compare.json").read_text())
    assert page.stands_alone() and page.warnings == len(result["warnings"])
    assert page.text.count(f"{255 * SHIFT:.3g} grey levels of 255") == 2  # by construction, in both comparisons
    assert re.search(r"Difference × 100?\b", page.text)  # 0.01, or a rounding more
    assert page.pictures() == 3 + 3 + 3 + 3  # two trios, the comparison's sets, and their nearest training images
    assert all(command in page.text for command in json.loads((made[1] / "demo.json").read_text())["commands"])
    assert "FID" not in page.text.replace("this is not FID", "")


def test_the_picture_is_large_enough_for_a_page(made):
    from PIL import Image

    with Image.open(made[1] / "picture.png") as picture:
        assert picture.width > 1500


def test_a_finished_demo_is_not_made_again_but_for_its_page(made, caplog):
    made_in, folder, _ = made
    before, page = calls(made_in), folder / "report.html"
    page.unlink()
    caplog.set_level("INFO", logger="eval")
    assert demo(made_in) == page and page.exists()
    assert calls(made_in) == before, "nothing was trained or drawn twice"
    assert "done before, 6 steps" in caplog.text


@pytest.mark.parametrize(
    ("failure", "steps_again", "command"), [(4, 3, "--resume demo/torch"), (1, 6, "--run demo/torch")]
)
def test_a_training_that_was_cut_off_goes_on(checkout, monkeypatch, failure, steps_again, command):
    monkeypatch.setenv("FAKE_FAILURE", f"torch {failure}")
    started = reopened(checkout)
    prepare(started)
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        train(started, "torch", 2)
    monkeypatch.delenv("FAKE_FAILURE")
    before, again, resumed = calls(checkout), reopened(checkout), time.monotonic()
    train(again, "torch", 2)
    spent = time.monotonic() - resumed
    assert calls(checkout)[len(before) - 1 :] == ["step torch"] * steps_again + [""]
    assert again.record["commands"][-1].endswith(command)
    assert read_metrics(again.out / "torch")[-1]["step"] == 6
    assert ("torch" in again.record["first_step_seconds"]) is (steps_again == 6)
    earlier = started.record["seconds"]["train torch"] if steps_again < 6 else 0.0
    assert again.record["seconds"]["train torch"] == pytest.approx(earlier + spent, abs=0.15), "resumed runs add up"


def test_samples_of_other_weights_or_another_number_are_not_reused(checkout):
    opened = reopened(checkout)
    prepare(opened)
    train(opened, "torch", 2)
    folder = sample(opened, "torch", "torch", 3)
    before = calls(checkout)
    assert sample(opened, "torch", "torch", 3) == folder and calls(checkout) == before
    assert len(np.load(sample(opened, "torch", "torch", 4) / "samples.npy")) == 4
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    sample(opened, "torch", "torch", 4)
    assert calls(checkout)[len(before) - 1 :] == ["sample torch", "sample torch", ""]


def test_a_folder_of_something_else_is_never_emptied(checkout):
    root, recipe = checkout
    foreign = root / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="is no demo's folder and not empty"):
            open_demo(foreign, recipe, 5, fresh, root)
    assert (foreign / "thesis.tex").is_file()


def test_too_few_images_are_refused(checkout):
    _, recipe = checkout
    with pytest.raises(ValueError, match="--n 1: must be at least 2"):
        demo(checkout, n=1)
    recipe.write_text(recipe.read_text().replace("held_out = 0.3", "held_out = 0.0"))
    with pytest.raises(ValueError, match=r"data.held_out = 0.0: leaves 0 images"):
        demo(checkout)


def test_fresh_replaces_a_demo_of_another_recipe_and_keeps_foreign_files(checkout):
    root, recipe = checkout
    reopened(checkout)
    recipe.write_text(recipe.read_text().replace("held_out = 0.3", "held_out = 0.4"))
    with pytest.raises(ValueError, match="holds a demo of another recipe; add --fresh"):
        demo(checkout)
    (root / "demo" / "torch").mkdir()
    (root / "demo" / "notes.txt").write_text("mine")
    assert open_demo(root / "demo", recipe, 5, True, root).record["commands"] == []
    assert sorted(path.name for path in (root / "demo").iterdir()) == ["demo.json", "notes.txt"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_interpreter_that_is_not_there_is_refused_before_anything_is_made(
    checkout, tmp_path, capsys, monkeypatch, framework
):
    monkeypatch.setenv(VARIABLES[framework], "replaced by the flag, and put back after the test")
    words = ["--config", str(checkout[1]), "--out", str(tmp_path / "d"), FLAGS[framework], "/no/such"]
    assert main(["demo", *words]) == 2
    error = capsys.readouterr().err
    assert FLAGS[framework] in error and "= /no/such: no such program" in error and not (tmp_path / "d").exists()


def test_a_recipe_that_is_not_there_is_refused(tmp_path, capsys, this_python):
    assert main(["demo", "--config", str(tmp_path / "none.toml"), "--out", str(tmp_path / "d")]) == 2
    assert "none.toml" in capsys.readouterr().err and not (tmp_path / "d").exists()


def test_a_failed_twin_ends_with_exit_code_1(monkeypatch, capsys):
    def fail(*_, **__):
        raise RunError("torch_impl train: exit code 1")

    monkeypatch.setattr("eval.verbs.demo_steps.make_demo", fail)
    assert main(["demo"]) == 1
    assert "error: torch_impl train: exit code 1" in capsys.readouterr().err


def test_seconds_to_the_first_step_from_the_log(tmp_path):
    # The loop begins 7 s after the start; 10 steps end 5 s later; later steps take 8 / 40 = 0.2 s: 7 + 5 - 9 * 0.2.
    (tmp_path / "recipe.json").write_text(json.dumps({"training": {"batch_size": 8}}))
    (tmp_path / "run.json").write_text("{}")
    os.utime(tmp_path / "run.json", (1007, 1007))
    rates = ((10, 16.0, 5.0), (20, 40.0, 7.0), (30, 39.0, 9.0), (40, 41.0, 11.0))
    lines = [{"step": s, "images_per_second": r, "seconds": t} for s, r, t in rates]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert first_step_seconds(tmp_path, started=1000.0) == pytest.approx(10.2)


@pytest.mark.parametrize(("largest", "factor"), [(0.0, 1), (1.0, 1), (0.3, 1), (0.09, 10), (2.5e-6, 100_000)])
def test_amplification_keeps_the_difference_visible_and_within_1(largest, factor):
    assert amplification(largest) == factor


@pytest.mark.cross
@pytest.mark.slow
def test_both_frameworks(tmp_path, capsys):
    _, recipe = make_checkout(tmp_path / "checkout")
    recipe.write_text(recipe.read_text().replace('"cache"', json.dumps(str(tmp_path / "cache"))))
    out = tmp_path / "demo"
    assert main(["demo", "--config", str(recipe), "--out", str(out), "--n", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out / 'report.html'}"
    samples = {
        name: np.load(out / "samples" / name / "samples.npy") for name in ("torch", "tensorflow-with-torch-weights")
    }
    first, second = samples.values()
    assert np.mean((first > 0) & (first < 1)) > 0.2, "images that are all black and white would hide a difference"
    assert 0 < np.abs(first - second).max() < 1 / 255  # two frameworks, not one asked twice
    record = json.loads((out / "demo.json").read_text())
    for name in FRAMEWORKS:
        assert 0 < record["first_step_seconds"][name] <= record["seconds"][f"train {name}"]


def test_the_distance_is_drawn_where_the_recipe_asks_for_it():
    lines = [
        {"step": 1, "seconds": 0.5},
        {"step": 2, "seconds": 1.0, "distance": 0.3},
        {"step": 4, "seconds": 2.0, "distance": 0.2},
    ]
    material = SimpleNamespace(recipe=Recipe(), metrics={"PyTorch": lines, "TensorFlow": lines})
    figures = distance_figures(material)
    assert len(figures) == 2 and len({figure.markup for figure in figures}) == 2  # by steps and by seconds
    assert all("1,000" in figure.caption and figure.markup.startswith("<svg") for figure in figures)
    assert distance_figures(SimpleNamespace(recipe=Recipe(), metrics={"PyTorch": lines[:1]})) == []
