"""`eval fid`: what the two words name, what is refused, the numbers and their floor, and a published result recomputed.

The twin is a stand-in whose features are pixels, so that every number can be computed here; the real twins are in
tests/parity/test_fid.py.
"""

import json

import numpy as np
import pytest

from core.extractors.lens import PARAMETERS
from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from eval.__main__ import main
from eval.measure.distance import cut, measure
from eval.measure.image_sets import ImageSet, read_image_set
from eval.measure.metrics import rows
from eval.twins import features as fid_features
from tests.eval.pictures import save_pictures

SIDE = 8


def images(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Noise around a level; as wide as its level is far from the ends."""
    rng = np.random.default_rng(seed)
    return np.clip(0.4 + shift + 0.1 * rng.standard_normal((count, SIDE, SIDE, 1)), 0.01, 0.99).astype(np.float32)


class PixelWorker:
    """Features are 2 x 2 means: 16 numbers an image."""

    def __init__(self, framework, timeout=0.0):
        self.framework = framework

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def call(self, task, arrays=None, /, **options):
        if task == "describe":
            return {}, {"framework": self.framework, "version": "0"}
        x = arrays["images"]
        rows = x.reshape(len(x), 4, 2, 4, 2, -1).mean(axis=(2, 4)).reshape(len(x), -1)
        found = {"features": rows, "parameters": rows[:, : len(PARAMETERS)], "logits": rows[:, :3], "2048": rows}
        found["logits_unbiased"] = rows
        return {tap: found[tap] for tap in options["taps"]}, {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fid_features, "Worker", PixelWorker)
    np.save(tmp_path / "real.npy", images(400, 1))
    np.save(tmp_path / "other.npy", images(300, 3, shift=0.05))
    (tmp_path / "drawn").mkdir()
    np.save(tmp_path / "drawn" / "samples.npy", images(200, 2))
    manifest = {
        "sampler": "ddim",
        "steps": 50,
        "nfe": 50,
        "seed": 0,
        "weights": "ema",
        "framework": "torch",
        "labels": [0, 1] * 100,
    }
    (tmp_path / "drawn" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def call(folder, *words: str) -> int:
    paths = (str(folder / word) if word.endswith((".npy", ".npz", "drawn")) else word for word in words)
    return main(["fid", *paths, "--framework", "torch"])


@pytest.fixture
def result(folder, capsys):
    """The result of REAL and drawn images, which is printed as it is written."""
    out = folder / "result.json"
    assert call(folder, "real.npy", "drawn", "--out", str(out), "--json") == 0
    written = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == written
    return written


def test_the_result_names_what_it_depends_on(result):
    assert result["n"] == {"real": 400, "generated": 200}
    assert result["n_why"] == {"real": "all images of REAL", "generated": "all images of GENERATED"}
    assert result["floor"]["n"] == {"real": 200, "other": 200} and result["floor"]["of"] == "halves of REAL"
    assert result["generated"]["nfe"] == 50 and result["generated"]["weights"] == "ema"
    assert result["extractor"]["name"] == "lens" and len(result["extractor"]["weights_sha256"]) == 64
    assert len(result["real"]["sha256"]) == 64 and result["real"]["stored"] == "8x8x1 float32"
    assert {"version", "framework"} <= result["environment"].keys() and result["code"].startswith("0.")
    small, floor, split = result["warnings"]
    assert "2,000" in small and "smaller N than the distance, 200 and 200" in floor and "held out" in split


def test_every_metric_of_features_is_in_the_result(result):
    value = result["frechet"]
    assert value["low"] < value["value"] < value["high"] and len(result["floor"]["values"]) == 5
    assert all(metric.key in result for metric in rows("features"))
    assert 0 <= result["recall"] <= 1 and result["kid"]["standard_error"] > 0
    assert result["infinity"]["standard_error"] > 0
    assert set(result["lens"]["parameters"]) == set(PARAMETERS) and 0 <= result["lens"]["class_agreement"] <= 1


def test_the_table_on_stdout_has_the_numbers_of_the_result(folder, result, capsys):
    assert call(folder, "real.npy", "drawn") == 0
    said = capsys.readouterr().out
    assert f"{result['frechet']['value']:.4g}" in said and f"{result['floor']['mean']:.4g}" in said
    for metric in rows("features"):
        (line,) = (line for line in said.splitlines() if line.startswith(metric.label))
        assert metric.text(result[metric.key]) in line
    for entry in result["lens"]["parameters"].values():
        assert f"{entry['value']:.3g}" in said


def test_the_same_distribution_lies_at_its_floor_and_another_far_above(folder):
    real, alike, other = (
        images(300, seed, shift).reshape(300, -1)[:, ::4] for seed, shift in ((1, 0), (2, 0), (3, 0.05))
    )
    spare = images(300, 4).reshape(300, -1)[:, ::4]
    near, far = (measure(real, generated, spare, 0) for generated in (alike, other))
    assert near["frechet"]["value"] == frechet_distance_from_features(real, alike)
    assert near["frechet"]["value"] == pytest.approx(near["floor"]["mean"], rel=0.4)
    # Sixteen features moved by .05: 16 * .05^2 = .04 beyond what chance gives.
    assert far["frechet"]["value"] - near["frechet"]["value"] == pytest.approx(0.04, rel=0.25)
    assert far["infinity"]["value"] == pytest.approx(0.04, rel=0.25)
    assert near["floor"] == far["floor"] and far["density"] < near["density"]


def test_all_images_serve_or_the_n_that_is_named_and_none_serves_twice():
    real, generated = ImageSet("r", images(50, 1)), ImageSet("g", images(30, 2))
    whole = cut(real, generated, 0, seed=3)
    assert len(whole.real) == 50 and len(whole.spare) == 0 and np.array_equal(whole.generated, generated.images)
    assert {image.tobytes() for image in whole.real} == {image.tobytes() for image in real.images}
    some = cut(real, generated, 25, seed=3)
    assert len(some.real) == len(some.spare) == 25 and np.array_equal(some.generated, generated.images[:25])
    assert len({image.tobytes() for image in (*some.real, *some.spare)}) == 50
    apart = cut(ImageSet("r", images(50, 1), others=images(90, 5)), generated, 0, seed=3)
    assert len(apart.real) == 50 and len(apart.generated) == 30 and len(apart.spare) == 60
    with pytest.raises(ValueError, match="--n 31: must be from 20 to 30 with 50 real and 30 generated images"):
        cut(real, generated, 31, seed=3)
    with pytest.raises(ValueError, match="50 real and 19 generated images: must be at least 20 on each side"):
        cut(real, ImageSet("g", images(19, 2)), 0, seed=3)


@pytest.mark.parametrize(
    ("real", "spare", "generated", "floor"),
    [
        (120, 0, 120, (60, 60)),  # halves
        (400, 0, 100, (300, 100)),  # the other side as large as the generated one
        (60, 60, 60, (60, 60)),  # --n 60 of 120
        (100, 20, 100, (60, 60)),  # --n 100 of 120
        (120, 240, 120, (120, 120)),  # --train
        (4232, 4000, 2000, (4232, 2000)),  # a run's held-out images against 2,000 drawn ones
        (120, 90, 120, (105, 105)),  # fewer training images than drawn ones
    ],
)
def test_the_floor_has_the_n_of_the_distance_where_the_real_images_allow(real, spare, generated, floor):
    rng = np.random.default_rng(0)
    sides = (rng.standard_normal((count, 2)) for count in (real, generated, spare))
    found = measure(*sides, 0)
    assert tuple(found["floor"]["n"].values()) == floor
    same = floor == (real, generated)
    assert (found["frechet"]["at_floor_n"] == found["frechet"]["value"]) == same


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])  # clean-fid's way, pytorch-fid's way
def test_statistics_that_others_saved_are_read(folder, capsys, save):
    rows = PixelWorker("torch").call("features", {"images": images(400, 1)}, taps=["features"])[0]["features"]
    mu, sigma = rows.mean(axis=0, dtype=np.float64), np.cov(rows.astype(np.float64), rowvar=False)
    save(folder / "stats.npz", mu=mu, sigma=sigma)
    assert call(folder, "stats.npz", "drawn", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    drawn = (
        PixelWorker("torch")
        .call("features", {"images": images(200, 2)}, taps=["features"])[0]["features"]
        .astype(np.float64)
    )
    expected = frechet_distance(mu, sigma, drawn.mean(axis=0), np.cov(drawn, rowvar=False))
    assert result["frechet"]["value"] == pytest.approx(expected, rel=1e-9) and "floor" not in result
    assert "no floor" in " ".join(result["warnings"]) and "do not say of how many" in " ".join(result["warnings"])
    assert result["n"] == {"real": None, "generated": 200}
    assert call(folder, "stats.npz", "drawn", "--n", "150", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"]["generated"] == 150
    assert call(folder, "stats.npz", "drawn", "--n", "201") == 2 and "at most 200" in capsys.readouterr().err


def test_saved_statistics_give_the_distance_again(folder, capsys):
    assert call(folder, "real.npy", "drawn", "--save-statistics", str(folder / "own.npz"), "--json") == 0
    first = json.loads(capsys.readouterr().out)
    about = read_image_set(str(folder / "own.npz"), "real", draw=lambda run: run).about
    assert about["n"] == 400 and about["extractor"] == first["extractor"]
    assert call(folder, "own.npz", "drawn", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["frechet"]["value"] == pytest.approx(first["frechet"]["value"], rel=1e-9)
    assert again["n"] == first["n"] and again["n_why"]["real"] == "REAL is saved statistics"
    assert call(folder, "own.npz", "drawn", "--save-statistics", str(folder / "again.npz")) == 2


def test_a_published_result_is_reproduced_or_what_differs_is_named(folder, capsys):
    out = folder / "published.json"
    assert call(folder, "real.npy", "drawn", "--out", str(out)) == 0
    assert call(folder, "real.npy", "drawn", "--expect", str(out)) == 0
    assert "reproduced" in capsys.readouterr().out
    assert call(folder, "real.npy", "other.npy", "--expect", str(out)) == 1
    error = capsys.readouterr().err
    assert "not reproduced" in error and "generated sha256" in error and "frechet value" in error
    published = json.loads(out.read_text())
    published["frechet"]["value"] *= 1.01
    out.write_text(json.dumps(published))
    assert call(folder, "real.npy", "drawn", "--expect", str(out)) == 1
    assert "frechet value" in capsys.readouterr().err
    out.write_text("{}")
    assert call(folder, "real.npy", "drawn", "--expect", str(out)) == 2


@pytest.fixture
def refused(folder, capsys):
    """Run `fid`, which must refuse in one line: that line."""

    def run(*words: str) -> str:
        assert call(folder, *words) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        return error

    return run


def test_eight_bits_on_one_side_are_refused_until_both_are_rounded(folder, refused):
    shots = str(save_pictures(folder / "pictures"))
    assert shots in refused(shots, "drawn")
    assert call(folder, shots, "drawn", "--eight-bit") == 0


def test_another_size_is_refused_until_a_fit_is_named(folder, refused):
    large = str(save_pictures(folder / "large", size=16))
    assert "--fit" in refused(large, "drawn", "--eight-bit")
    assert call(folder, large, "drawn", "--eight-bit", "--fit", "resize") == 0


def prepared(folder, name, **manifest):
    """A cache folder of images that were stretched to [0, 1] one by one, whose manifest says what is given."""
    stretched = images(200, 2)
    low, high = (f(stretched, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    (folder / name).mkdir()
    np.save(folder / name / "images.npy", (stretched - low) / (high - low))
    (folder / name / "manifest.json").write_text(json.dumps(manifest))
    return str(folder / name)


def test_the_manifests_decide_whether_both_sides_were_normalised_alike(folder, refused, capsys):
    by_image = prepared(folder, "by-image", preparation={"normalise": "image"})
    as_they_are = prepared(folder, "as-they-are", preparation={"normalise": "none"})
    said = refused(as_they_are, by_image)
    assert "data.normalise = 'image'" in said and by_image in said and as_they_are in said
    assert call(folder, by_image, by_image, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["assumed"] == [] and result["real"]["normalise"] == "image"
    assert call(folder, by_image, "drawn", "--save-statistics", str(folder / "own.npz"), "--json") == 0
    (assumed, ends) = json.loads(capsys.readouterr().out)["assumed"]
    assert f"how the images of {folder / 'drawn'} were normalised ({by_image} says data.normalise = 'image')" in assumed
    assert by_image in ends and "spans exactly [0, 1]" in ends
    assert "data.normalise" in refused("own.npz", as_they_are)


def test_without_manifests_clipped_samples_are_measured_and_what_is_assumed_is_said(folder, capsys):
    clipped = images(200, 2)
    clipped[:, 0, 0], clipped[:, 0, 1] = 0, 1
    np.save(folder / "drawn" / "samples.npy", clipped)
    assert call(folder, "real.npy", "drawn") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("assumed: ")]
    assert len(said) == 2 and "No manifest says" in said[0] and "taken as clipped" in said[1]
    data = prepared(folder, "data", sha256="same")  # what the network was trained on
    manifest = json.loads((folder / "drawn" / "manifest.json").read_text())
    (folder / "drawn" / "manifest.json").write_text(json.dumps(manifest | {"data_sha256": "same"}))
    assert call(folder, data, "drawn", "--json") == 0
    assert json.loads(capsys.readouterr().out)["assumed"] == []


def test_other_real_images_must_be_like_the_others(folder, refused):
    np.save(folder / "large.npy", np.repeat(images(60, 4), 3, axis=3))
    assert "large.npy has (8, 8, 3)" in refused("real.npy", "drawn", "--train", str(folder / "large.npy"))


def test_weights_that_are_not_there_are_refused(refused):
    assert "fetch inception" in refused("real.npy", "drawn", "--extractor", "inception")
    assert "--weights" in refused("real.npy", "drawn", "--weights", "nowhere.safetensors")
    assert "must be left out" in refused("real.npy", "drawn", "--extractor", "pixels", "--weights", "some.safetensors")


def test_pixels_need_no_network_and_say_so(folder, capsys, monkeypatch):
    """Thumbnails of 8 x 8 images are the images."""
    monkeypatch.delattr(fid_features, "Worker")
    assert call(folder, "real.npy", "drawn", "--extractor", "pixels", "--n", "150", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(400)[:150]
    real, drawn = images(400, 1)[order].reshape(150, -1), images(200, 2)[:150].reshape(150, -1)
    assert result["frechet"]["value"] == pytest.approx(frechet_distance_from_features(real, drawn), rel=1e-12)
    extractor = {"name": "pixels", "tap": "thumbnail", "weights_sha256": None, "resize": "area", "features": 64}
    assert result["extractor"] == extractor and "torch" not in result["environment"].values()
    assert "not FID" in " ".join(result["warnings"])
    assert not {"lens", "inception_score"} & result.keys()
