"""The lens extractor's trained weights in the repository: a safetensors file, and a JSON file beside it.

The JSON file holds the SHA-256 of the weights, how they were made, and their scores on held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.extractors.lens import check_lens_weights
from core.files import file_hash, write_json, write_tensors
from core.reading import read_json, read_tensors

FOLDER = Path(__file__).parent
WEIGHTS, MANIFEST = "lens_extractor.safetensors", "lens_extractor.json"


def read_lens_weights(folder: Path = FOLDER) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The weights and their manifest.

    Args:
        folder: where both files are.
    Returns:
        Every parameter by name, float32; and the manifest: sha256, command, training, scores.
    Raises:
        ValueError: a file missing or damaged, or weights that are not those of the manifest.
    """
    manifest, path = read_json(folder / MANIFEST), folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    found = file_hash(path)
    if found != manifest.get("sha256"):
        raise ValueError(
            f"{path}: SHA-256 {found[:16]}..., {MANIFEST} says {str(manifest.get('sha256'))[:16]}...: not the weights "
            "that were scored; restore both files, or train again with python -m torch_impl.train_lens_extractor"
        )
    weights = read_tensors(path)
    check_lens_weights(weights, str(path))
    return weights, manifest


def write_lens_weights(folder: Path, weights: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write both files; the manifest gets the weights' SHA-256.

    Args:
        folder: made where it is missing.
        weights: every parameter by name.
        manifest: what to say beside the hash.
    Raises:
        ValueError: not the extractor's parameters.
    """
    check_lens_weights(weights, "weights")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, weights)
    write_json(folder / MANIFEST, {"sha256": file_hash(folder / WEIGHTS), **manifest})
