"""Where the parameters of Inception stand in the TensorFlow graph that was published (`classify_image_graph_def.pb`).

The names follow from the plan: convolutions are numbered within their scope (`conv`, `conv_1`, ...), blocks are `mixed`
to `mixed_10`, a branch of more than one layer is a `tower` of its block, and a fork inside a tower is its `mixed`.
"""

from __future__ import annotations

from core.extractors.inception import STAGES, Conv, Fork, Layer

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def graph_constants() -> dict[str, str]:
    """Name of the graph's constant for every parameter by its published PyTorch name.

    Kernels are HWIO in the graph, and `softmax/weights` is (in, out).

    Source: torch-fidelity, utils/util_convert_inception_weights.py, where the same names stand as a list.
    """
    constants = {}
    for conv, scope in _scopes(tuple(layer for stage in STAGES for layer in stage.layers), "").items():
        constants[f"{conv}.conv.weight"] = f"{scope}/conv2d_params"
        constants |= {f"{conv}.bn.{ours}": f"{scope}/batchnorm/{theirs}" for ours, theirs in _NORM.items()}
    return constants | {"fc.weight": "softmax/weights", "fc.bias": "softmax/biases"}


def _scopes(layers: tuple[Layer, ...], inside: str) -> dict[str, str]:
    """Scope of every convolution of a chain of layers that stands in the scope `inside`."""
    found: dict[str, str] = {}
    convs = [layer for layer in layers if isinstance(layer, Conv)]
    forks = [layer for layer in layers if isinstance(layer, Fork)]
    found |= {conv.name: f"{inside}{_numbered('conv', i)}" for i, conv in enumerate(convs)}
    for index, fork in enumerate(forks):
        block = f"{inside}{_numbered('mixed', index)}/"
        alone = [branch for branch in fork.branches if len(branch) == 1]
        towers = [branch for branch in fork.branches if len(branch) > 1]
        found |= _scopes(tuple(layer for branch in alone for layer in branch), block)
        for number, tower in enumerate(towers):
            found |= _scopes(tower, f"{block}{_numbered('tower', number)}/")
    return found


def _numbered(name: str, index: int) -> str:
    """TensorFlow's way to keep names apart: the first one has no number."""
    return f"{name}_{index}" if index else name
