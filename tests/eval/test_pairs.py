"""The verb `pairs`: draws of a known posterior and images of known errors; files in, JSON, a page and a table out."""

import json

import numpy as np
import pytest

from core.extractors.lens import PARAMETERS
from core.images import resize
from core.metrics.distances import wasserstein
from core.metrics.physics import ring_radius
from core.metrics.restoration import structural_similarity
from eval.__main__ import main
from eval.measure.pairs import measure_pairs
from eval.twins import features as twin_features
from tests.eval.html import read_page
from tests.eval.rings import rings

N, K, NOISE = 60, 7, 0.02


def exchangeable(seed=0, scale=1.0):
    """Truth and draws that are centres with noise of one distribution, that of the draws times `scale`."""
    centres = 0.1 + 0.8 * rings(N, seed, noise=0)
    noise = NOISE * np.random.default_rng(seed).standard_normal((N, K + 1, *centres.shape[1:]))
    images = np.clip(centres[:, None] + noise * np.array([1, *[scale] * K])[None, :, None, None, None], 0, 1)
    return images[:, 0].astype(np.float32), images[:, 1:].astype(np.float32)


@pytest.fixture
def files(tmp_path):
    truth, draws = exchangeable()
    np.save(tmp_path / "truth.npy", truth)
    np.save(tmp_path / "inputs.npy", resize(truth, 12, 14).astype(np.float32) - 0.2)  # with noise below 0
    (tmp_path / "restored").mkdir()
    np.save(tmp_path / "restored" / "draws.npy", draws)
    return tmp_path


def call(files, *words):
    names = [word for word in words if (word.endswith((".npy", "restored")) and "/" not in word) or word == "out"]
    paths = [str(files / word) if word in names else word for word in words]
    return main(["pairs", *paths, "--extractor", "pixels"])


def test_the_errors_of_known_noise_are_those_of_the_formulas():
    truth, draws = exchangeable()
    found = measure_pairs(truth, draws)["quality"]
    assert list(found) == ["mean of draws", "one draw"]
    squared = ((draws.astype(float) - truth[:, None]) ** 2).mean(axis=(2, 3, 4))
    assert found["one draw"]["mse"]["value"] == pytest.approx(squared.mean(), rel=1e-12)
    assert found["one draw"]["psnr"]["value"] == pytest.approx((-10 * np.log10(squared)).mean(), rel=1e-12)
    similar = np.mean([structural_similarity(truth, draws[:, k]) for k in range(K)])
    assert found["one draw"]["ssim"]["value"] == pytest.approx(similar, rel=1e-12)
    # E|draw - truth|^2 = 2 s^2 and E|mean - truth|^2 = (1 + 1/K) s^2
    ratio = found["one draw"]["mse"]["value"] / found["mean of draws"]["mse"]["value"]
    assert ratio == pytest.approx(2 / (1 + 1 / K), rel=0.01)
    for entry in (estimate for columns in found.values() for estimate in columns.values()):
        assert entry["low"] < entry["value"] < entry["high"]


def test_bicubic_is_the_inputs_interpolated_and_the_gain_is_paired():
    truth, draws = exchangeable()
    inputs = np.clip(resize(truth, 12, 14), 0, 1).astype(np.float32)
    found = measure_pairs(truth, draws, inputs)
    expected = np.clip(resize(inputs, 24, 28), 0, 1).astype(np.float32)
    assert found["quality"]["bicubic"]["mse"]["value"] == pytest.approx(
        ((expected.astype(float) - truth) ** 2).mean(), rel=1e-9
    )
    for name in ("mean of draws", "one draw"):
        difference = found["quality"][name]["psnr"]["value"] - found["quality"]["bicubic"]["psnr"]["value"]
        assert found["gain"][name]["psnr"]["value"] == pytest.approx(difference, rel=1e-9)
    other = measure_pairs(truth, draws, np.repeat(inputs, 2, axis=3))
    assert "bicubic" not in other["quality"] and not other["gain"] and "2 channels" in other["warnings"][0]


def test_draws_of_the_posterior_are_calibrated_and_narrow_ones_are_not():
    good, narrow = (measure_pairs(*exchangeable(scale=s))["calibration"] for s in (1.0, 0.5))
    pixels = good["statistics"]["pixels"]
    assert pixels["p"] > 0.01 and np.allclose(pixels["ranks"], 1 / (K + 1), atol=0.01)
    assert all(level["value"] == pytest.approx(level["nominal"], abs=0.01) for level in pixels["coverage"])
    assert all(level["low"] < level["value"] < level["high"] for level in pixels["coverage"])
    assert good["spread_over_error"]["value"] == pytest.approx(1, abs=0.01)
    pixels = narrow["statistics"]["pixels"]
    assert pixels["p"] < 1e-6 and pixels["coverage"][-1]["high"] < 0.6 < pixels["coverage"][-1]["nominal"]
    assert narrow["spread_over_error"]["value"] == pytest.approx(np.sqrt(0.25 * (8 / 7) / (1 + 0.25 / 7)), abs=0.01)
    assert good["statistics"]["flux"]["p"] > 0.01 > narrow["statistics"]["peak"]["p"]


def test_the_physics_is_that_of_each_image_and_its_truth():
    truth, _ = exchangeable()
    larger = np.roll(truth, 2, axis=1)[:, None]  # each ring moved by two pixels
    larger[:3] = 0.5  # nothing rises above the sky
    found = measure_pairs(truth, larger, pixel_scale=0.1)
    entry = found["physics"]["ring_radius"]
    column = entry["sets"]["restored"]
    true, seen = (ring_radius(images, 0.1)[3:] for images in (truth, larger[:, 0]))
    assert column["left_out"] == 3 and found["length_unit"] == "arcsec"
    assert column["w1"]["value"] == pytest.approx(wasserstein(true, seen))
    assert column["bias"]["value"] == pytest.approx((seen - true).mean())
    assert column["error"]["value"] == pytest.approx(np.abs(seen - true).mean())
    assert found["calibration"] is None


def test_the_residual_of_the_truth_and_of_the_posterior_is_1(files, capsys):
    truth, draws = exchangeable()
    inputs = truth[:, ::2, ::2] * 0
    for rows, columns in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inputs += truth[:, rows::2, columns::2] / 4
    noise = NOISE * np.random.default_rng(4).standard_normal(inputs.shape)
    np.save(files / "measured.npy", (inputs + noise).astype(np.float32))
    words = ["--inputs", "measured.npy", "--operator", "downscale:2", "--out", "out"]
    assert call(files, "truth.npy", "restored", *words, "--noise", str(NOISE)) == 0
    stored = json.loads((files / "out" / "pairs.json").read_text())
    found = {name: columns["chi_squared"]["value"] for name, columns in stored["quality"].items()}
    assert found["truth"] == pytest.approx((noise**2).mean() / NOISE**2, rel=1e-3)
    # A (draw - truth) has the variance 2 NOISE^2 / 4
    assert found["one draw"] == pytest.approx(1.5, abs=0.02) and found["mean of draws"] < found["one draw"]
    assert "chi_squared" in stored["quality"]["bicubic"] and stored["measurement"]["operator"] == "downscale:2"
    known = np.ones(truth.shape[1:3], np.float32)
    known[5:9] = 0
    np.save(files / "mask.npy", 1 - known)
    np.save(files / "measured.npy", np.where(known[..., None], truth, 0.5))
    words = ["--inputs", "measured.npy", "--operator", f"mask:{files}/mask.npy", "--out", "out", "--noise", "0.1"]
    assert call(files, "truth.npy", "restored", *words) == 0
    stored = json.loads((files / "out" / "pairs.json").read_text())
    assert stored["quality"]["truth"]["chi_squared"]["value"] == 0
    expected = ((draws - truth[:, None]) ** 2)[:, :, known > 0].mean() / 0.1**2
    assert stored["quality"]["one draw"]["chi_squared"]["value"] == pytest.approx(expected, rel=1e-5)
    assert "Residual" in capsys.readouterr().out


def test_perfect_images_have_no_psnr_and_every_file_is_written(files, capsys):
    assert call(files, "truth.npy", "truth.npy", "--inputs", "inputs.npy", "--out", "out") == 0
    stored = json.loads((files / "out" / "pairs.json").read_text())
    assert stored["quality"]["restored"]["psnr"] is None and stored["gain"]["restored"]["psnr"] is None
    assert stored["quality"]["restored"]["ssim"]["value"] == pytest.approx(1) and stored["draws"] == 1
    assert stored["physics"]["flux"]["sets"]["restored"]["error"]["value"] == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote {files}/out/pairs.json")


def test_inputs_keep_their_noise_below_0(files, capsys):
    dark = np.load(files / "inputs.npy") - np.float32(0.3)
    np.save(files / "dark.npy", dark)
    assert dark.min() < 0 and call(files, "truth.npy", "restored", "--inputs", "dark.npy", "--json") == 0
    stored = json.loads(capsys.readouterr().out)
    expected = np.clip(resize(dark, 24, 28), 0, 1).astype(np.float32)
    squared = ((expected.astype(float) - np.load(files / "truth.npy")) ** 2).mean()
    assert stored["quality"]["bicubic"]["mse"]["value"] == pytest.approx(squared, rel=1e-6)
    np.save(files / "dark.npy", dark - 1)
    assert call(files, "truth.npy", "restored", "--inputs", "dark.npy") == 2
    assert "must be (N, h, w, C) in [-1, 2]" in capsys.readouterr().err


def test_the_page_stands_alone_and_shows_the_numbers_of_the_json(files, capsys):
    assert call(files, "truth.npy", "restored", "--inputs", "inputs.npy") == 0
    out = capsys.readouterr().out
    stored = json.loads((files / "restored" / "pairs" / "pairs.json").read_text())
    page = read_page(files / "restored" / "pairs" / "report.html")
    assert page.stands_alone() and page.pictures() == 1 and page.plots() == 2
    for columns in stored["quality"].values():
        shown = f"{columns['ssim']['value']:.4g} [{columns['ssim']['low']:.4g}, {columns['ssim']['high']:.4g}]"
        assert shown in page.text and shown in out
    rows = next(table for table in page.tables if table[0][0] == "Coverage of")[1:]
    assert len(rows) == len(stored["calibration"]["statistics"])
    assert rows[0][2].split()[0] == f"{stored['calibration']['statistics']['pixels']['coverage'][0]['value']:.3g}"
    assert call(files, "truth.npy", "restored", "--inputs", "inputs.npy", "--json") == 0
    assert json.loads(capsys.readouterr().out) == stored


def test_the_lens_extractor_s_parameters_are_measured_in_the_truth_s_unit(files, monkeypatch):
    class Worker:
        """Every parameter is the image's mean."""

        def __init__(self, framework, timeout=0.0):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def call(self, task, arrays=None, /, **options):
            if task == "describe":
                return {}, {}
            mean = arrays["images"].mean(axis=(1, 2, 3))
            return {"parameters": np.repeat(mean[:, None], len(PARAMETERS), axis=1)}, {}

    monkeypatch.setattr(twin_features, "Worker", Worker)
    words = ["pairs", f"{files}/truth.npy", f"{files}/restored", "--framework", "torch", "--pixel-scale", "0.5"]
    assert main([*words, "--out", f"{files}/out"]) == 0
    stored = json.loads((files / "out" / "pairs.json").read_text())
    truth, draws = (np.load(files / name).astype(float) for name in ("truth.npy", "restored/draws.npy"))
    error = np.abs(draws.mean(axis=(2, 3, 4)) - truth.mean(axis=(1, 2, 3))[:, None]).mean()
    entry = stored["physics"]["lens_theta_e"]["sets"]["one draw"]
    assert entry["error"]["value"] == pytest.approx(error * 0.5 * 24, rel=1e-4)
    assert "lens_theta_e" in stored["calibration"]["statistics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["truth.npy", "few.npy"], "DRAWS: 30 images"),
        (["few.npy", "few.npy", "--inputs", "inputs.npy"], "--inputs: 60 images: must be 30"),
        (["tiny.npy", "tiny.npy"], "TRUTH: 19 images: must be at least 20"),
        (["truth.npy", "hot.npy"], "values in ["),
        (["truth.npy", "none.npy"], "K at least 1"),
        (["truth.npy", "missing.npy"], "missing.npy: no such file"),
        (["small.npy", "small.npy"], "images of 8 pixels: must be at least 11"),
        (["truth.npy", "restored", "--pixel-scale", "0"], "pixel_scale = 0.0"),
        (["truth.npy", "restored", "--seed", "-1"], "--seed -1"),
        (["truth.npy", "restored", "--noise", "0.1"], "--noise 0.1: must come with --operator"),
        (["truth.npy", "restored", "--operator", "blur:1", "--noise", "0.1"], "must come with --inputs"),
        (["truth.npy", "restored", "--operator", "blur:1", "--inputs", "inputs.npy"], "a --noise above 0"),
        (
            ["truth.npy", "restored", "--operator", "blur:1", "--inputs", "inputs.npy", "--noise", "1"],
            "must be (24, 28",
        ),
        (["truth.npy", "restored", "--operator", "blur", "--inputs", "inputs.npy", "--noise", "1"], "--operator blur"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(files, capsys, words, message):
    truth, draws = exchangeable()
    np.save(files / "few.npy", truth[:30])
    np.save(files / "tiny.npy", truth[:19])
    np.save(files / "hot.npy", draws * 2)
    np.save(files / "none.npy", draws[:, :0])
    np.save(files / "small.npy", truth[:, :8])
    assert call(files, *words, "--out", "out") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1
    assert not (files / "out").exists()


def test_channels_that_the_lens_extractor_does_not_take_are_refused(files, capsys):
    np.save(files / "colour.npy", np.repeat(np.load(files / "truth.npy"), 3, axis=3))
    words = ["pairs", f"{files}/colour.npy", f"{files}/colour.npy", "--framework", "torch", "--out", f"{files}/out"]
    assert main(words) == 2
    assert "--extractor pixels" in capsys.readouterr().err
