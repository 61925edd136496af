"""The study of results with pretended twins: its page and files, a study that was cut off, and what is refused."""

import dataclasses
import json
import re
import struct

import numpy as np
import pytest

from core.data.dataset import Dataset
from eval.studies import results
from eval.studies.results import ResultsStudy, make_study
from eval.studies.results_picture import shown
from eval.twins import features as fid_features
from eval.verbs import main
from tests.eval.test_fid import PixelWorker
from tests.fake_twins import TINY, make_checkout

N, CLASSES = 24, 3
SETS = "results/fashion-mnist"


def make_sets(root):
    """A checkout with both recipes, tiny, a tiny IDX set, and twins that are pretenders."""
    make_checkout(root)
    lenses = TINY.replace("simulate_count = 40", "simulate_count = 130")
    clothes = TINY.replace("simulate_count = 40", 'source = "data/clothes-images-idx3-ubyte"\n    fit = "pad"')
    clothes = clothes.replace("sample_size = 8", f"sample_size = 8\n    num_class_embeds = {CLASSES}")
    for name, text in (("lens-64-fast", lenses), ("results-fashion-mnist", clothes)):
        path = root / "configs" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line.strip() for line in text.splitlines()))
    rng, n = np.random.default_rng(0), 130
    (root / "data").mkdir()
    pixels, labels = rng.integers(0, 256, (n, 6, 6), dtype=np.uint8), np.arange(n, dtype=np.uint8) % CLASSES
    head = struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape)
    (root / "data" / "clothes-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    (root / "data" / "clothes-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, n) + labels.tobytes())
    return root


@pytest.fixture
def checkout(tmp_path, monkeypatch, this_python):
    root = make_sets(tmp_path / "checkout")
    monkeypatch.chdir(root)
    monkeypatch.setattr(fid_features, "Worker", PixelWorker)
    monkeypatch.setattr(results, "images_per_second", lambda: 260.0)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory, this_python):
    """The study of both sets, from nothing: its checkout and the page's text."""
    with pytest.MonkeyPatch.context() as patch:
        root = make_sets(tmp_path_factory.mktemp("results") / "checkout")
        patch.chdir(root)
        patch.setattr(fid_features, "Worker", PixelWorker)
        patch.setattr(results, "images_per_second", lambda: 260.0)
        page = make_study(study(root), root)
        assert page == root / "results" / "results.md"
        yield root, page.read_text()


def study(root, sets=("lens-64-5", "fashion-mnist"), **options):
    return ResultsStudy(out=root / "results", n=N, sets=sets, **options)


def calls(root):
    return (root / "calls.log").read_text().split()


def rows_of(text, name):
    """The cells of a set's tables, by their first."""
    section = next(part for part in text.split("\n## ") if f"results-{name}.png" in part)
    found = re.findall(r"^\| ([^|]*?) \| (.*) \|$", section, re.MULTILINE)
    return {label: [cell.strip() for cell in cells.split("|")] for label, cells in found}


def test_the_page_has_the_commands_as_a_reader_types_them(made):
    root, text = made
    train = "python -m torch_impl train --config configs/lens-64-fast.toml --run results/lens-64-5/torch"
    sample = f"python -m tf_impl sample {SETS}/tensorflow --n {N} --seed 0 --out {SETS}/tensorflow/samples-fid"
    fid = "python -m eval fid results/lens-64-5/torch results/lens-64-5/torch/samples-fid --extractor lens"
    fid += f" --n {N} --framework torch --out results/lens-64-5/fid-torch.json"
    assert all(line in text.splitlines() for line in (train, sample, fid))
    assert str(root) not in text, "no path of this machine"


@pytest.mark.parametrize("name", ["lens-64-5", "fashion-mnist"])
def test_the_numbers_of_the_page_are_those_of_the_files(made, name):
    root, text = made
    rows, result = rows_of(text, name), json.loads((root / "results" / name / "fid-tensorflow.json").read_text())
    value = next(cells for label, cells in rows.items() if label.startswith("Fréchet"))
    assert value[1].startswith(f"**{result['frechet']['value']:.3g}**")
    assert result["n"] == {"real": N, "generated": N}
    assert value[2].startswith(f"{result['floor']['mean']:.3g} ±")
    assert rows["Coverage"][1] == f"{result['coverage']:.3f}" and all(text_ in text for text_ in result["warnings"])
    latest = next((root / "results" / name / "torch" / "checkpoints").glob("step-*6"))
    seconds = json.loads((latest / "training_state.json").read_text())["seconds"]
    assert rows["Training, s"][0] == f"{seconds:,.0f}"
    if name == "lens-64-5":  # the machine is twice as fast as the reference
        assert rows["Training, reference minutes"][0] == f"{seconds / 30:.1f}"
        assert rows["Reference speed before and after"][0] == "260 260"
    assert ("Training, reference minutes" in rows) == (name == "lens-64-5")


def test_each_set_has_its_extractor_and_its_picture(made):
    for name, extractor in (("lens-64-5", "lens"), ("fashion-mnist", "pixels")):
        result = json.loads((made[0] / "results" / name / "fid-torch.json").read_text())
        assert result["extractor"]["name"] == extractor and result["eight_bit"] is (extractor == "pixels")
        assert (made[0] / "results" / f"results-{name}.png").stat().st_size > 1000
        assert f"(results-{name}.png)" in made[1]


def test_a_finished_study_only_writes_its_page_again(made):
    root, text = made
    before, elsewhere = calls(root), root / "docs" / "results.md"
    assert make_study(study(root, page=elsewhere), root) == elsewhere
    assert elsewhere.read_text() == text and calls(root) == before, "nothing was trained or drawn twice"
    assert (elsewhere.parent / "results-lens-64-5.png").is_file()


def test_what_was_cut_off_goes_on(checkout, monkeypatch):
    settings = study(checkout, sets=("lens-64-5",))
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
    (checkout / "results" / "lens-64-5" / "fid-torch.json").unlink()
    assert make_study(settings, checkout).read_text() == text, "measured again from the same images"
    manifest = checkout / "results" / "lens-64-5" / "torch" / "samples-fid" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    make_study(settings, checkout)
    assert (checkout / "calls.log").read_text().count("sample torch") == 2 * drawn
    make_study(dataclasses.replace(settings, n=N - 1), checkout)
    assert json.loads((checkout / "results" / "lens-64-5" / "fid-torch.json").read_text())["n"]["real"] == N - 1


def test_another_recipe_or_folder_or_too_many_images_are_refused(made, tmp_path):
    root, _ = made
    settings = study(root, sets=("lens-64-5",))
    with pytest.raises(
        ValueError, match=r"--n 60: must be at most \d\d, the images on either side of .*lens-64-fast.toml"
    ):
        make_study(dataclasses.replace(settings, n=60, out=root / "more"), root)
    assert not (root / "more" / "lens-64-5").exists()
    recipe = root / "configs" / "lens-64-fast.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("warmup_steps = 2", "warmup_steps = 1"))
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        make_study(settings, root)
    recipe.write_text(text)  # the other tests' study is of this one
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no study's folder and not empty"):
        make_study(ResultsStudy(out=tmp_path), root)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", "5"], "--n 5: must be at least 20"),
        (["--torch-python", "/no/such"], "no such program"),
        (["--sets", "mnist"], "mnist"),
    ],
)
def test_a_wrong_option_exits_2(capsys, monkeypatch, words, message):
    monkeypatch.setenv("DIPTYCH_TORCH_PYTHON", "replaced by the flag, and put back after the test")
    assert main(ResultsStudy, "results", words) == 2
    assert message in capsys.readouterr().err


def test_real_images_stand_in_columns_of_their_class():
    images = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1) / 12
    labels = np.array([2, 0, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1])
    dataset = Dataset(images, labels, ("a", "b", "c"), {}, np.array([0, 3]), np.array([1, 2, 4, 5, 6, 8, 9]), {})
    found = np.rint(12 * shown(dataset, 3, True).ravel()).astype(int)
    assert found.tolist() == [1, 4, 5, 2, 8, 9]
    assert np.rint(12 * shown(dataset, 2, False).ravel()).astype(int).tolist() == [1, 2, 4, 5]
