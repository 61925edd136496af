"""Make `import torchvision` work beside a CPU build of PyTorch; importing this module first is enough.

The wheel on the package index is linked to CUDA, so beside a CPU torch its operators do not load, and `import
torchvision` ends with "operator torchvision::nms does not exist". What imports it here (pytorch-fid,
torch-fidelity, and diffusers where it is installed) calls none of its operators: two names, declared, are all that
is missing. Where its operators load, or it is not installed, nothing is done.
"""

import importlib.util
from pathlib import Path

import torch


def operators_load(package: Path) -> bool:
    """Whether torchvision's library loads, as torchvision/extension.py tries it."""
    try:
        for library in package.glob("_C.*"):
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


FOUND = importlib.util.find_spec("torchvision")
if FOUND is not None and not operators_load(Path(FOUND.origin).parent):
    LIBRARY = torch.library.Library("torchvision", "DEF")  # the declarations live as long as this object
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
