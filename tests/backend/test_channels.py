"""Images of seven channels through the twin's verbs: they train, are drawn and edited, and a feature network that does
not take them says so in one line."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests import command_line
from tests.backend.test_cli import SMALLEST

CHANNELS = 7


@pytest.fixture(scope="module")
def call(backend):
    """The twin's command line: exit code, stdout, stderr."""
    return partial(command_line.call, repr(backend))


@pytest.fixture(scope="module")
def run(call, tmp_path_factory):
    """A run of two steps on a folder of images (8, 8, 7)."""
    folder = tmp_path_factory.mktemp("channels")
    (folder / "images").mkdir()
    for index, image in enumerate(np.random.default_rng(0).random((24, 8, 8, CHANNELS), np.float32)):
        np.save(folder / "images" / f"{index}.npy", image)
    values = {
        "CACHE": str(folder / "cache"),
        "steps = 30": "steps = 2",
        "sample_count = 0": "sample_count = 2\n[sampling]\nsteps = 2",
        "[model]": f"[model]\nin_channels = {CHANNELS}\nout_channels = {CHANNELS}",
        "simulate_count = 24": f"source = '{folder / 'images'}'\nheld_out = 0.4",
    }
    recipe = SMALLEST
    for old, new in values.items():
        recipe = recipe.replace(old, new)
    (folder / "seven.toml").write_text(recipe)
    code, _, err = call("train", "--config", folder / "seven.toml", "--run", folder / "run")
    assert code == 0, err
    return folder / "run"


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_they_are_drawn_and_shown_as_their_channels(call, run):
    assert call("sample", run, "--n", 4, "--out", run / "drawn")[0] == 0
    assert np.load(run / "drawn" / "samples.npy").shape == (4, 8, 8, CHANNELS)
    strip = CHANNELS * 8 + 2
    assert size_of(run / "drawn" / "grid.png") == (strip + 2, 4 * 10 + 2)
    assert size_of(run / "samples" / "step-00000002.png") == (strip + 2, 2 * 10 + 2)


@pytest.mark.parametrize("kind", ["reconstruct", "inpaint"])
def test_they_are_edited(call, run, kind):
    words = ["--box", "0,0,4,8"] if kind == "inpaint" else []
    code, _, err = call("edit", kind, run, run.parent / "images", "--n", 2, "--out", run / kind, *words)
    assert code == 0, err
    assert size_of(run / kind / "grid.png") == (3 * (CHANNELS * 8 + 2) + 2, 2 * 10 + 2)  # a column a set


def test_the_lens_extractor_refuses_them_in_a_line(call, run):
    code, _, err = call("features", run.parent / "images", "--out", run / "features.npz")
    assert code == 2
    expected = "7 channels: the lens extractor takes 1; choose one channel, or measure them with `python -m eval fid"
    assert expected in err.splitlines()[-1]
    words = ("--run", run.parent / "watched", "--evaluation.every", 1, "--evaluation.n", 4)
    code, _, err = call("train", "--config", run.parent / "seven.toml", *words)
    assert code == 2 and "7 channels: the lens extractor takes 1" in err.splitlines()[-1]
