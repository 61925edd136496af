"""Inception in each twin: its input, batches and memory, the published files, the verbs features and fetch.

The network itself is held against its peers in test_peers_inception.py, and the twins against each other in
tests/parity/test_inception.py.
"""

import dataclasses
import importlib

import numpy as np
import pytest
from PIL import Image

from core.extractors.features import extract
from core.files import file_hash, write_tensors
from eval.parity.closeness import require_close
from eval.parity.tolerances import BATCH_SIZE_FLOAT32, EXACT, RESIZE_FLOAT32, RESIZE_PILLOW
from tests.command_line import call
from tests.feature_file import read_features
from tests.file_server import serving
from tests.inception_weights import random_weights, write_graph

TAPS = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008, "logits": 1008}


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def extractor(backend, weights):
    return backend.extractors.make_extractor("inception", weights, "clean")


def pictures(count: int, height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(count + height).random((count, height, width, channels), np.float32)


def prepare(backend, images: np.ndarray, resize: str) -> np.ndarray:
    """The network's input, (B, 299, 299, 3); `prepare` takes NHWC in both twins."""
    framework = importlib.import_module(backend.name)
    tensor = framework.from_numpy(images) if backend.name == "torch" else framework.constant(images)
    return backend.array(backend.inception.prepare(tensor, resize))


def bilinear_of_tensorflow_1(backend, images: np.ndarray) -> np.ndarray:
    """TensorFlow's own kernel, and in PyTorch torch-fidelity's copy of it."""
    if backend.name == "tensorflow":
        image = importlib.import_module("tensorflow").compat.v1.image
        return image.resize_bilinear(images, (299, 299), align_corners=False, half_pixel_centers=False).numpy()
    importlib.import_module("tests.peers.torchvision_stub")
    peer = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
    resized = peer.interpolate_bilinear_2d_like_tensorflow1x(backend.tensor(images), (299, 299), align_corners=False)
    return backend.array(resized)


def bicubic_of_pillow(images: np.ndarray) -> np.ndarray:
    """The resize of clean-fid: every channel alone, as float32."""
    resized = np.empty((len(images), 299, 299, images.shape[-1]), np.float32)
    for index, image in enumerate(images):
        for channel in range(images.shape[-1]):
            picture = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            resized[index, ..., channel] = picture.resize((299, 299), Image.Resampling.BICUBIC)
    return resized


@pytest.mark.parametrize("size", [(32, 32), (64, 45), (150, 310), (420, 299)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_input_is_the_peers(backend, size, channels):
    images = pictures(2, *size, channels)
    for resize, resized, tolerance in (
        ("legacy", bilinear_of_tensorflow_1(backend, images * 255), RESIZE_FLOAT32),
        ("clean", bicubic_of_pillow(images * 255), RESIZE_PILLOW),
    ):
        expected = np.repeat((resized - 128) / 128, 3 // channels, axis=-1)
        measured = require_close(prepare(backend, images, resize), expected, tolerance, f"{resize} {size}")
        print(resize, measured)


def test_levels_of_grey_enter_as_in_the_graph(backend):
    """0, 128 and 255 of 255 are -1, 0 and 127 / 128, in all three channels."""
    levels = (np.array([0, 128, 255], np.float32) / 255)[:, None, None, None] * np.ones((3, 299, 299, 1), np.float32)
    expected = np.array([-1, 0, 127 / 128])[:, None, None, None] * np.ones((3, 299, 299, 3))
    for resize in ("legacy", "clean"):
        np.testing.assert_allclose(prepare(backend, levels, resize), expected, atol=1e-7)


def test_every_tap_has_its_width(extractor):
    found = extractor(pictures(2, 20, 30, 3))
    assert {tap: rows.shape for tap, rows in found.items()} == {tap: (2, width) for tap, width in TAPS.items()}
    assert all(rows.dtype == np.float32 and np.abs(rows[0] - rows[1]).max() > 0 for rows in found.values())


@pytest.mark.parametrize(
    ("count", "sizes"), [(4, (1, 3, 4)), pytest.param(32, (1, 7, 32), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_the_batch_size_changes_nothing(extractor, count, sizes):
    images = pictures(count, 32, 24, 1)
    whole = {size: extract(extractor, lambda a, b: images[a:b], count, size, list(TAPS)) for size in sizes}
    for tap in TAPS:
        assert whole[sizes[0]][tap].shape == (count, TAPS[tap])
        for size in sizes[1:]:
            measured = require_close(whole[size][tap], whole[sizes[0]][tap], BATCH_SIZE_FLOAT32, f"{tap} at {size}")
            print(tap, size, measured)


def test_other_channels_and_resizes_are_refused(backend, extractor, weights):
    with pytest.raises(ValueError, match="images: 2 channels"):
        extractor(pictures(1, 9, 9, 2))
    with pytest.raises(ValueError, match="resize = 'area': must be one of clean, legacy"):
        backend.extractors.make_extractor("inception", weights, "area")(pictures(1, 9, 9, 1))
    with pytest.raises(ValueError, match=r"weights: .* 1 missing"):
        backend.extractors.make_extractor("inception", {n: v for n, v in weights.items() if n != "fc.bias"}, "clean")


def test_a_batch_that_does_not_fit_is_a_memory_error(backend, monkeypatch):
    """PyTorch's own error for 2^50 bytes is used; TensorFlow's would take ten seconds. Other errors pass through."""
    framework = importlib.import_module(backend.name)

    def exhaust(images):
        if backend.name == "tensorflow":
            raise framework.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        framework.empty(1 << 48)

    def fail(images):
        raise RuntimeError("a bug")

    for function, error in ((exhaust, MemoryError), (fail, RuntimeError)):
        monkeypatch.setitem(backend.extractors.EXTRACTORS, "failing", lambda *_, function=function: function)
        with pytest.raises(error):
            backend.extractors.make_extractor("failing", {}, "clean")(pictures(1, 9, 9, 1))


@pytest.fixture(scope="module")
def published(backend, weights, tmp_path_factory):
    """The weights in the file that this twin fetches."""
    folder = tmp_path_factory.mktemp("published")
    if backend.name == "tensorflow":
        write_graph(folder / "graph.pb", weights)
        return folder / "graph.pb"
    torch = importlib.import_module("torch")
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, folder / "inception.pth")
    return folder / "inception.pth"


def test_every_published_tensor_is_used_once(backend, published, weights):
    found = backend.inception.read_published(published)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        require_close(found[name], value, EXACT, name)


def test_another_file_is_refused(backend, published, weights, tmp_path):
    (tmp_path / "page").write_text("<!DOCTYPE html><html>Not found</html>")
    (tmp_path / "cut").write_bytes(published.read_bytes()[:100_000])
    for name in ("page", "cut"):
        with pytest.raises(ValueError, match=f"{name}: not a whole"):
            backend.inception.read_published(tmp_path / name)
    some = {name: value for name, value in weights.items() if name != "Mixed_7c.branch_pool.bn.running_var"}
    if backend.name == "tensorflow":
        write_graph(tmp_path / "some", some)
    else:
        torch = importlib.import_module("torch")
        torch.save({name: torch.from_numpy(value) for name, value in some.items()}, tmp_path / "some")
    with pytest.raises(ValueError, match=r"some: .* 1 missing, .*Mixed_7c\.branch_pool\.bn\.running_var"):
        backend.inception.read_published(tmp_path / "some")


@pytest.fixture(scope="module")
def fetched(backend, published, tmp_path_factory):
    """A cache into which the published file was fetched from a server on this machine, and what was said."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, serving(patch) as server:
        patch.setenv("DIPTYCH_CACHE", str(cache))
        server.body = published.read_bytes()
        here = dataclasses.replace(backend.inception.PUBLISHED, url=server.url, sha256=file_hash(published))
        patch.setattr(backend.inception, "PUBLISHED", here)
        code, out, err = call(repr(backend), "fetch", "inception")
    assert code == 0, err
    return cache / "inception-2015-12-05.safetensors", out


def test_either_twin_fetches_the_same_bytes(fetched, weights, tmp_path):
    cached, out = fetched
    write_tensors(tmp_path / "expected.safetensors", weights)
    assert file_hash(cached) == file_hash(tmp_path / "expected.safetensors")
    assert out == f"wrote {cached}: 472 tensors, SHA-256 {file_hash(cached)}\n"
    assert sorted(path.name for path in cached.parent.iterdir()) == [cached.name, f"{cached.name}.sha256"]


@pytest.mark.parametrize("given", (False, True), ids=("fetched", "given"))
def test_fetched_and_given_weights_serve_the_verb_features(
    backend, fetched, published, extractor, tmp_path, monkeypatch, given
):
    monkeypatch.setenv("DIPTYCH_CACHE", str(fetched[0].parent))
    images, out = pictures(3, 16, 16, 1), tmp_path / "f.npz"
    np.save(tmp_path / "images.npy", images)
    flags = ("--extractor", "inception", "--taps", "2048,logits", "--out", out)
    more = ("--weights", published, "--batch-size", 2) if given else ()
    code, said, err = call(repr(backend), "features", tmp_path / "images.npy", *flags, *more)
    assert code == 0, err
    assert said == f"wrote {out}: 2048 (3, 2048), logits (3, 1008)\n"
    found, manifest = read_features(out)
    assert manifest["weights_sha256"] == file_hash(published if given else fetched[0])
    assert manifest["framework"] == backend.name and manifest["n"] == 3
    assert found.keys() == {"2048", "logits"}
    expected = extractor(images)
    for tap, rows in found.items():
        require_close(rows, expected[tap], BATCH_SIZE_FLOAT32, tap)


def test_options_reach_the_extractor(backend, weights, tmp_path):
    """--resize and --dtype change the features; those of float64, rounded, differ from those of float32."""
    images = pictures(1, 16, 16, 1)
    np.save(tmp_path / "images.npy", images)
    write_tensors(tmp_path / "w.safetensors", weights)
    code, _, err = call(
        repr(backend),
        "features",
        tmp_path / "images.npy",
        "--out",
        tmp_path / "f.npz",
        "--extractor",
        "inception",
        "--resize",
        "legacy",
        "--dtype",
        "float64",
        "--weights",
        tmp_path / "w.safetensors",
    )
    assert code == 0, err
    found, manifest = read_features(tmp_path / "f.npz")
    expected = backend.extractors.make_extractor("inception", weights, "legacy", "float64")(images)["2048"]
    require_close(found["2048"], expected.astype(np.float32), EXACT, "2048")
    assert manifest["resize"] == "legacy" and manifest["dtype"] == "float64"


def test_the_published_hashes_are_those_of_public_records(backend):
    """The PyTorch file carries its first eight digits in its name; the graph's are in several public records."""
    published = backend.inception.PUBLISHED
    if backend.name == "torch":
        assert published.url.endswith(f"-{published.sha256[:8]}.pth")
    else:
        assert published.url.endswith("/classify_image_graph_def.pb") and published.sha256.startswith(
            "009d6814d1bc560d"
        )
    assert len(published.sha256) == 64 and published.url.startswith("https://")
