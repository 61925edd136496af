"""The verb `utility`: other real images are worth as much as real ones, damaged ones less; files and command line."""

import dataclasses
import json

import numpy as np
import pytest

from core.data.lenses import simulate
from eval.__main__ import main
from eval.measure.labelled import Labelled, read_labelled, read_real
from eval.measure.utility import measure_utility
from eval.studies.damages import blurred
from tests.eval.html import read_page

NAMES = ("source_x", "source_y")


@pytest.fixture(scope="module")
def lenses():
    """Training, test and generated images: 600, 300 and 600 simulated lenses of 32 pixels, three classes."""
    images, labels, parameters = simulate("model-1", 1500, (32, 32), 7)
    whole = Labelled(images, labels, {name: parameters[name] for name in NAMES})
    rows = np.arange(1500)
    return whole.rows(rows[:600]), whole.rows(rows[600:900]), whole.rows(rows[900:])


def last(result, target):
    return result["targets"][target]["rows"][-1]


def test_other_real_images_are_worth_as_much_as_real_ones(lenses):
    result = measure_utility(*lenses, sizes=(150, 300), repetitions=5)
    assert list(result["targets"]) == ["class", *NAMES] and not result["warnings"]
    for target, entry in result["targets"].items():
        assert [row["n"] for row in entry["rows"]] == [150, 300]
        row = last(result, target)
        assert row["real"]["low"] < row["generated"]["value"] < row["real"]["high"], target
        assert row["difference"]["low"] < 0 < row["difference"]["high"], target
        # clearly learned: chance is 1/3 and 0
        assert row["real"]["value"] > (0.5 if target == "class" else 0.98)
    assert result["targets"]["class"]["baseline"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("damage", ["blur", "shuffled"])
def test_damaged_images_are_worth_less(lenses, damage):
    train, test, generated = lenses
    if damage == "blur":
        generated = dataclasses.replace(generated, images=blurred(generated.images, 2.0))
    else:
        order = np.random.default_rng(0).permutation(600)
        generated = Labelled(generated.images, generated.labels[order], generated.rows(order).parameters)
    result = measure_utility(train, test, generated, sizes=(300,), repetitions=5)
    for target in result["targets"]:
        row = last(result, target)
        assert row["generated"]["value"] < row["real"]["low"], target
    assert last(result, "class")["difference"]["high"] < 0


def test_what_cannot_be_learned_is_a_warning(lenses):
    noise = [np.random.default_rng(i).random(len(one.images)) for i, one in enumerate(lenses)]
    sets = [dataclasses.replace(one, labels=None, parameters={"u": u}) for one, u in zip(lenses, noise, strict=True)]
    result = measure_utility(*sets, sizes=(100,), repetitions=3)
    assert list(result["targets"]) == ["u"] and result["warnings"][0].startswith("u: 100 real images teach nothing")


def test_the_interval_holds_the_score_of_independent_training_sets(lenses, monkeypatch):
    """Subsets of one small pool vary too little; the correction widens their interval to that of other sets."""
    from eval.measure import utility

    rng = np.random.default_rng(0)
    held, pool, n = [], 200, 100
    for _ in range(400):
        values = rng.standard_normal(pool)  # the score of a training set is the mean of its images' values
        subsets = np.array([[values[rng.permutation(pool)[:n]].mean()] * 2 for _ in range(10)])
        scores = {"real": 0.5 + subsets / 10, "generated": 0.5 + subsets / 10}
        found = utility._compare(scores, {"real": pool, "generated": pool}, n)["real"]
        held.append(found["low"] < 0.5 + rng.standard_normal(n).mean() / 10 < found["high"])
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


@pytest.fixture
def files(tmp_path):
    images, labels, parameters = simulate("model-1", 400, (16, 16), 7)
    np.savez(tmp_path / "real.npz", images=images[:300], labels=labels[:300], source_x=parameters["source_x"][:300])
    (tmp_path / "drawn").mkdir()
    np.save(tmp_path / "drawn" / "samples.npy", images[300:])
    said = {
        "n": 100,
        "labels": labels[300:].tolist(),
        "parameters": {"source_x": parameters["source_x"][300:].tolist()},
    }
    (tmp_path / "drawn" / "manifest.json").write_text(json.dumps(said))
    return tmp_path


def test_files_in_and_json_page_and_table_out(files, capsys):
    words = ["utility", f"{files}/real.npz", f"{files}/drawn", "--out", f"{files}/out", "--repetitions", "3"]
    assert main([*words, "--n", "30", "50"]) == 0
    out = capsys.readouterr().out
    stored = json.loads((files / "out" / "utility.json").read_text())
    assert list(stored["targets"]) == ["class", "source_x"]
    assert stored["counts"] == {"train": 200, "test": 100, "generated": 100}
    page = read_page(files / "out" / "report.html")
    assert page.stands_alone() and page.plots() == 2
    row = stored["targets"]["source_x"]["rows"][1]
    for key in ("real", "generated", "difference"):
        shown = f"{row[key]['value']:.3f}"
        assert shown in out and shown in page.text
    assert out.splitlines()[-1].startswith(f"wrote {files}/out/utility.json")
    assert main([*words, "--n", "30", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == stored
    assert main([*words, "--n", "50", "--json", "--learn", "source_x"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == {
        "source_x": {**stored["targets"]["source_x"], "rows": [row]}
    }


def test_train_and_test_images_are_disjoint_and_keep_their_labels(files):
    train, test = read_real(f"{files}/real.npz", 0)
    whole = np.load(files / "real.npz")
    known = {image.tobytes(): (label, x) for image, label, x in zip(*(whole[k] for k in whole), strict=True)}
    seen = set()
    for part in (train, test):
        for image, label, x in zip(part.images, part.labels, part.parameters["source_x"], strict=True):
            assert known[image.tobytes()] == (label, x)
            seen.add(image.tobytes())
    assert len(seen) == 300 == len(train.images) + len(test.images)
    assert len(read_labelled(f"{files}/drawn", lambda run: run).parameters["source_x"]) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": "bare.npy"}, "real images have none; generated images have class, source_x"),
        ({"generated": "bare.npy"}, "GENERATED: must have classes or parameters"),
        ({"generated": "small.npz"}, "GENERATED: images of (8, 16, 1)"),
        ({"real": "few.npz"}, "REAL: 20 images for the test: must be at least 50"),
        ({"generated": "few30.npz"}, "must be at least 40 each"),
        ({"--learn": "theta_e"}, "--learn theta_e: must be one of class, source_x"),
        ({"--n": "51"}, "--n 51: must be from 20 to 50"),
        ({"--n": "5"}, "--n 5: must be from 20"),
        ({"--repetitions": "1"}, "--repetitions 1: must be at least 2"),
        ({"generated": "odd"}, "manifest.json: parameters: must be lists"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(files, capsys, change, message):
    whole = dict(np.load(files / "real.npz"))
    np.save(files / "bare.npy", whole["images"])
    np.savez(files / "small.npz", images=whole["images"][:, :8], labels=whole["labels"])
    np.savez(files / "few.npz", **{name: values[:60] for name, values in whole.items()})
    np.savez(files / "few30.npz", **{name: values[:30] for name, values in whole.items()})
    (files / "odd").mkdir()
    np.save(files / "odd" / "samples.npy", whole["images"][:60])
    (files / "odd" / "manifest.json").write_text(json.dumps({"n": 60, "parameters": {"source_x": [1, 2]}}))
    options = {"real": "real.npz", "generated": "drawn", "--n": "30", "--repetitions": "2", **change}
    words = [f"{files}/{options.pop('real')}", f"{files}/{options.pop('generated')}", "--out", f"{files}/out"]
    assert main(["utility", *words, *(word for pair in options.items() for word in pair)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (files / "out").exists()
