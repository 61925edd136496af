"""The study of results: from nothing to the page with pretended twins, cut off and gone on with, and what is refused."""

import dataclasses
import json
import re
import struct

import numpy as np
import pytest

from core.data.dataset import Dataset
from eval.studies.results import ResultsStudy, make_study
from eval.studies.results_picture import shown
from eval.twins import features as fid_features
from eval.verbs import main
from tests.eval.test_fid import PixelWorker
from tests.fake_twins import TINY, make_checkout

N, CLASSES = 24, 3


@pytest.fixture
def checkout(tmp_path, monkeypatch, this_python):
    """A checkout whose twins are pretenders, with both recipes, tiny, and a tiny IDX set."""
    root, _ = make_checkout(tmp_path / "checkout")
    lenses = TINY.replace("simulate_count = 40", "simulate_count = 130")
    clothes = TINY.replace("simulate_count = 40", 'source = "data/clothes-images-idx3-ubyte"\n    fit = "pad"')
    clothes = clothes.replace("sample_size = 8", f"sample_size = 8\n    num_class_embeds = {CLASSES}")
    for name, text in (("lensing", lenses), ("fashion-mnist", clothes)):
        path = root / "configs" / f"results-{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line.strip() for line in text.splitlines()))
    rng, count = np.random.default_rng(0), 130
    (root / "data").mkdir()
    pixels = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
    (root / "data" / "clothes-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes())  # fmt: skip
    labels = np.arange(count, dtype=np.uint8) % CLASSES
    (root / "data" / "clothes-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes())
    monkeypatch.chdir(root)
    monkeypatch.setattr(fid_features, "Worker", PixelWorker)
    return root


def study(root, **options):
    return ResultsStudy(out=root / "results", n=N, **options)


def calls(root):
    return (root / "calls.log").read_text().split()


def test_from_nothing_to_the_page_and_again(checkout):
    page = make_study(study(checkout), checkout)
    text = page.read_text()
    assert page == checkout / "results" / "results.md"
    for line in (
        "python -m torch_impl train --config configs/results-lensing.toml --run results/lensing/torch",
        f"python -m tf_impl sample results/fashion-mnist/tensorflow --n {N} --seed 0 --out results/fashion-mnist/tensorflow/samples-fid",
        f"python -m eval fid results/lensing/torch results/lensing/torch/samples-fid --extractor lens --n {N} --framework torch --out results/lensing/fid-torch.json",
    ):
        assert line in text
    assert str(checkout) not in text, "no path of this machine"
    assert "(results-lensing.png)" in text and "(results-fashion-mnist.png)" in text
    assert all((page.parent / f"results-{name}.png").stat().st_size > 1000 for name in ("lensing", "fashion-mnist"))
    # The numbers are those of the files.
    for name in ("lensing", "fashion-mnist"):
        section = next(part for part in text.split("\n## ") if f"results-{name}.png" in part)
        rows = dict(re.findall(r"^\| ([^|]*?) \| (.*) \|$", section, re.MULTILINE))
        result = json.loads((checkout / "results" / name / "fid-tensorflow.json").read_text())
        value = next(cells for label, cells in rows.items() if label.startswith("Fréchet")).split(" | ")
        assert value[1].startswith(f"**{result['frechet']['value']:.3g}**") and result["n"] == N
        assert value[2].startswith(f"{result['floor']['mean']:.3g} ±")
        assert rows["Coverage"].split(" | ")[1] == f"{result['coverage']:.3f}"
        latest = next((checkout / "results" / name / "torch" / "checkpoints").glob("step-*6"))
        seconds = json.loads((latest / "training_state.json").read_text())["seconds"]
        assert rows["Training, s"].split(" | ")[0] == f"{seconds:,.0f}"
    assert json.loads((checkout / "results" / "fashion-mnist" / "fid-torch.json").read_text())["extractor"]["name"] == "pixels"  # fmt: skip
    assert "must not be quoted" in text and "below the protocol" in text
    before = calls(checkout)
    elsewhere = checkout / "docs" / "results.md"
    assert make_study(study(checkout, page=elsewhere), checkout) == elsewhere
    assert elsewhere.read_text() == text and calls(checkout) == before, "nothing was trained or drawn twice"
    assert (elsewhere.parent / "results-lensing.png").is_file()


def test_what_was_cut_off_goes_on(checkout, monkeypatch):
    settings = study(checkout, sets=("lensing",))
    monkeypatch.setenv("FAKE_FAILURE", "tensorflow 4")
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        make_study(settings, checkout)
    monkeypatch.delenv("FAKE_FAILURE")
    log = (checkout / "calls.log").read_text()
    assert log.count("step torch") == 6 and log.count("step tensorflow") == 5  # the fifth failed; the third was saved
    text = make_study(settings, checkout).read_text()
    log = (checkout / "calls.log").read_text()
    assert log.count("step torch") == 6 and log.count("step tensorflow") == 5 + 3
    assert "Fashion" not in text
    drawn = log.count("sample torch")
    (checkout / "results" / "lensing" / "fid-torch.json").unlink()
    assert make_study(settings, checkout).read_text() == text, "measured again from the same images"
    manifest = checkout / "results" / "lensing" / "torch" / "samples-fid" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    make_study(settings, checkout)
    assert (checkout / "calls.log").read_text().count("sample torch") == 2 * drawn
    make_study(dataclasses.replace(settings, n=N - 1), checkout)
    assert json.loads((checkout / "results" / "lensing" / "fid-torch.json").read_text())["n"] == N - 1


def test_what_cannot_be_is_refused(checkout, capsys, monkeypatch):
    settings = study(checkout, sets=("lensing",))
    make_study(settings, checkout)
    recipe = checkout / "configs" / "results-lensing.toml"
    recipe.write_text(recipe.read_text().replace("warmup_steps = 2", "warmup_steps = 1"))
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        make_study(settings, checkout)
    (checkout / "thesis").mkdir()
    (checkout / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no study's folder and not empty"):
        make_study(ResultsStudy(out=checkout / "thesis"), checkout)
    with pytest.raises(ValueError, match=r"--n 60: must be at most \d\d, the images on either side of .*lensing.toml"):
        make_study(dataclasses.replace(settings, n=60, out=checkout / "more"), checkout)
    assert not (checkout / "more" / "lensing").exists()
    monkeypatch.setenv("DIPTYCH_TORCH_PYTHON", "replaced by the flag, and put back after the test")
    for words, says in ((("--n", "5"), "--n 5: must be at least 20"), (("--torch-python", "/no/such"), "no such program"), (("--sets", "mnist"), "mnist")):  # fmt: skip
        assert main(ResultsStudy, "results", words) == 2
        assert says in capsys.readouterr().err


def test_real_images_stand_in_columns_of_their_class():
    images = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1) / 12
    labels = np.array([2, 0, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1])
    dataset = Dataset(images, labels, ("a", "b", "c"), {}, np.array([0, 3]), np.array([1, 2, 4, 5, 6, 8, 9]), {})
    found = np.rint(12 * shown(dataset, 3, True).ravel()).astype(int)
    assert found.tolist() == [1, 4, 5, 2, 8, 9]
    assert np.rint(12 * shown(dataset, 2, False).ravel()).astype(int).tolist() == [1, 2, 4, 5]
