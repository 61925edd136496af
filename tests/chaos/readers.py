"""The readers under attack, one row each: how to make whole files, how to read them, and which changes are harmless.

Contents are compared as plain values: dicts, lists, arrays, numbers and text.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import io
import json
import math
import pickle
import re
import shutil
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, resolve_checkpoint, write_pipeline
from core.checkpoints.importing import PICKLE_FILE, read_network, refuse_pickle
from core.checkpoints.run_folder import RunFolder
from core.checkpoints.scheduler_config import scheduler_to_diffusers
from core.checkpoints.sums import make_progress
from core.checkpoints.trained import Trained, open_trained
from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import load_recipe, to_dict
from core.data.dataset import open_dataset
from core.data.pickles import convert_pickles
from core.data.source import Source
from core.data.sources import open_source
from core.extractors.features import EXTRACTORS, read_weights
from core.files import write_json, write_npz, write_tensors
from core.images import save_png
from core.inference.conditioning import asked_condition
from core.inference.editing import read_hole
from core.inference.given_images import given_images
from core.inference.measuring import read_operator
from core.networks.specs import initial_weights
from core.reading import read_json
from eval.measure.fid import differences
from eval.measure.fid import read_result as published_result
from eval.measure.image_sets import read_image_set
from eval.verbs.demo_folder import open_demo, read_metrics
from tests.chaos.mutations import DIRECTORY, LIMIT

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 8, 9)).astype(np.float32)
NETWORK = ModelConfig(
    (8, 8), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,), norm_num_groups=4
)
MODEL = dataclasses.replace(NETWORK, num_class_embeds=2, vector_channels=1)
RECIPE = Recipe(
    MODEL, ProcessConfig(timesteps=100, prediction="v"), DataConfig(condition=("theta_e",)), TrainingConfig(steps=7)
)
CONDITION = {"names": ["theta_e"], "mean": [1.0], "std": [0.5], "min": [0.1], "max": [2.5], "rows": [[0.5], [1.5]]}
DATA = {"sha256": "0" * 64, "class_names": ["a", "b"], "labels": {"a": 3, "b": 3}, "condition": CONDITION}
COUNTERS = {"adam_steps": 2, "skipped": 0, "skipped_in_a_row": 0}
PROGRESS = make_progress(RECIPE, 2, COUNTERS, 1.5)


@dataclass(frozen=True)
class Case:
    """A damaged file and what was there before."""

    target: str
    """Path of the file in the reader's folder."""
    label: str
    """Names of the mutations."""
    before: bytes
    data: bytes | None
    content: Any
    """What the reader gave for the whole files; None where it refuses them, too."""


@dataclass(frozen=True)
class Reader:
    """A row of the table."""

    make: Callable[[Path], None]
    """Writes whole files into an empty folder."""
    targets: tuple[str, ...]
    """Files to damage."""
    read: Callable[[Path, str], Any]
    """Folder and target -> content. Its ValueError is what the command line prints."""
    legitimate: Callable[[Case, Any], bool]
    """Whether a content that differs from before is what the damaged file says, and not a misreading."""
    share: float = 1.0
    """Cases, as a multiple of the other readers'."""
    refused: bool = False
    """Whether even the whole files are refused."""


# Images


def _content(source: Source) -> dict[str, Any]:
    return {
        "images": [source.read(index) for index in range(len(source.names))],
        "labels": source.labels,
        "class_names": list(source.class_names),
        "parameters": dict(source.parameters),
    }


def read_images(folder: Path, target: str) -> Any:
    """The images of a file."""
    return _content(open_source(folder / target))


def read_folder(folder: Path, target: str) -> Any:
    """The images of the whole folder."""
    return _content(open_source(folder))


def read_idx(folder: Path, target: str) -> Any:
    """The images that belong to an IDX file of images or labels."""
    return _content(open_source(folder / target.replace("labels-idx1", "images-idx3")))


def make_npy(folder: Path) -> None:
    """A stack, and one image."""
    np.save(folder / "stack.npy", IMAGES)
    np.save(folder / "columns.npy", np.asfortranarray(IMAGES.astype(">f8")))


def make_npz(folder: Path) -> None:
    """Images, labels, names and a parameter; once by name, once by position."""
    labels, names = np.array([0, 1, 1, 0, 2, 2]), np.array(["a", "b", "c"])
    write_npz(
        folder / "named.npz", {"images": IMAGES, "labels": labels, "class_names": names, "theta_e": IMAGES[:, 0, 0]}
    )
    np.savez_compressed(folder / "plain.npz", IMAGES, labels.astype(np.uint8))


def make_idx(folder: Path) -> None:
    """Images and labels, plain and gzipped."""
    images = b"\0\0\x08\x03" + np.array(IMAGES.shape, ">u4").tobytes() + (IMAGES * 255).astype(np.uint8).tobytes()
    labels = b"\0\0\x08\x01" + np.array([6], ">u4").tobytes() + bytes((0, 1, 1, 0, 2, 2))
    for name, data in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        (folder / f"a-{name}").write_bytes(data)
        (folder / f"b-{name}.gz").write_bytes(gzip.compress(data, mtime=0))


PICTURES = ("grey.png", "deep.png", "colour.png", "palette.png", "a.jpg", "a.bmp", "a.tif", "packed.tif", "a.webp")


def make_pictures(folder: Path) -> None:
    """One of every kind."""
    from PIL import Image

    save_png(folder / "grey.png", IMAGES[0])
    colour = Image.fromarray((RNG.random((16, 12, 3)) * 255).astype(np.uint8))
    Image.fromarray((IMAGES[1] * 65535).astype(np.uint16)).save(folder / "deep.png")
    colour.quantize(16).save(folder / "palette.png")
    for name in ("colour.png", "a.jpg", "a.bmp", "a.tif", "a.webp"):
        colour.save(folder / name)
    colour.save(folder / "packed.tif", compression="tiff_lzw")


def make_folder(folder: Path) -> None:
    """Two classes of arrays."""
    for index, image in enumerate(IMAGES[:4]):
        path = folder / "ab"[index % 2] / f"{index}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, image)


def make_zip(folder: Path) -> None:
    """Two classes of arrays, and of pictures, in zips."""
    for kind in ("npy", "png"):
        with zipfile.ZipFile(folder / f"{kind}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for index, image in enumerate(IMAGES[:4]):
                stream = folder / f"image.{kind}"
                np.save(stream, image) if kind == "npy" else save_png(stream, image)
                archive.writestr(f"{'ab'[index % 2]}/{index}.{kind}", stream.read_bytes())
                stream.unlink()


def whole_npy(data: bytes) -> bool:
    """Whether bytes are a .npy file of the size that its header says."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return len(data) == stream.tell() + math.prod(shape) * dtype.itemsize


def whole_idx(data: bytes) -> bool:
    """Whether bytes are an IDX file of the size that its header says."""
    shape = np.frombuffer(data, ">u4", data[3], 4).tolist()
    size = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}[data[2]]
    return data[:2] == b"\0\0" and len(data) == 4 + 4 * data[3] + math.prod(shape) * size


def whole_png(data: bytes) -> bool:
    """Whether every chunk up to the one that ends the file has its checksum."""
    at = 8
    while data[at + 4 : at + 8] not in (b"IEND", b""):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return data[at + 4 : at + 8] == b"IEND"


def whole_zip(data: bytes) -> bool:
    """Whether an archive has all members that its bytes show, each once, and all but hidden ones whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        shown = [info for info in archive.infolist() if not re.search(r"(^|/)\.", info.filename)]
        wholes = [whole(info.filename, archive.open(info).read(LIMIT)) for info in shown]
        return len(names) == len(set(names)) == data.count(b"PK\x01\x02") and all(wholes)


def whole(name: str, data: bytes) -> bool:
    """Whether bytes are a whole file of the kind that its name says; of kinds without checksums nothing is known."""
    checks = {".npy": whole_npy, ".png": whole_png, ".npz": whole_zip, ".zip": whole_zip, "-ubyte": whole_idx}
    if name.endswith(".gz"):
        name, data = name.removesuffix(".gz"), gzip.GzipFile(fileobj=io.BytesIO(data)).read(LIMIT)
    return next((check(data) for end, check in checks.items() if name.endswith(end)), True)


def whole_images(case: Case, found: Any) -> bool:
    """Whether a damaged file of images is a whole file again: then other values are its own."""
    if case.data is None or case.data == DIRECTORY:
        return "/" in case.target or "labels" in case.target  # one image fewer in a folder, or no labels
    if case.label in ("truncate", "empty") or (case.label == "text" and not case.data.startswith(b"{")):
        return False
    if not case.target.endswith((".png", ".jpg", ".bmp", ".tif", ".webp")):
        return whole(case.target, case.data)
    return not case.data.startswith(b"\x89PNG") or whole_png(case.data)  # the others have no checksums


# Pickled images


def make_pickles(folder: Path) -> None:
    """DeepLenseSim's files, as NumPy writes them."""
    for index, protocol in enumerate((3, 4)):
        content = np.empty(2, object)
        content[:] = IMAGES[index].astype(np.float64), np.float64(0.1)
        stream = io.BytesIO()
        header = {"descr": "|O", "fortran_order": False, "shape": (2,)}
        np.lib.format.write_array_header_1_0(stream, header)
        (folder / f"{index}.npy").write_bytes(stream.getvalue() + pickle.dumps(content, protocol))


def read_pickles(folder: Path, target: str) -> Any:
    """What convert-pickles writes."""
    out = folder / "out"
    convert_pickles(folder, out, trusted=True)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def whole_pickles(case: Case, found: Any) -> bool:
    """Whether everything that was written is whole."""
    return all(whole(name, data) for name, data in found.items())


# Recipes, checkpoints, runs


def make_recipe(folder: Path) -> None:
    """The recipe as JSON, and in part as TOML."""
    write_json(folder / "recipe.json", to_dict(RECIPE))
    lines = []
    for table, values in to_dict(RECIPE).items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(v)}" for key, v in values.items() if v is not None)]
    (folder / "recipe.toml").write_text("\n".join(lines) + "\n")


def read_recipe(folder: Path, target: str) -> Any:
    """The recipe."""
    return to_dict(load_recipe(folder / target))


def _values(case: Case) -> Any:
    assert case.data is not None
    text = case.data.decode()
    return tomllib.loads(text) if case.target.endswith(".toml") else json.loads(text)


def carries(found: Any, given: Any) -> bool:
    """Whether a content has every value that a file gives; a number may become a float, 'none' is null."""
    if isinstance(given, dict):
        return isinstance(found, dict) and all(key in found and carries(found[key], v) for key, v in given.items())
    if isinstance(given, list):
        return isinstance(found, list) and len(found) == len(given) and all(map(carries, found, given))
    if given == "none":
        return found in (None, "none")
    if isinstance(given, int) and found == [given, given]:  # model.sample_size
        return not isinstance(given, bool)
    if isinstance(found, float) and isinstance(given, int) and not isinstance(given, bool):
        return found == float(given)
    return bool(found == given) and isinstance(found, bool) == isinstance(given, bool)


def recipe_carries(case: Case, found: Any) -> bool:
    """Whether the recipe has what the file says."""
    return carries(found, _values(case))


def make_run(folder: Path) -> None:
    """A run with a checkpoint, its metrics, and the best checkpoint."""
    run = RunFolder(folder)
    run.create(RECIPE)
    state = {
        f"{part}/{n}": v for part in ("params", "exp_avg", "exp_avg_sq") for n, v in initial_weights(MODEL, 1).items()
    }
    run.save(Checkpoint(RECIPE, initial_weights(MODEL, 0), state, PROGRESS, DATA), 0, best=True)
    for step in (1, 2, 3):
        run.log(
            {"step": step, "loss": 0.5 / step, "images_per_second": 9.5, "seconds": 1.0 * step, "distance": 2.0 / step}
        )


STEP = "checkpoints/step-00000002"


def make_old_run(folder: Path) -> None:
    """The same without the sums of the checkpoint's files, as earlier versions saved it."""
    make_run(folder)
    path = folder / STEP / "training_state.json"
    write_json(path, {**{key: value for key, value in read_json(path).items() if key != "files"}, "format": 1})


def read_checkpoint(folder: Path, target: str) -> Any:
    """A checkpoint as training resumes it and as sampling opens it."""
    loaded = load_checkpoint(folder / STEP)
    found = open_trained(resolve_checkpoint(folder / STEP))
    open_trained(folder / STEP, "raw")
    asked = asked_condition(found.classes, found.data, range(3), 0, numbers={"theta_e": 0.7})
    progress = {key: loaded.progress.get(key, value) for key, value in PROGRESS.items()}  # older ones lack some
    return {"recipe": to_dict(loaded.recipe), "ema": loaded.ema, "state": loaded.state, "progress": progress, **asked}


def checkpoint_consistent(case: Case, found: Any) -> bool:
    """Whether a changed recipe is carried, changed values keep their kind, and tensors their names and shapes."""
    if case.target.endswith(".safetensors"):
        return same_arrays(case.content["ema"], found["ema"]) and same_arrays(case.content["state"], found["state"])
    if case.target.endswith("recipe.json"):
        return recipe_carries(case, found["recipe"])
    return same_kinds(case.content, found)


def same_arrays(before: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> bool:
    """Whether arrays have the same names, shapes and dtypes."""
    return before.keys() == found.keys() and all(
        found[name].shape == value.shape and found[name].dtype == value.dtype for name, value in before.items()
    )


def same_kinds(before: Any, found: Any) -> bool:
    """Whether values kept their types: a whole number is a number, a truth value is not."""
    if isinstance(before, dict):
        return isinstance(found, dict) and all(k in found and same_kinds(v, found[k]) for k, v in before.items())
    if isinstance(before, list):
        return isinstance(found, list) and all(same_kinds(before[0], v) for v in found) if before else True
    if isinstance(before, np.ndarray):
        return isinstance(found, np.ndarray) and found.dtype == before.dtype and found.ndim == before.ndim
    if isinstance(before, float):
        return isinstance(found, (int, float)) and not isinstance(found, bool)
    if isinstance(before, int):
        return type(found) is type(before) and (found >= 0 or before < 0)
    return type(found) is type(before)


def read_run(folder: Path, target: str) -> Any:
    """What a resumed run goes on from, and its metrics."""
    run = RunFolder(folder)
    last = run.load_last()
    assert last is not None
    best = resolve_checkpoint(folder / "best") if (folder / "best").is_file() else None
    run.recover(2)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    distance = run.best_distance()
    return {
        "checkpoint": resolve_checkpoint(folder).relative_to(folder).as_posix(),
        "best": None if best is None else best.relative_to(folder).as_posix(),
        "step": last.progress["step"],
        "lines": lines,
        "distance": distance if math.isfinite(distance) else None,
    }


def run_consistent(case: Case, found: Any) -> bool:
    """Whether the checkpoint is the one that there is, and no whole line of metrics was lost or made up."""
    if found["checkpoint"] != STEP or found["best"] not in (STEP, None):
        return False
    if case.target != "metrics.jsonl":
        return bool(found["lines"] == case.content["lines"])
    if case.data is None:
        return bool(found["lines"] == [])

    def kept(line: bytes) -> bool:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return False
        step = value.get("step") if isinstance(value, dict) else None
        return type(step) is int and 0 <= step <= 2 and math.isfinite(value.get("loss") or 0)

    lines = [line for line in case.data.splitlines() if kept(line)]
    return all(kept(line.encode()) for line in found["lines"]) and len(found["lines"]) == len(lines)


def make_pipeline(folder: Path) -> None:
    """A diffusers pipeline, of which nothing says how it was trained."""
    write_pipeline(
        folder, NETWORK, initial_weights(NETWORK, 0), scheduler_to_diffusers(RECIPE.process, SamplingConfig())
    )


def make_shards(folder: Path) -> None:
    """The same with its weights in two files of half precision."""
    from safetensors.numpy import save_file

    make_pipeline(folder)
    weights = initial_weights(NETWORK, 0, "float16")
    names = sorted(weights)
    (folder / "unet" / WEIGHTS_FILE).unlink()
    shards = {f"part-{i}.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / "unet" / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    write_json(folder / "unet" / f"{WEIGHTS_FILE}.index.json", index)


def read_pipeline(folder: Path, target: str) -> Any:
    """Network, process and sampler."""
    found = open_trained(resolve_checkpoint(folder))
    parts = (found.model, found.process, found.sampling)
    return {"parts": [to_dict(part) for part in parts], "weights": found.weights}


def pipeline_consistent(case: Case, found: Any) -> bool:
    """Whether changed JSON values keep their kind, and changed tensors their names, shapes and dtypes."""
    if not same_arrays(case.content["weights"], found["weights"]):
        return False
    if not case.target.endswith(".json"):
        return True
    values, before = _values(case), json.loads(case.before)
    changed = {k: v for k, v in values.items() if v is not None and before.get(k) is not None}
    if isinstance(changed.get("sample_size"), int) and isinstance(before.get("sample_size"), list):
        changed["sample_size"] = [changed["sample_size"]] * 2  # a square image, as diffusers writes it
    if str(changed.get("attention_head_dim")).endswith(".0"):
        changed["attention_head_dim"] = int(changed["attention_head_dim"])  # as some pipelines of diffusers have it
    return same_kinds({k: before[k] for k in changed}, changed)


def make_pickled_weights(folder: Path) -> None:
    """A pipeline whose weights are a state_dict that PyTorch saved, in its present format and in the old one."""
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in initial_weights(NETWORK, 0).items()}
    for name, new in (("new", True), ("old", False)):
        (folder / name).mkdir()
        make_pipeline(folder / name)
        (folder / name / "unet" / WEIGHTS_FILE).unlink()
        torch.save(tensors, folder / name / "unet" / PICKLE_FILE, _use_new_zipfile_serialization=new)


def read_pickled_weights(folder: Path, target: str) -> Any:
    """The network as `import` reads it."""
    from torch_impl.weights import read_pickle

    return {"weights": read_network(folder / target.split("/")[0], read_pickle).weights}


def make_extractor(folder: Path) -> None:
    """The parameters of the lens extractor."""
    shutil.copyfile(EXTRACTORS["lens"].weights_file(), folder / "lens.safetensors")


def read_extractor(folder: Path, target: str) -> Any:
    """The parameters of an extractor as `features --weights` reads them."""
    return {"weights": read_weights("lens", folder / target, refuse_pickle)}


def make_graph(folder: Path) -> None:
    """The first layers of the published graph; TensorFlow is imported here, before any process is forked."""
    import tf_impl.inception  # noqa: F401
    from core.extractors.inception import inception_shapes
    from tests.inception_weights import write_graph

    shapes = [(name, shape) for name, shape in inception_shapes().items() if math.prod(shape) < 1000]
    write_graph(folder / "graph.pb", {name: np.zeros(shape, np.float32) for name, shape in shapes[:12]})


def read_graph(folder: Path, target: str) -> Any:
    """The published weights of Inception, which a part of the graph is not."""
    from tf_impl.inception import read_published

    return read_published(folder / target)


# The cache, saved samples, statistics, results


def make_cache(folder: Path) -> None:
    """A source with a prepared cache."""
    make_npz(folder)
    _open_cache(folder)
    for path in (folder / "cache").rglob("*"):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _open_cache(folder: Path) -> Any:
    config = DataConfig(source=str(folder / "named.npz"), cache=str(folder / "cache"))
    return open_dataset(config, (8, 9, 1))


def read_cache(folder: Path, target: str) -> Any:
    """The prepared images; the damaged file is laid over the cache's own, whose name depends on the source's age."""
    _open_cache(folder)
    place = next((folder / "cache").iterdir()) / target
    place.unlink()
    if (folder / target).is_dir():
        place.mkdir()
    elif (folder / target).is_file():
        shutil.copyfile(folder / target, place)
    dataset = _open_cache(folder)
    manifest = {key: value for key, value in dataset.manifest.items() if key not in ("source", "arrays_sha256")}
    return {**vars(dataset), "images": np.array(dataset.images), "manifest": manifest}


def make_samples(folder: Path) -> None:
    """What `sample` leaves."""
    np.save(folder / "samples.npy", IMAGES[..., None])
    write_json(folder / "manifest.json", {"sampler": "ddim", "steps": 50, "labels": [0, 1, 0, 1, 0, 1], "seed": 0})


def make_statistics(folder: Path) -> None:
    """Saved statistics with and without an account of themselves."""
    x = RNG.random((40, 5))
    gaussian = {"mu": x.mean(axis=0), "sigma": np.cov(x, rowvar=False)}
    about = json.dumps({"n": 40, "extractor": {"name": "lens"}, "split": "held out"})
    write_npz(folder / "own.npz", {"about": np.array(about), **gaussian})
    write_npz(folder / "plain.npz", gaussian)


def make_given_features(folder: Path) -> None:
    """Features of another network, with an account of themselves."""
    rows = np.random.default_rng(5).random((40, 5))
    write_npz(folder / "features.npz", {"features": rows, "manifest": np.array('{"extractor": "dinov2", "n": 40}')})


def read_set(folder: Path, target: str) -> Any:
    """A set of images or statistics as `eval` reads it."""
    found = read_image_set(
        str(folder if target.startswith(("samples", "manifest")) else folder / target), "generated", Path
    )
    values = {"images": found.images, "statistics": found.statistics, "about": found.about}
    return values | ({} if found.features is None else {"features": found.features})


def samples_consistent(case: Case, found: Any) -> bool:
    """Whether images are whole ones, and the account of them is a JSON object."""
    return whole_images(case, found) if case.target.endswith(".npy") else isinstance(found["about"], dict)


def features_consistent(case: Case, found: Any) -> bool:
    """Whether features are finite numbers of a whole file."""
    if "features" not in found:
        return whole_images(case, found)
    rows = found["features"]
    return whole(case.target, case.data or b"") and rows.ndim == 2 and bool(np.isfinite(rows).all())


def statistics_consistent(case: Case, found: Any) -> bool:
    """Whether mean and covariance are such; float32 statistics may be symmetric to a thousandth only."""
    if found["statistics"] is None:
        return whole_images(case, found)
    mu, sigma = found["statistics"]
    covariance = np.allclose(sigma, sigma.T, rtol=1e-3) and bool((np.diag(sigma) >= 0).all())
    return whole(case.target, case.data or b"") and covariance and mu.shape == sigma.shape[:1] and mu.size > 0


RESULT = {
    "n": {"real": 40, "generated": 40},
    "frechet": {"value": 1.5, "low": 1.0, "high": 2.0},
    "floor": {"mean": 0.2},
    "kid": {"value": 0.1},
    "extractor": {"name": "lens", "weights_sha256": "0" * 64, "resize": "clean"},
    "real": {"sha256": "1" * 64},
    "generated": {"sha256": "2" * 64},
}


def make_result(folder: Path) -> None:
    """A result of `eval fid`."""
    write_json(folder / "fid.json", RESULT)


def read_result(folder: Path, target: str) -> Any:
    """How a published result differs from one of now, as `eval fid --expect` says."""
    return differences(published_result(folder / target), RESULT)


# The other files of a run, a demo and an edit


def make_averages(folder: Path) -> None:
    """A run whose averages were kept."""
    training = TrainingConfig(steps=7, ema_profiles=(0.1,))
    recipe = dataclasses.replace(RECIPE, training=training)
    write_json(folder / "recipe.json", to_dict(recipe))
    averages = {f"profile_0/{n}": v for n, v in initial_weights(MODEL, 0).items()}
    write_tensors(folder / "averages" / "step-00000002.safetensors", averages)


def read_averages(folder: Path, target: str) -> Any:
    """The snapshots that `synthesise-ema` combines."""
    snapshots = RunFolder(folder).averages(load_recipe(folder / "recipe.json"))
    return {"weights": snapshots[0][2] if snapshots else {}}


def averages_consistent(case: Case, found: Any) -> bool:
    """Whether tensors keep their names, shapes and dtypes, or the file is gone."""
    return case.data is None or same_arrays(case.content["weights"], found["weights"])


def make_demo(folder: Path) -> None:
    """The record of a demo, and the metrics of its run."""
    make_recipe(folder)
    record = {"recipe": to_dict(RECIPE), "seconds": {"data": 1.5}, "first_step_seconds": {}, "commands": ["a b"]}
    write_json(folder / "demo.json", record)
    lines = [{"step": s, "loss": 0.5, "images_per_second": 9.5, "seconds": 1.0 * s} for s in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def read_demo(folder: Path, target: str) -> Any:
    """What a demo goes on with, and what its page shows."""
    demo = open_demo(folder, folder / "recipe.json", 4, False, folder)
    lines = [{key: line[key] for key in ("step", "images_per_second", "seconds")} for line in read_metrics(folder)]
    return {"record": demo.record, "lines": lines}


def demo_consistent(case: Case, found: Any) -> bool:
    """Whether the record has its parts, and every line of metrics its numbers."""
    parts = {key: type(value) for key, value in found["record"].items()}
    kinds = {"recipe": dict, "seconds": dict, "first_step_seconds": dict, "commands": list}
    numbers = [value for line in found["lines"] for value in line.values()]
    return kinds.items() <= parts.items() and all(type(n) in (int, float) for n in numbers)


def make_edit(folder: Path) -> None:
    """Images to edit, and masks."""
    np.save(folder / "images.npy", IMAGES)
    np.save(folder / "mask.npy", IMAGES[0] > 0.5)
    save_png(folder / "mask.png", (IMAGES[0] > 0.5).astype(np.float32))
    np.save(folder / "psf.npy", IMAGES[0, :3, :3])


def read_edit(folder: Path, target: str) -> Any:
    """The images or the hole that `edit inpaint` takes, or the PSF of `edit solve`."""
    if target == "psf.npy":
        return read_operator(f"psf:{folder / target}", (8, 9)).forward(np.ones((1, 8, 9, 1)))
    if target.startswith("mask"):
        return read_hole(str(folder / target), "", (8, 9))
    model = dataclasses.replace(NETWORK, sample_size=(8, 9))
    trained = Trained(model, ProcessConfig(), SamplingConfig(), "float32", {})
    return given_images(str(folder / target), folder, trained, 0, 2).images


def edit_consistent(case: Case, found: Any) -> bool:
    """Whether the images are in [0, 1], or a part of the pixels is painted, or the PSF has the sum 1."""
    if case.target == "psf.npy":
        return bool(np.allclose(found, 1))
    if not case.target.startswith("mask"):
        return bool(found.shape == (2, 8, 9, 1) and found.min() >= 0 and found.max() <= 1) and whole_images(case, found)
    return bool(found.shape == (8, 9) and found.any() and not found.all())


def always(case: Case, found: Any) -> bool:
    """Any content is what the file says."""
    return True


def never(case: Case, found: Any) -> bool:
    """No other content may come of a damaged file."""
    return False


CLASSES = tuple(f"{'ab'[i % 2]}/{i}.npy" for i in range(4))
STEP_JSON = tuple(f"{STEP}/{name}" for name in ("recipe.json", "data.json", "training_state.json", "unet/config.json"))
STEP_TENSORS = (f"{STEP}/unet/{WEIGHTS_FILE}", f"{STEP}/training_state.safetensors")
RUN = ("latest", "best", "metrics.jsonl", "metrics.jsonl", "recipe.json")
IDX = tuple(f"{x}-{kind}-ubyte{end}" for x, end in (("a", ""), ("b", ".gz")) for kind in ("images-idx3", "labels-idx1"))
PIPELINE = ("unet/config.json", "scheduler/scheduler_config.json", f"unet/{WEIGHTS_FILE}")
SHARDS = (f"unet/{WEIGHTS_FILE}.index.json", "unet/part-0.safetensors")
PICKLED = tuple(f"{name}/unet/{PICKLE_FILE}" for name in ("new", "old"))
CACHE = ("manifest.json", "images.npy", "arrays.npz")

READERS: dict[str, Reader] = {
    "npy": Reader(make_npy, ("stack.npy", "columns.npy"), read_images, whole_images),
    "npz": Reader(make_npz, ("named.npz", "plain.npz"), read_images, whole_images),
    "idx": Reader(make_idx, IDX, read_idx, whole_images),
    "picture": Reader(make_pictures, PICTURES, read_images, whole_images),
    "folder": Reader(make_folder, CLASSES, read_folder, whole_images),
    "zip": Reader(make_zip, ("npy.zip", "png.zip"), read_images, whole_images),
    "pickles": Reader(make_pickles, ("0.npy", "1.npy"), read_pickles, whole_pickles),
    "cache": Reader(make_cache, CACHE, read_cache, never, 0.5),
    "recipe": Reader(make_recipe, ("recipe.json", "recipe.toml"), read_recipe, recipe_carries),
    "checkpoint": Reader(make_run, STEP_JSON + STEP_TENSORS, read_checkpoint, checkpoint_consistent, 0.5),
    "checkpoint-json": Reader(make_old_run, STEP_JSON, read_checkpoint, checkpoint_consistent),
    "checkpoint-tensors": Reader(make_old_run, STEP_TENSORS, read_checkpoint, checkpoint_consistent),
    "run": Reader(make_run, RUN, read_run, run_consistent),
    "pipeline": Reader(make_pipeline, PIPELINE, read_pipeline, pipeline_consistent),
    "shards": Reader(make_shards, SHARDS, read_pipeline, pipeline_consistent),
    "extractor": Reader(make_extractor, ("lens.safetensors",), read_extractor, pipeline_consistent, 0.3),
    "samples": Reader(make_samples, ("manifest.json", "samples.npy"), read_set, samples_consistent),
    "statistics": Reader(make_statistics, ("own.npz", "plain.npz"), read_set, statistics_consistent),
    "features": Reader(make_given_features, ("features.npz",), read_set, features_consistent),
    "result": Reader(make_result, ("fid.json",), read_result, always),
    "averages": Reader(make_averages, ("averages/step-00000002.safetensors",), read_averages, averages_consistent, 0.5),
    "demo": Reader(make_demo, ("demo.json", "metrics.jsonl"), read_demo, demo_consistent, 0.5),
    "edit": Reader(make_edit, ("images.npy", "mask.npy", "mask.png", "psf.npy"), read_edit, edit_consistent),
}
"""Readers by name."""
if importlib.util.find_spec("torch"):
    READERS["state-dict"] = Reader(make_pickled_weights, PICKLED, read_pickled_weights, pipeline_consistent)
if importlib.util.find_spec("tensorflow"):
    READERS["graph"] = Reader(make_graph, ("graph.pb",), read_graph, never, refused=True)
