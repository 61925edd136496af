"""The verb `compare`: files in, JSON, a page and a table out; what is wrong is one line and an exit code."""

import json

import numpy as np
import pytest

from eval.__main__ import main
from tests.eval.html import read_page
from tests.eval.rings import rings


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "real.npy", rings(60, 0))
    np.save(tmp_path / "train.npy", rings(30, 9))
    np.savez(tmp_path / "b.npz", images=rings(30, 2))
    folder = tmp_path / "torch <run>"
    folder.mkdir()
    np.save(folder / "samples.npy", rings(30, 1))
    manifest = {"framework": "pytorch", "sampler": "ddim", "steps": 50, "weights": "<EMA>", "nested": {"a": 1}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture
def arguments(files):
    words = ["--real", f"{files}/real.npy", "--generated", f"{files}/torch <run>", f"tf={files}/b.npz"]
    return ["compare", *words, "--train", f"{files}/train.npy", "--out", f"{files}/out/deep", "--pixel-scale", "0.05"]


def test_the_json_beside_the_page_has_every_set_and_its_manifest(files, arguments, capsys):
    assert main(arguments) == 0
    capsys.readouterr()
    stored = json.loads((files / "out/deep/compare.json").read_text())
    assert list(stored["counts"]) == ["real", "torch <run>", "tf"] and stored["protocol"]["n"] == 30
    assert stored["manifests"]["torch <run>"]["nested"] == {"a": 1}
    assert sorted(p.name for p in (files / "out/deep").iterdir()) == ["compare.json", "report.html"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == stored


def test_the_table_on_stdout_has_a_line_a_metric_and_a_line_a_warning(files, arguments, capsys):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    stored = json.loads((files / "out/deep/compare.json").read_text())
    for metric in stored["metrics"]:
        (line,) = (line for line in lines if line.startswith(metric["label"]))
        cells = line.removeprefix(metric["label"]).split()
        values = [f"{metric['sets'][name]['mean']:.3g}" for name in ("torch <run>", "tf")]
        assert f"{metric['floor']['mean']:.3g}" in cells and cells[-4] == values[0] and cells[-2] == values[1]
    assert [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")] == stored["warnings"]


def test_the_page_stands_alone_and_shows_the_numbers_of_the_json(files, arguments):
    assert main(arguments) == 0
    page = read_page(files / "out/deep/report.html")
    stored = json.loads((files / "out/deep/compare.json").read_text())
    assert page.stands_alone() and str(files) not in page.html
    assert all(text in page.text for text in stored["warnings"]) and page.warnings == len(stored["warnings"])
    rows = next(table for table in page.tables if len(table) == 1 + len(stored["metrics"]))[1:]
    for metric, (label, floor, *cells) in zip(stored["metrics"], rows, strict=True):
        assert label.startswith(metric["label"]) and metric["meaning"] in label
        assert floor.split()[0] == f"{metric['floor']['mean']:.3g}"
        assert [c.split()[0] for c in cells] == [f"{s['mean']:.3g}" for s in metric["sets"].values()]
    assert page.pictures() == 3 + 3  # the first images of each set, and those nearest to training images
    assert page.plots() == 2 + 5 + 1


def test_names_and_manifests_are_escaped_and_only_plain_values_shown(files, arguments):
    assert main(arguments) == 0
    page = read_page(files / "out/deep/report.html")
    assert "torch &lt;run&gt;" in page.html and "<run>" not in page.html and "<EMA>" not in page.html
    assert "<EMA>" in page.text and "nested" not in page.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--real": "absent.npy"}, "absent.npy: no such file"),
        ({"--real": "pickled.npy"}, "pickled objects, which could run code"),
        ({"--real": "broken.npz"}, "broken.npz: not a whole .npz file"),
        ({"--real": "nokey.npz"}, "nokey.npz: holds x; must hold an array named images"),
        ({"--real": "empty"}, "empty: no images"),
        ({"--real": "statistics.npz"}, "statistics.npz: holds saved statistics: must be images"),
        ({"--real": "text.txt"}, "text.txt: unknown kind of file"),
        ({"--generated": "nan.npy"}, "nan.npy[2]: 1 of 672 values are not finite"),
        ({"--generated": "range.npy"}, "range.npy[0]: values from"),
        ({"--generated": "size.npy"}, "images of (20, 28, 1)"),
        ({"--generated": "badmanifest"}, "badmanifest/manifest.json: not valid JSON"),
        ({"--generated": "listmanifest"}, "listmanifest/manifest.json: holds no JSON object"),
        ({"--generated": "real.npy"}, "the name 'real' is taken"),
        ({"--out": "text.txt"}, "is a file: must be a folder"),
        ({"--pixel-scale": "0"}, "pixel_scale = 0.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(files, capsys, monkeypatch, change, words):
    monkeypatch.chdir(files)
    bad = rings(30, 3)
    np.save("range.npy", bad * 3)
    np.save("size.npy", bad[:, :20])
    bad[2, 0, 0, 0] = np.nan
    np.save("nan.npy", bad)
    np.save("pickled.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez("nokey.npz", x=bad)
    np.savez("statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    (files / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    (files / "text.txt").write_text("x")
    (files / "empty").mkdir()
    for name, text in (("badmanifest", "{"), ("listmanifest", "[]")):
        (files / name).mkdir()
        np.save(files / name / "samples.npy", rings(30, 1))
        (files / name / "manifest.json").write_text(text)
    options = {"--real": "real.npy", "--generated": "b.npz", "--out": "out", **change}
    assert main(["compare", *(word for pair in options.items() for word in pair)]) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]
    assert captured.out == "" and error.startswith("error: ") and words in error
    assert not (files / "out").exists()


def test_two_sets_of_one_name_are_refused(files, capsys):
    arguments = ["compare", "--real", f"{files}/real.npy", "--generated", f"{files}/b.npz", f"{files}/b.npz"]
    assert main([*arguments, "--out", f"{files}/out"]) == 2
    assert "the name 'b' is taken; give it one with NAME=" in capsys.readouterr().err


def test_interrupt_and_a_disk_that_fails(files, capsys, monkeypatch):
    arguments = ["compare", "--real", f"{files}/real.npy", "--generated", f"{files}/b.npz", "--out", f"{files}/out"]
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)):

        def fail(*_args, error=error, **_options):
            raise error

        monkeypatch.setattr("eval.pages.compare_page.render", fail)
        assert main(arguments) == code
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err
