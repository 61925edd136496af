"""Rounding, resizing, grids and files, against the written rule and pillow."""

import math

import numpy as np
import pytest
from PIL import Image

from core.images import from_unit, grid, resize, resize_matrix, save_gif, save_png, to_uint8, to_unit


def test_the_rounding_rule():
    x = np.concatenate([np.random.default_rng(2).uniform(-1.2, 1.2, 9973), (np.arange(256) - 127.5) / 127.5])
    expected = np.clip(np.round(x * 127.5 + 127.5), 0, 255)
    np.testing.assert_array_equal(to_uint8(to_unit(x)), expected)
    np.testing.assert_array_equal(to_uint8(np.arange(256) / 255), np.arange(256))
    np.testing.assert_array_equal(to_uint8(np.array([0.5 / 255, 1.5 / 255, 2.5 / 255])), [0, 2, 2])  # half to even
    assert to_uint8(np.array([2.0, -1.0])).tolist() == [255, 0]
    assert to_uint8(np.float32([0.5])).dtype == np.uint8


def test_unit_is_the_inverse_of_network_range():
    x = np.linspace(-1, 1, 11)
    np.testing.assert_allclose(from_unit(to_unit(x)), x, atol=1e-15)
    assert to_unit(np.float32([-3, 3])).tolist() == [0, 1] and to_unit(np.float32([0])).dtype == np.float32


def test_the_stretch_is_anscombes():
    """Photon counts have the variance 1 / 4 after the square root, at every mean."""
    unit = np.linspace(0, 1, 11)
    for a in (0.02, 0.5):
        y = from_unit(unit, a)
        np.testing.assert_allclose(to_unit(y, a), unit, atol=1e-15)
        np.testing.assert_allclose(y[[0, -1]], [-1, 1], atol=1e-15)
        np.testing.assert_allclose((y + 1) / 2, (np.sqrt(unit + a) - a**0.5) / ((1 + a) ** 0.5 - a**0.5), atol=1e-15)
    assert from_unit(np.float32([-0.1]), 0.02).tolist() == [-1] and from_unit(np.float32([0]), 0.02).dtype == np.float32
    assert to_unit(np.float32([-3, 3]), 0.02).tolist() == [0, 1] and to_unit(np.float32([0]), 0.02).dtype == np.float32
    full, sky = 900, 0.05  # counts of a pixel are full (x + sky)
    counts = np.random.default_rng(0).poisson(full * (np.array([0.1, 0.3, 0.6, 0.9]) + sky), (100_000, 4))
    deviation = from_unit(counts / full - sky, sky).std(axis=0)
    expected = 1 / math.sqrt(full) / (math.sqrt(1 + sky) - math.sqrt(sky))  # 2 (range) times 1 / 2
    np.testing.assert_allclose(deviation, expected, rtol=0.02)


def test_values_that_are_not_finite_are_not_drawn():
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(np.array([0.1, np.nan]))


@pytest.mark.parametrize("size_in, size_out", [((150, 150), (64, 64)), ((31, 20), (17, 45)), ((9, 9), (9, 4))])
def test_resize_is_pillows_bicubic(size_in, size_out):
    image = np.random.default_rng(0).random(size_in, dtype=np.float32)
    peer = Image.fromarray(image).resize(size_out[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(resize(image[..., None], *size_out)[..., 0], np.asarray(peer), atol=6e-5)
    np.testing.assert_allclose(resize_matrix(size_in[0], size_out[0]).sum(axis=1), 1, atol=1e-14)


def test_grid_places_images_on_white():
    images = np.linspace(0, 0.9, 5)[:, None, None, None] * np.ones((5, 3, 4, 1))
    sheet = grid(images, columns=2, pad=1)
    assert sheet.shape == (3 * 4 + 1, 2 * 5 + 1, 1)
    assert (sheet[5:8, 1:5] == images[2]).all() and (sheet[1:4, 6:10] == images[1]).all()
    assert (sheet[0] == 1).all() and (sheet[9:, 6:] == 1).all()
    assert grid(np.zeros((5, 3, 4, 1))).shape == (2 * 5 + 2, 3 * 6 + 2, 1)
    assert grid(np.zeros((1, 3, 4, 3))).shape[-1] == 3 and grid(np.zeros((1, 3, 4, 7))).shape[-1] == 1
    seven = np.arange(7.0) / 7 * np.ones((9, 3, 4, 1))
    strips = grid(seven, pad=1)
    assert strips.shape == (9 * 4 + 1, 7 * 4 + 2, 1)  # one column of strips
    assert (strips[1:4, 1:29, 0] == np.repeat(np.arange(7.0) / 7, 4)).all()
    with pytest.raises(ValueError, match="N at least 1"):
        grid(np.zeros((0, 3, 4, 1)))
    with pytest.raises(ValueError, match="columns = 0"):
        grid(images, columns=0)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (2, "L")])
def test_png_reads_back(tmp_path, channels, mode):
    image = np.random.default_rng(1).random((5, 7, channels))
    save_png(tmp_path / "new" / "a.png", image)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.mode == mode
        shown = image if channels == 3 else image[..., 0]
        np.testing.assert_array_equal(np.asarray(picture), np.rint(shown * 255))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_gif_reads_back(tmp_path):
    frames = np.stack([np.full((4, 6, 1), v) for v in (0.0, 0.4, 1.0)])
    save_gif(tmp_path / "a.gif", frames, 120)
    with Image.open(tmp_path / "a.gif") as picture:
        assert (picture.n_frames, picture.size, picture.info["duration"], picture.info["loop"]) == (3, (6, 4), 120, 0)
        picture.seek(1)
        assert picture.convert("L").getpixel((0, 0)) == 102
    with pytest.raises(ValueError, match="multiple of 10"):
        save_gif(tmp_path / "b.gif", frames, 15)
    with pytest.raises(ValueError, match="none given"):
        save_gif(tmp_path / "b.gif", frames[:0], 20)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(path, np.zeros((2, 2)))
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError):
        save_png(path, np.ones((2, 2)))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
