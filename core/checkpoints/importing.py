"""Networks as others saved them: one file or shards, old attention names, half precision -> canonical weights.

A pickle is read by a function that a twin hands in.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.checkpoints import pretrained
from core.checkpoints.checkpoint import WEIGHTS_FILE, resolve_checkpoint
from core.checkpoints.diffusers_config import OWN_KEYS, PATCH_CLASS, VECTOR_CLASS, unet_from_diffusers
from core.checkpoints.sums import check_sums
from core.config import ModelConfig
from core.config.recipes import load_recipe
from core.networks.specs import check_weights
from core.reading import read_json, read_tensors, reading

logger = logging.getLogger(__name__)

Tensors = dict[str, np.ndarray]
PICKLE_FILE = "diffusion_pytorch_model.bin"
# diffusers before 0.13 -> since then.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Network:
    """A network on disk: its configuration, every weight by canonical name, and the files that they stand in."""

    config: ModelConfig
    weights: Tensors
    files: tuple[Path, ...]


def refuse_pickle(path: Path) -> Tensors:
    """What a reader of pickles does where there is none.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"{path}: a pickle, which only PyTorch's import reads; convert it: python -m torch_impl import FOLDER --out OUT"
    )


def weight_files(folder: Path) -> list[Path]:
    """The files of a model folder's weights: safetensors, its shards, or else pickles.

    Raises:
        ValueError: none of them, or an index that is damaged.
    """
    for name in (WEIGHTS_FILE, PICKLE_FILE):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if (
                not isinstance(shards, dict)
                or not shards
                or not all(isinstance(n, str) and Path(n).name == n for n in shards.values())
            ):
                raise ValueError(f"{index}: holds no weight_map from tensors to files beside it")
            return [folder / shard for shard in sorted(set(shards.values()))]
    raise ValueError(f"{folder / WEIGHTS_FILE}: no such file, nor its shards' index, nor {PICKLE_FILE}")


def read_weights(files: list[Path], read_pickle: Callable[[Path], Tensors] = refuse_pickle) -> Tensors:
    """Every tensor of a network's files, as float32 or float64, under the names of today.

    Args:
        files: safetensors files, which end so, or pickles.
        read_pickle: a twin's reader of a pickled state_dict.
    Raises:
        ValueError: a damaged file, a tensor that occurs twice, or one that is not of floating point.
    """
    found: Tensors = {}
    for path in files:
        tensors = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
        for name, value in _widened(tensors, path).items():
            name, value = _modern(name, value)
            if name in found:
                raise ValueError(f"{path}: {name} occurs twice (its old name counts)")
            found[name] = value
    return found


def _widened(tensors: Mapping[str, np.ndarray], path: Path) -> Tensors:
    """Half precision as float32, with a warning unless it is pretrained:NAME; float32 and float64 as they are."""
    for name, value in tensors.items():  # TensorFlow gives NumPy a bfloat16
        if value.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(f"{path}: {name} is of type {value.dtype}, not of floating point")
    half = {name: value for name, value in tensors.items() if value.dtype.name in ("float16", "bfloat16")}
    level = logging.DEBUG if path.is_relative_to(pretrained.FOLDER) else logging.WARNING
    for kind in sorted({value.dtype.name for value in half.values()}):
        logger.log(level, "%s: %s weights are made float32", path, kind)
    return {**tensors, **{name: value.astype(np.float32) for name, value in half.items()}}


def _modern(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """An attention's old name as today's, its 1x1 convolution as a matrix; anything else as it is."""
    *path, part, leaf = ("", *name.split("."))
    if "attentions" not in path:
        return name, value
    if part in OLD_ATTENTION:
        name = ".".join((*path[1:], OLD_ATTENTION[part], leaf))
    return name, value[:, :, 0, 0] if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def read_network(
    path: str | Path,
    read_pickle: Callable[[Path], Tensors] = refuse_pickle,
    kind: str = "ema",
    changed_weights: bool = False,
) -> Network:
    """A network from a run, a pipeline folder or a bare model folder.

    Args:
        path: holds `unet/config.json` (a pipeline or checkpoint), or `config.json` beside the weights (as diffusers'
            `save_pretrained` writes them).
        read_pickle: a twin's reader of a pickled state_dict; pickles are refused without one.
        kind: 'ema', the weights of `unet`, or 'raw', those of the last step of a training.
        changed_weights: accept weights of a checkpoint that were changed after it was saved.
    Returns:
        The network.
    Raises:
        ValueError: unsupported configuration, weights that do not fit it exactly, raw weights where there are none,
            or a file that is damaged or was changed.
    """
    root = resolve_checkpoint(path)
    folder = root / "unet" if (root / "unet" / "config.json").is_file() else root
    files = weight_files(folder) if kind == "ema" else [root / "training_state.safetensors"]
    if kind == "raw" and not files[0].is_file():
        raise ValueError(f"--weights raw: {root} has no training state, only one set of weights; use ema")
    names = [file.relative_to(root).as_posix() for file in files]
    records = [name for name in ("recipe.json", "data.json") if (root / name).is_file()]
    check_sums(root, [*records, *names], names if changed_weights else ())
    with reading(folder / "config.json", "a network's configuration", "save the network again"):
        values = read_json(folder / "config.json")
        config = unet_from_diffusers(values, str(folder / "config.json"))
    if (root / "recipe.json").is_file():  # what diffusers' keys do not say
        model = load_recipe(root / "recipe.json").model
        config = dataclasses.replace(config, **{key: getattr(model, key) for key in OWN_KEYS})
    elif values.get("_class_name") in (VECTOR_CLASS, PATCH_CLASS):
        raise ValueError(f"{folder}: no recipe.json, which completes its config.json; name the whole checkpoint")
    if kind == "ema":
        weights = read_weights(files, read_pickle)
    else:
        state = read_tensors(files[0])
        weights = {n.removeprefix("params/"): value for n, value in state.items() if n.startswith("params/")}
    check_weights(weights, config, str(files[0]) if len(files) == 1 else f"{files[0]} ... {files[-1].name}")
    return Network(config, weights, tuple(files))


def read_unet(folder: str | Path) -> tuple[ModelConfig, Tensors]:
    """The configuration and weights of read_network(), without pickles."""
    network = read_network(folder)
    return network.config, network.weights
