"""Super-resolution's condition: the small image beside an image in a batch, and beside those drawn in training."""

import numpy as np
import pytest
from PIL import Image

from core.config import DataConfig, ModelConfig, Recipe, TrainingConfig
from core.data.dataset import Dataset
from core.inference.conditioning import own_condition
from core.inference.images_beside import image_beside, shrunk
from core.training.training import Training

MODEL = ModelConfig(
    (8, 12),
    4,
    2,
    condition_channels=2,
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    norm_num_groups=4,
)
RECIPE = Recipe(MODEL, data=DataConfig("a.npz", low_resolution=4), training=TrainingConfig(batch_size=4))
IMAGES = np.random.default_rng(0).random((10, 8, 12, 2), np.float32)
DATASET = Dataset(IMAGES, None, (), {}, np.arange(8), np.arange(8, 10), {})


def by_pillow(image, height, width):
    channels = [Image.fromarray(image[..., c].astype(np.float32), mode="F") for c in range(image.shape[-1])]
    return np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels], axis=-1)


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_a_batch_has_its_images_in_low_resolution_beside_them():
    batch = Training(RECIPE, DATASET).batch(3)
    assert batch["image"].shape == (4, 8, 12, 2) and batch["image"].dtype == np.float32
    for x_0, beside in zip(batch["x_0"], batch["image"], strict=True):
        small = by_pillow((x_0 + 1) / 2, 2, 3)
        np.testing.assert_allclose((beside + 1) / 2, by_pillow(small, 8, 12), atol=2e-6)


def test_a_flat_image_stays_as_it_is():
    flat = np.full((1, 8, 12, 1), 0.3)
    np.testing.assert_allclose(image_beside(shrunk(flat, 4), (8, 12), "float64"), -0.4, atol=1e-14)
    y = (0.5**0.5 - 0.2**0.5) / (1.2**0.5 - 0.2**0.5)  # flat is 0.3
    np.testing.assert_allclose(image_beside(shrunk(flat, 4), (8, 12), "float64", 0.2), 2 * y - 1, atol=1e-14)


def test_images_drawn_while_it_trains_are_held_out_ones():
    found = own_condition(RECIPE, DATASET, range(3), 0)["image"]
    wanted = image_beside(shrunk(IMAGES[[8, 9, 8]], 4), (8, 12), "float32")
    assert np.array_equal(found, wanted)
