"""The network as a file for another runtime: SavedModel and .keras, NHWC. Twin: torch_impl/export.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from core.twin import Exported
from tf_impl.weights import build_unet


def export(
    config: ModelConfig, weights: Mapping[str, np.ndarray], format: str, path: Path, batch: Mapping[str, np.ndarray]
) -> Exported:
    """Write the network, open the file with its own runtime, and evaluate both on a batch.

    Args:
        config: the network.
        weights: every parameter by canonical name (OIHW).
        format: saved-model or keras.
        path: folder or file to write.
        batch: three inputs: x (3, H, W, C) float32, t (3,) float32; for a class-conditional network labels (3,) int64.
    Returns:
        Both outputs, and entries of the manifest.
    """
    network = build_unet(config, weights)
    inputs = {name: tf.constant(value) for name, value in batch.items()}
    expected = network(**inputs).numpy()
    if format == "keras":
        network.save(path)
        opened = keras.saving.load_model(path, compile=False, safe_mode=True)
        open_with = "import tf_impl.weights; keras.saving.load_model(FILE)"
        details = {"layout": "NHWC", "image_size": "free", "stands_alone": False, "open_with": open_with}
        return Exported(expected, opened(**inputs).numpy(), details)
    function = tf.function(lambda **tensors: {"output": network(**tensors)}, autograph=False)
    specs = {name: tf.TensorSpec((None, *value.shape[1:]), value.dtype, name) for name, value in batch.items()}
    module = tf.Module()
    module.parameters = [variable.value for variable in network.variables]  # only variables reachable from it are saved
    tf.saved_model.save(module, str(path), signatures=function.get_concrete_function(**specs))
    found = tf.saved_model.load(str(path)).signatures["serving_default"](**inputs)["output"].numpy()
    open_with = "tf.saved_model.load(FOLDER).signatures['serving_default']"
    details = {"layout": "NHWC", "image_size": "fixed", "stands_alone": True, "open_with": open_with}
    return Exported(expected, found, details)
