"""Reading the file that the verb `features` writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def read_features(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The features (N, d) by tap, and the manifest."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    return arrays, json.loads(str(arrays.pop("manifest")))
