"""The network as a file for another runtime, NCHW: torch.export, and ONNX by core's graph. Twin: tf_impl/export.py."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.config import ModelConfig
from core.networks.onnx_model import OPSET, onnx_model
from core.twin import Exported
from torch_impl.sampler import to_numpy
from torch_impl.weights import build_unet


@torch.no_grad()
def export(
    config: ModelConfig, weights: Mapping[str, np.ndarray], format: str, path: Path, batch: Mapping[str, np.ndarray]
) -> Exported:
    """Write the network, open the file with its own runtime, and evaluate both on a batch.

    Args:
        config: the network.
        weights: every parameter by canonical name (OIHW).
        format: torch-export or onnx.
        path: file to write.
        batch: three inputs: x (3, H, W, C) float32, t (3,) float32; for a class-conditional network labels (3,) int64.
    Returns:
        Both outputs, and entries of the manifest.
    Raises:
        ValueError: the package onnx is not installed.
    """
    network = build_unet(config, weights)
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    inputs["x"] = inputs["x"].permute(0, 3, 1, 2).contiguous()
    expected = to_numpy(network(**inputs))
    details: dict[str, Any] = {"layout": "NCHW", "image_size": "fixed", "stands_alone": True}
    if format == "onnx":
        if find_spec("onnx") is None:
            raise ValueError("--format onnx needs onnx: pip install onnx")
        path.write_bytes(onnx_model(config, weights))
        details |= {"onnx": version("onnx"), "opset": OPSET, "open_with": "onnxruntime.InferenceSession(FILE)"}
        return Exported(expected, _run_onnx(path, inputs), details)
    # Traced with two images and evaluated on three, so that a batch size fixed by mistake shows.
    examples = tuple(value[:2].contiguous() for value in inputs.values())
    free = torch.export.Dim("batch")
    program = torch.export.export(network, examples, dynamic_shapes={name: {0: free} for name in inputs})
    _forget_sources(program)
    torch.export.save(program, path)
    found = to_numpy(torch.export.load(path).module()(*inputs.values()))
    return Exported(expected, found, {**details, "open_with": "torch.export.load(FILE).module()"})


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Drop the stack trace of each operation, since the file would name the folders of this machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


def _run_onnx(path: Path, inputs: Mapping[str, torch.Tensor]) -> np.ndarray | None:
    """The file's output in onnxruntime, (B, H, W, C); None where onnxruntime is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output: Any = session.run(["output"], {name: value.numpy() for name, value in inputs.items()})[0]
    return output.transpose(0, 2, 3, 1)
