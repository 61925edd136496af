"""`eval sweep` over a pretended twin: each point is drawn once, at its budget, and measured on its own images."""

import json

import numpy as np
import pytest

from core.metrics.frechet import frechet_distance_from_features
from eval.__main__ import main
from eval.measure import sweep as sweep_module
from eval.measure.image_sets import ImageSet
from eval.measure.sweep import spent
from eval.twins import features as fid_features
from tests.eval.html import read_page
from tests.eval.test_fid import PixelWorker, images


@pytest.mark.parametrize(("sampler", "budget", "expected"), [("ddim", 10, 10), ("heun", 10, 9), ("heun", 9, 9)])
def test_a_budget_is_spent_as_far_as_the_steps_allow(sampler, budget, expected):
    assert spent(sampler, budget) == expected


def test_a_sweep_of_nothing_is_refused_in_a_line(capsys):
    assert main(["sweep", "runs/any", "--nfe"]) == 2
    assert capsys.readouterr().err == "error: sweep: give at least one of --samplers and one of --nfe\n"


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["sweep", str(tmp_path), "--framework", "torch"]) == 2
    assert "must be a run" in capsys.readouterr().err


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """sweep.json's folder, and which options each drawing had."""
    drawn = []

    def draw(run, n, framework, name, **sampling):
        drawn.append(sampling)
        folder = run / name
        folder.mkdir(parents=True)
        np.save(folder / "samples.npy", images(n, 2, shift=0.2 / sampling["nfe"]))
        manifest = {"nfe": sampling["nfe"], "seconds": 3.0, "spacing": "trailing"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    held_out = ImageSet("run", images(40, 1), others=images(90, 5), about={"split": "held out"})
    monkeypatch.setattr(fid_features, "Worker", PixelWorker)
    monkeypatch.setattr(sweep_module, "draw_from", draw)
    monkeypatch.setattr(sweep_module, "is_run", lambda path: True)
    monkeypatch.setattr(sweep_module, "read_image_set", lambda *_: held_out)
    words = ["--samplers", "ddim", "heun", "--nfe", "4", "2", "3", "--framework", "torch"]
    assert main(["sweep", str(tmp_path), *words]) == 0
    return tmp_path / "sweep", drawn


def test_every_sampler_is_drawn_at_the_budgets_that_it_can_spend(swept):
    folder, drawn = swept
    points = [("ddim", 2), ("ddim", 3), ("ddim", 4), ("heun", 1), ("heun", 3)]
    assert [(options["sampler"], options["nfe"]) for options in drawn] == points
    assert [(row["sampler"], row["nfe"]) for row in json.loads((folder / "sweep.json").read_text())["rows"]] == points


def test_distances_are_of_the_drawn_images_at_the_same_n_as_the_floor(swept):
    result = json.loads((swept[0] / "sweep.json").read_text())
    assert result["n"] == 40 and result["floor"] > 0
    worker = PixelWorker("torch")

    def features(x):
        return worker.call("features", {"images": x}, taps=["features"])[0]["features"].astype(np.float64)

    for row in result["rows"]:  # the order of the real images does not matter
        expected = frechet_distance_from_features(features(images(40, 2, 0.2 / row["nfe"])), features(images(40, 1)))
        assert row["distance"] == pytest.approx(expected, rel=1e-6)


def test_the_page_has_a_row_a_point_and_both_curves(swept, capsys):
    folder, _ = swept
    result, page = json.loads((folder / "sweep.json").read_text()), read_page(folder / "report.html")
    assert page.stands_alone() and page.plots() == 2 and page.warnings == 1
    (table,) = page.tables
    assert [(row[0], row[1]) for row in table[1:]] == [(row["sampler"], str(row["nfe"])) for row in result["rows"]]
    assert [row[2].split()[0] for row in table[1:]] == [f"{row['distance']:.4g}" for row in result["rows"]]
    assert "currentColor" not in (folder / "curves.svg").read_text()
