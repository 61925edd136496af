"""Images of seven channels open in every verb; the pages and pictures show all of their channels and say so."""

import json

import numpy as np
import pytest

from core.data.__main__ import main as data_main
from core.images import note_of_strips
from eval.__main__ import main
from eval.pages.demo_picture import sheet
from tests.eval.html import read_page
from tests.eval.rings import rings

NOTE = "Each image is shown as its 7 channels, from left to right."


@pytest.fixture
def folders(tmp_path):
    """120 real and 60 generated images (24, 24, 7), a file each; the generated ones with their channels first."""
    for name, count, seed in (("real", 120, 0), ("made", 60, 1)):
        (tmp_path / name).mkdir()
        for index, image in enumerate(rings(count, seed, size=(24, 24), channels=7)):
            np.save(tmp_path / name / f"{index}.npy", image if name == "real" else np.moveaxis(image, -1, 0))
    return tmp_path


def test_info_describes_and_draws_them(folders, capsys):
    assert data_main(["info", str(folders / "made"), "--json", "--out", str(folders / "made.png")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["count"] == 60 and facts["shape"] == [24, 24, 7] and (folders / "made.png").stat().st_size > 1000


def test_thumbnails_measure_them_and_the_networks_refuse_them_in_a_line(folders, capsys):
    words = ["fid", str(folders / "real"), str(folders / "made"), "--framework", "torch"]
    assert main([*words, "--extractor", "pixels", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["extractor"]["features"] == 16 * 16 * 7 and result["n"] == {"real": 120, "generated": 60}
    assert main(words) == 2
    assert "7 channels: the lens extractor takes 1" in capsys.readouterr().err


def test_the_comparison_shows_every_channel(folders):
    words = ["--real", str(folders / "real"), "--generated", str(folders / "made"), "--train", str(folders / "real")]
    assert main(["compare", *words, "--out", str(folders / "out")]) == 0
    page = read_page(folders / "out" / "report.html")
    assert NOTE in page.text and page.pictures() == 2 + 2


def test_a_picture_of_the_demo_has_every_channel():
    images = rings(8, 0, size=(8, 8), channels=7)
    found = sheet(images, 8)
    assert found.shape == (3 * 10, 3 * (7 * 8 + 2), 1)  # three columns of strips
    np.testing.assert_array_equal(found[1:9, 1:9, 0], images[0, :, :, 0])
    np.testing.assert_array_equal(found[1:9, 49:57, 0], images[0, :, :, 6])
    assert note_of_strips(7) == NOTE and note_of_strips(1) == note_of_strips(3) == ""
