"""PyTorch's Inception against pytorch-fid's and torch-fidelity's, with the same random weights: every tap, the whole
chain.

TensorFlow's is held against PyTorch's in tests/parity/test_inception.py.
"""

import numpy as np
import pytest
import torch

import tests.peers.torchvision_stub  # noqa: F401  before the peers, which import torchvision
from core.extractors.inception import TAPS
from eval.parity.closeness import require_close
from eval.parity.tolerances import EXACT, INCEPTION_FLOAT32, INCEPTION_FLOAT64
from tests.inception_weights import random_weights
from torch_impl.extractors import make_extractor
from torch_impl.inception import Inception, read_published

DTYPES = [("float32", INCEPTION_FLOAT32), ("float64", INCEPTION_FLOAT64)]


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def pytorch_fid(weights):
    """Its InceptionV3, which demands every one of its names; nothing is downloaded."""
    from pytorch_fid import inception

    with pytest.MonkeyPatch.context() as patch:
        state = {name: torch.from_numpy(value) for name, value in weights.items()}
        patch.setattr(inception, "load_state_dict_from_url", lambda url, progress: state)
        return inception.InceptionV3([0, 1, 2, 3], resize_input=False, normalize_input=False).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_every_map_is_pytorch_fids(weights, pytorch_fid, dtype, tolerance):
    """A small image that is not square: the borders, where pooling differs, count for more."""
    kind = getattr(torch, dtype)
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, 3, 139, 107))).to(kind)
    with torch.inference_mode():
        maps = pytorch_fid.to(kind)(x)
        found = Inception(weights, dtype)(x)
    for tap, expected in zip(("64", "192", "768", "2048"), maps, strict=True):
        measured = require_close(found[tap].numpy(), expected.mean(dim=(2, 3)).numpy(), tolerance, tap)
        print(tap, dtype, measured)
        assert expected.shape[1] == int(tap) and 0.1 < expected.mean() < 10  # nothing drowns in rounding


def test_a_saved_module_of_pytorch_fid_is_read(weights, tmp_path):
    """Its counts of batches, which the published file may or may not have, are left out."""
    from pytorch_fid import inception

    network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    state = network.state_dict()
    assert any(name.endswith("num_batches_tracked") for name in state)
    torch.save({**state, **{name: torch.from_numpy(value) for name, value in weights.items()}}, tmp_path / "a.pth")
    found = read_published(tmp_path / "a.pth")
    assert found.keys() == weights.keys()
    require_close(found["fc.weight"], weights["fc.weight"], EXACT, "fc.weight")


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_the_whole_chain_is_torch_fidelitys(weights, tmp_path, dtype):
    """From 8-bit images to features, by the legacy resize; its float64 has positions and results of float32."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, tmp_path / "a.pth")
    peer = FeatureExtractorInceptionV3("peer", list(TAPS), str(tmp_path / "a.pth"), dtype)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 40, 56, 3), np.uint8)
    with torch.inference_mode():
        expected = peer(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found = make_extractor("inception", weights, "legacy", dtype)(pixels / np.float32(255))
    for tap, rows in zip(TAPS, expected, strict=True):
        print(tap, dtype, require_close(found[tap].astype(np.float32), rows.numpy(), INCEPTION_FLOAT32, tap))
