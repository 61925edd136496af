"""`eval fid` of features made elsewhere: all that images give, equal to prdc and dgm-eval; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.files import write_npz
from core.metrics.frechet import frechet_distance_from_features
from core.metrics.pixels import thumbnails
from eval.__main__ import main
from eval.measure.saved import read_saved
from tests.peers.feature_oracle import NEIGHBOURS, SHARES, make_features

STORED = dict(np.load(Path(__file__).parent / "data" / "features.npz"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """real.npz and generated.npz, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, rows in zip(("real", "generated"), make_features(), strict=True):
        np.savez(f"{name}.npz", features=rows)
    return tmp_path


@pytest.fixture
def result(files, capsys):
    """Measure, and return the result that is printed."""

    def run(*words: str) -> dict:
        assert main(["fid", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(files, capsys):
    """The one line that refuses."""

    def run(*words: str) -> str:
        assert main(["fid", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        return error

    return run


def test_the_stored_numbers_are_of_these_features():
    assert np.allclose(make_features(), [STORED["real"], STORED["generated"]], rtol=1e-14, atol=1e-14)
    assert "feature_oracle" in str(STORED["made by"])


@pytest.mark.parametrize("peer", ["prdc", "dgm-eval"])
def test_precision_recall_density_and_coverage_are_those_of_the_peers(result, peer):
    found = result("real.npz", "generated.npz")
    for name, k in zip(SHARES, (NEIGHBOURS[0], NEIGHBOURS[0], NEIGHBOURS[1], NEIGHBOURS[1]), strict=True):
        assert found[name] == pytest.approx(float(STORED[f"{peer} {name} k={k}"]), abs=1e-8), name
        assert abs(STORED[f"{peer} {name} k=3"] - STORED[f"{peer} {name} k=5"]) > 1e-3


def test_the_distance_and_kid_are_those_of_dgm_eval(result):
    found = result("real.npz", "generated.npz")
    assert found["frechet"]["value"] == pytest.approx(float(STORED["dgm-eval frechet"]), rel=1e-8)
    assert found["kid"]["value"] == pytest.approx(float(STORED["dgm-eval kid"]), rel=1e-8)


def test_features_of_images_give_every_number_of_the_images(result, files):
    """Thumbnails are the features of `--extractor pixels`; the draws of the floor and the interval are the same."""
    rng = np.random.default_rng(3)
    sets = {name: 0.2 + 0.6 * rng.random((count, 8, 8, 1)) for name, count in (("a", 200), ("b", 120), ("t", 90))}
    for name, images in sets.items():
        np.save(f"{name}.npy", images)
        write_npz(f"{name}.npz", {"features": thumbnails(images).reshape(len(images), -1)})
    for more in ([], ["--n", "60"], ["--train", "t"]):
        images = result(*(f"{word}.npy" if word in sets else word for word in ("a", "b", *more, "--extractor=pixels")))
        rows = result(*(f"{word}.npz" if word in sets else word for word in ("a", "b", *more)))
        for key in ("n", "n_why", "frechet", "floor", "infinity", "kid", "precision", "recall", "density", "coverage"):
            assert rows[key] == images[key], key
        assert rows["real"]["shape"] == [200, 64] and rows["extractor"]["name"] == "given"
        assert "lens" not in rows and "inception_score" not in rows


def test_float16_and_saved_statistics_of_features_give_the_distance_too(result):
    first = result("real.npz", "generated.npz", "--save-statistics", "moments.npz")
    again = result("moments.npz", "generated.npz")
    assert again["frechet"]["value"] == pytest.approx(first["frechet"]["value"], rel=1e-9)
    assert again["n"] == {"real": 150, "generated": 150} and "floor" not in again
    half = [rows.astype(np.float16) for rows in make_features()]
    for name, rows in zip(("a.npz", "b.npz"), half, strict=True):
        np.savez(name, features=rows)
    expected = frechet_distance_from_features(*half)
    assert result("a.npz", "b.npz")["frechet"]["value"] == pytest.approx(expected, rel=1e-12)


def test_a_manifest_names_the_network_and_two_of_them_must_agree(result, refused):
    real, generated = make_features()
    said = {"extractor": "dinov2_vitl14", "resize": "bicubic 224", "weights_sha256": "ab", "split": "held out"}
    for name, rows, more in (
        ("a.npz", real, {}),
        ("b.npz", generated, {}),
        ("c.npz", generated, {"extractor": "clip"}),
        ("d.npz", generated, {"resize": "bilinear 224"}),
    ):
        write_npz(name, {"features": rows, "manifest": np.array(json.dumps(said | more))})
    found = result("a.npz", "b.npz")
    assert found["extractor"] == {
        "name": "dinov2_vitl14",
        "tap": "features",
        "weights_sha256": "ab",
        "resize": "bicubic 224",
        "features": 12,
    }
    assert not any("network" in text for text in found["assumed"]) and found["real"]["split"] == "held out"
    assert "a.npz has 'dinov2_vitl14': must be of the same network" in refused("a.npz", "c.npz")
    assert "d.npz: features with resize 'bilinear 224'" in refused("a.npz", "d.npz")
    (assumed,) = result("a.npz", "generated.npz")["assumed"]
    assert assumed.startswith("No manifest says which network made the features of generated.npz")
    result("a.npz", "b.npz", "--save-statistics", "moments.npz")
    assert "c.npz: features with name 'clip'" in refused("moments.npz", "c.npz")


def save(name: str, features: object, **more: object) -> None:
    np.savez(name, features=features, **more)  # NumPy pickles an array of objects by itself


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.zeros((1, 12)), "bad.npz: features: 1 rows: must be at least 2"),
        (np.zeros((150, 4, 3)), "bad.npz: features: shape (150, 4, 3): must be (n, d)"),
        (np.zeros((150, 0)), "bad.npz: features: shape (150, 0): must be (n, d)"),
        (np.full((150, 12), np.nan), "bad.npz: features: row 0 (150 of 150 rows) holds NaN or infinity"),
        (np.zeros((150, 12), complex), "bad.npz: features: dtype complex128: must be real numbers"),
        (np.zeros((150, 12), object), "bad.npz: not a whole .npz file of plain arrays (holds pickled objects"),
        (np.zeros((150, 9)), "bad.npz: 9 features an image where real.npz has 12"),
        (np.zeros((19, 12)), "150 real and 19 generated images: must be at least 20 on each side"),
    ],
)
def test_what_no_network_makes_is_refused(refused, features, words):
    save("bad.npz", features)
    assert words in refused("real.npz", "bad.npz")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("[1]", "bad.npz: manifest holds no JSON object"),
        ("{", "bad.npz: not a file of features"),
        ('{"extractor": 3}', "bad.npz: manifest: name is 3: must be a text"),
        ('{"n": NaN}', "bad.npz: not a file of features"),
    ],
)
def test_a_manifest_that_is_none_is_refused(refused, manifest, words):
    save("bad.npz", make_features()[0], manifest=np.array(manifest))
    assert words in refused("real.npz", "bad.npz")


def test_images_and_their_options_are_refused_beside_features(refused):
    np.save("images.npy", np.full((50, 8, 8), 0.5))
    np.savez("images.npz", images=np.full((50, 8, 8), 0.5))
    for name in ("images.npy", "images.npz"):
        for words in (("real.npz", name), (name, "generated.npz"), ("real.npz", "generated.npz", "--train", name)):
            assert f"{name}: holds no features: must be an .npz file with features" in refused(*words)
        assert f"{name}: holds no features" in refused(name, name, "--train", "real.npz")
    assert "nowhere.npz: no such file" in refused("real.npz", "nowhere.npz")
    for option in (["--extractor", "inception"], ["--fit", "crop"], ["--eight-bit"], ["--resize", "legacy"]):
        said = refused("real.npz", "generated.npz", *option)
        assert f"{option[0]}: must be left out, since real.npz holds features" in said
    np.savez("few.npz", features=np.zeros((60, 5)))
    said = refused("real.npz", "generated.npz", "--train", "few.npz")
    assert "generated.npz: 12 features an image where few.npz has 5" in said


def test_other_verbs_say_that_features_are_no_images(files, capsys):
    np.save("images.npy", np.random.default_rng(0).random((50, 8, 8)))
    assert main(["compare", "--real", "images.npy", "--generated", "made=real.npz", "--out", "out"]) == 2
    assert "real.npz: holds features: must be images" in capsys.readouterr().err


def test_what_is_saved_is_read_as_it_is(files):
    found = read_saved(Path("real.npz"))
    assert found.statistics is None and found.about == {} and np.array_equal(found.features, make_features()[0])
    np.savez("images.npz", images=np.zeros((3, 8, 8)))
    assert read_saved(Path("images.npz")) is None and read_saved(Path("nowhere.npz")) is None
