"""The diffusion model in PyTorch. May import core and torch, never the other twin. Twin: tf_impl.

The functions below are those of core.library.
They import PyTorch when they are called, so that --help is fast.
"""

from __future__ import annotations

from core.library import Library
from core.twin import Twin

__all__ = ["load", "load_recipe", "load_unet", "train", "training"]

_library = Library(Twin(__name__))
load, load_recipe, load_unet = _library.load, _library.load_recipe, _library.load_unet
train, training = _library.train, _library.training
EXPORT_FORMATS = {
    "torch-export": (".pt2", "for torch.export.load; stands alone"),
    "onnx": (".onnx", "for onnxruntime and others; stands alone; needs: pip install onnx onnxruntime"),
}
