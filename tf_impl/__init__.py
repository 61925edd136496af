"""The diffusion model in Keras 3 on TensorFlow. May import core, keras and tensorflow, never the other twin.

Twin: torch_impl. The functions below are those of core.library.
They import TensorFlow when they are called, so that --help is fast.
"""

from __future__ import annotations

import os

from core.library import Library
from core.twin import Twin

# The frameworks read these variables when they are first imported. TensorFlow turns oneDNN on by itself only where the
# CPU has AVX-512. On a CPU with AVX2 alone, convolutions without oneDNN run at half the speed.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__all__ = ["load", "load_recipe", "load_unet", "train", "training"]

_library = Library(Twin(__name__))
load, load_recipe, load_unet = _library.load, _library.load_recipe, _library.load_unet
train, training = _library.train, _library.training
EXPORT_FORMATS = {
    "saved-model": ("", "for tf.saved_model.load and TensorFlow Serving; stands alone"),
    "keras": (
        ".keras",
        "for keras.saving.load_model beside `import tf_impl.weights`, so in this checkout; any image size",
    ),
}
