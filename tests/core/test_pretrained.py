"""Networks that come with the software: opening them by name, what is refused, and the folders that are there."""

import logging
import re

import numpy as np
import pytest

from core.checkpoints import pretrained
from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint, save_pretrained
from core.checkpoints.importing import read_unet
from core.checkpoints.pretrained import MOST_BYTES, pretrained_names
from core.checkpoints.sums import check_sums
from core.checkpoints.trained import open_trained
from core.files import write_tensors
from core.reading import read_json, read_tensors
from tests.command_line import RECIPE, refused, run

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the NumPy twin."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(RECIPE.replace("CACHE", str(folder / "cache")))
    assert run("train", "--config", folder / "tiny.toml", "--run", folder / "run")[0] == 0
    return folder / "run"


@pytest.fixture
def box(trained, tmp_path, monkeypatch):
    """A box with one network, `tiny`, and an empty working folder."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "box")
    save_pretrained(tmp_path / "box" / "tiny", load_checkpoint(resolve_checkpoint(trained)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "box"


def test_the_weights_are_the_average_in_float16_and_open_as_float32(trained, box, caplog):
    exact = load_checkpoint(resolve_checkpoint(trained))
    with caplog.at_level(logging.INFO):
        found = open_trained(resolve_checkpoint("pretrained:tiny"))
    assert not caplog.records and found.sampling == exact.recipe.sampling and found.data == exact.data
    assert {value.dtype.name for value in read_tensors(box / "tiny" / WEIGHTS).values()} == {"float16"}
    for name, value in exact.ema.items():
        assert found.weights[name].dtype == np.float32
        assert np.array_equal(found.weights[name], value.astype(np.float16).astype(np.float32))
    assert not (box / "tiny" / "training_state.safetensors").exists()
    assert read_unet("pretrained:tiny")[0] == exact.recipe.model


def test_sample_draws_from_it_into_a_folder_of_runs(box, tmp_path):
    code, out, err = run("sample", "pretrained:tiny", "--n", "3", "--seed", "2")
    assert code == 0, err
    here = tmp_path / "here"
    (made,) = (here / "runs" / "pretrained-tiny").iterdir()
    assert f"runs/pretrained-tiny/{made.name}/samples.npy" in out and [*here.iterdir()] == [here / "runs"]
    assert run("sample", box / "tiny", "--n", "3", "--seed", "2", "--out", "plain")[0] == 0
    assert np.array_equal(np.load(made / "samples.npy"), np.load("plain/samples.npy"))
    assert (
        read_json(made / "manifest.json")["weights_sha256"] == read_json(here / "plain/manifest.json")["weights_sha256"]
    )


def test_changed_weights_are_refused(box):
    tensors = read_tensors(box / "tiny" / WEIGHTS)
    write_tensors(box / "tiny" / WEIGHTS, {name: value + np.float16(1) for name, value in tensors.items()})
    assert WEIGHTS in refused(2, "sample", "pretrained:tiny", "--out", "new")
    assert run("sample", "pretrained:tiny", "--n", "2", "--out", "new", "--changed-weights")[0] == 0


def test_an_unknown_name_lists_those_there_are(box):
    for name in ("nothing", "", "../tiny", "tiny/unet"):
        for verb, words in (("sample", []), ("likelihood", []), ("import", ["--out", "new"])):
            line = refused(2, verb, f"pretrained:{name}", *words)
            assert f"pretrained:{name}: no network of this name" in line and line.endswith("one of: pretrained:tiny")
    assert "pretrained:x: no network" in refused(2, "edit", "reconstruct", "pretrained:x", "held-out")
    (box / "tiny" / "training_state.json").unlink()
    assert refused(2, "sample", "pretrained:tiny").endswith("must be one of: none so far")


def test_raw_weights_are_refused(box):
    assert "only one set of weights" in refused(2, "sample", "pretrained:tiny", "--weights", "raw", "--out", "new")


@pytest.mark.parametrize(
    "words",
    [
        "train --config tiny.toml --run pretrained:tiny",
        "train --resume pretrained:tiny",
        "sample pretrained:tiny --out pretrained:new",
        "edit reconstruct pretrained:tiny held-out --out pretrained:new",
        "import pretrained:tiny --out pretrained:new",
        "synthesise-ema pretrained:tiny --out pretrained:new",
    ],
)
def test_it_is_never_written_to(box, trained, tmp_path, words):
    (tmp_path / "here" / "tiny.toml").write_text((trained.parent / "tiny.toml").read_text())
    before = sorted(tmp_path.rglob("*"))
    line = refused(2, *words.split())
    assert re.search(r"--(run|resume|out) pretrained:(tiny|new): is a network that comes with the software", line)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_too_large_for_float16_or_for_the_box_leaves_the_box_as_it_was(trained, box, monkeypatch):
    checkpoint = load_checkpoint(resolve_checkpoint(trained))
    before = {path: path.read_bytes() for path in box.rglob("*") if path.is_file()}
    monkeypatch.setattr("core.checkpoints.checkpoint.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"tiny: [\d,]+ bytes: must be at most 1,000"):
        save_pretrained(box / "tiny", checkpoint)
    name = next(iter(checkpoint.ema))
    checkpoint.ema[name] = checkpoint.ema[name] + np.float32(1e6)
    with pytest.raises(ValueError, match=f"weights in float16.*{name}"):
        save_pretrained(box / "tiny", checkpoint)
    assert {path: path.read_bytes() for path in box.rglob("*") if path.is_file()} == before


def test_every_network_that_is_there_is_small_and_whole_and_has_its_card():
    for folder in (path for path in pretrained.FOLDER.glob("*") if path.is_dir()):
        assert folder.name in pretrained_names(), folder
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MOST_BYTES
        check_sums(folder, (WEIGHTS, "recipe.json", "data.json"))
        open_trained(folder)
        card, figures = (folder / "card.md").read_text(encoding="utf-8"), read_json(folder / "card.json")
        assert f"pretrained:{folder.name}" in card and "MIT" in card
        assert {distance["n"] for distance in figures["distances"]} >= {500, 2000}
