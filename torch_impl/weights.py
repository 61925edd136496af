"""The network's weights from and to arrays with canonical names and layout. Twin: tf_impl/weights.py."""

from __future__ import annotations

import logging
import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from core.checkpoints.importing import read_unet
from core.config import ModelConfig
from core.networks.specs import check_weights
from core.reading import check_file, reading
from torch_impl.baseline_unet import BaselineUNet
from torch_impl.chart_net import ChartNet
from torch_impl.unet import UNet

Net = UNet | BaselineUNet | ChartNet
NETWORKS: dict[str, type[Net]] = {"unet": UNet, "baseline": BaselineUNet, "chart": ChartNet}

CHANNELS_LAST_FROM = 8192
"""Number of values of the first layer's output for one image from which convolutions are faster in channels_last."""

logger = logging.getLogger(__name__)


def build_unet(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Net:
    """A network with given weights, in evaluation mode.

    Args:
        config: the network.
        weights: every parameter by canonical name (OIHW).
        dtype: float32 or float64.
    """
    network = NETWORKS[config.architecture](config).to(getattr(torch, dtype))
    set_weights(network, weights)
    if math.prod(config.sample_size) // config.patch_size**2 * config.block_out_channels[0] >= CHANNELS_LAST_FROM:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def get_weights(network: Net) -> dict[str, np.ndarray]:
    """Copies of every parameter, by canonical name and in the canonical layout."""
    return {name: p.detach().cpu().numpy().copy() for name, p in network.named_parameters()}


@torch.no_grad()
def set_weights(network: Net, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of a network.

    Args:
        network: the network to change.
        weights: every parameter by canonical name (OIHW).
    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """
    check_weights(weights, network.config, "weights")
    for name, p in network.named_parameters():
        p.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


def load_unet(folder: str | Path, dtype: str = "float32") -> Net:
    """Open the network of a run, a checkpoint, a diffusers pipeline folder or a bare model folder.

    Args:
        folder: as core.checkpoints.importing.read_network() takes it.
        dtype: float32 or float64.
    Returns:
        The network in evaluation mode. It takes x (B, C, H, W), t (B,) and the condition by keyword.
    Raises:
        ValueError: the configuration or the weights are not supported.
    """
    config, weights = read_unet(folder)
    return build_unet(config, weights, dtype)


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a pickled state_dict; bfloat16 becomes float32.

    Raises:
        ValueError: the file is damaged, or holds anything but tensors by name.
    """
    with reading(path, "a whole pickle of tensors alone", "save the weights as safetensors"):
        check_file(path, 4)
        _check_archive(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tensors = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # its text advises to load the file with all that it holds, which may be code
            raise ValueError(
                f"{path}: not a whole pickle of tensors alone; damaged, or with other objects, which are never loaded; "
                "save the weights as safetensors"
            ) from error
        if not isinstance(tensors, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
        ):
            raise ValueError(f"{path}: holds more than tensors by name")
        if any(value.dtype == torch.bfloat16 for value in tensors.values()):
            logger.warning("%s: bfloat16 weights are made float32", path)
        return {name: _to_array(value) for name, value in tensors.items()}


def _check_archive(path: Path) -> None:
    """Refuse a zip that unpacks to more bytes than it has; torch.save stores without compression."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                raise ValueError("its parts are larger than the file")


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array; one that claims more elements than are stored is refused."""
    tensor = tensor.detach()
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} on {tensor.untyped_storage().nbytes()} bytes")
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
