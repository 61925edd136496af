"""Hostile files through every reader but those of images: one line that names the file, code 2, and little memory."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from contextlib import redirect_stderr

import numpy as np
import pytest

from core.exits import end
from core.files import write_json, write_npz
from core.inference.editing import read_hole
from core.reading import read_json, read_lines
from eval.verbs.demo_folder import open_demo
from tests.chaos.__main__ import lay_out
from tests.chaos.mutations import DIRECTORY
from tests.chaos.readers import PIPELINE, READERS, SHARDS, STEP, STEP_JSON, STEP_TENSORS

MEMORY = 32 << 20
"""Bytes that reading a hostile file of a few kilobytes may take."""
WEIGHTS = f"{STEP}/unet/diffusion_pytorch_model.safetensors"
STATE = f"{STEP}/training_state.safetensors"


def line_of(read) -> str:
    """The one line on stderr of a read that must end with code 2."""
    err = io.StringIO()
    tracemalloc.start()
    try:
        with redirect_stderr(err):
            assert end(read) == 2, err.getvalue()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) < 700 and peak < MEMORY, (lines, peak)
    return lines[0]


def array_bytes(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def safetensors_bytes(header, data=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz_bytes(members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def claiming(descr, shape) -> bytes:
    """A .npy file whose header claims this dtype and shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + bytes(64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Reader -> its whole files by name; made once."""
    made = {}

    def files(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            READERS[name].make(folder)
            paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
            made[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return made[name]

    return files


ANY = {
    "empty": b"",
    "text": b"no file of this kind\n",
    "not UTF-8": b"\xff\xfe\xfa\0",
    "deep": b'{"a":' * 100_000,
    "deeper": b"[" * 100_000,
    "array": array_bytes(np.arange(6)),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "zeros": bytes(1000),
    "folder": DIRECTORY,
    "missing": None,
}
TARGETS = [
    *(("recipe", name) for name in ("recipe.json", "recipe.toml")),
    *(("checkpoint-json", name) for name in STEP_JSON if not name.endswith("config.json")),
    *(("checkpoint-tensors", name) for name in STEP_TENSORS),
    *(("pipeline", name) for name in PIPELINE),
    *(("shards", name) for name in SHARDS),
    ("statistics", "own.npz"),
    ("result", "fid.json"),
    ("extractor", "lens.safetensors"),
]


@pytest.mark.parametrize("kind", ANY)
@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_another_file_under_the_name(whole, tmp_path, name, target, kind):
    lay_out(tmp_path / "x", {**whole(name), target: ANY[kind]})
    assert str(tmp_path / "x") in line_of(lambda: READERS[name].read(tmp_path / "x", target))


def changed(**values):
    """A JSON file with other values; `a__b` is key b of the object a."""

    def change(data):
        found = json.loads(data)
        for name, value in values.items():
            *path, key = name.split("__")
            part = found
            for step in path:
                part = part[step]
            part[key] = value
        return json.dumps(found).encode()

    return change


TENSOR = "conv_in.bias"
HEADER = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
HOSTILE = [
    ("recipe", "recipe.json", b"[]", "holds no table"),
    ("recipe", "recipe.json", b"{}", "holds no table"),
    ("recipe", "recipe.json", b'{"training": []}', "training = []: must be a table"),
    ("recipe", "recipe.json", b'{"training": {"steps": "7"}}', "training.steps = '7': must be int"),
    ("recipe", "recipe.json", b'{"training": {"learning_rate": NaN}}', "training.learning_rate = nan: must be"),
    ("recipe", "recipe.json", b'{"process": {"p2_gamma": 1e999}}', "process.p2_gamma = inf: must be"),
    ("recipe", "recipe.json", b'{"process": {"sigma_max": 1%s}}' % (b"0" * 400), "sigma_max = 1000"),
    ("recipe", "recipe.json", b'{"training": {"steps": %s}}' % (b"9" * 5000), "not a recipe"),
    ("recipe", "recipe.json", b'{"model": {"sample_size": {"a": 1}}}', "model.sample_size = {'a': 1}: must be a list"),
    ("recipe", "recipe.json", b'{"%s": 1}' % (b"k" * 9999), "unknown key 'kkk"),
    ("recipe", "recipe.toml", b"a = " + b"[" * 100_000, "not a recipe (nested too deeply)"),
    ("recipe", "recipe.toml", b"[training]\nlearning_rate = nan", "training.learning_rate = nan: must be"),
    ("recipe", "recipe.toml", b"[training]\nsteps = 0x%s" % (b"f" * 5000), "training.steps"),
    ("recipe", "recipe.toml", b"[training]\nsteps = 2020-01-01", "training.steps"),
    ("checkpoint-json", f"{STEP}/data.json", changed(class_names=5), "class_names is 5: must be a list of texts"),
    ("checkpoint-json", f"{STEP}/data.json", changed(class_names=list("abc")), "3 class_names: must be at most 2"),
    ("checkpoint-json", f"{STEP}/data.json", changed(condition=None), "condition is None: must be an object"),
    ("checkpoint-json", f"{STEP}/data.json", changed(condition__std=[0.0]), "std is [0.0]: must be numbers, above 0"),
    ("checkpoint-json", f"{STEP}/data.json", changed(condition__mean=["1"]), "mean is ['1']: must be numbers"),
    ("checkpoint-json", f"{STEP}/data.json", changed(condition__rows=[]), "rows is []: must be numbers"),
    ("checkpoint-json", f"{STEP}/data.json", changed(condition__rows=[[1.0], [1.0, 2.0]]), "training data (setting an"),
    ("checkpoint-json", f"{STEP}/data.json", changed(condition__names=["e"]), "names is ['e']: must be ['theta_e']"),
    ("checkpoint-json", f"{STEP}/training_state.json", changed(step="2"), "step = '2': must be a whole number"),
    ("checkpoint-json", f"{STEP}/training_state.json", changed(seconds=float("inf")), "seconds = inf: must be"),
    ("checkpoint-json", f"{STEP}/training_state.json", changed(counters=[2]), "counters = [2]: must be adam_steps"),
    ("checkpoint-tensors", WEIGHTS, struct.pack("<Q", 2**63) + b"{}", "header too large"),
    ("checkpoint-tensors", WEIGHTS, struct.pack("<Q", 300) + b"{}" + bytes(9), "invalid header length"),
    (
        "checkpoint-tensors",
        WEIGHTS,
        safetensors_bytes({"a": {**HEADER["a"], "data_offsets": [0, 2**43]}}),
        "not a whole",
    ),
    (
        "checkpoint-tensors",
        WEIGHTS,
        safetensors_bytes({"a": {**HEADER["a"], "shape": [2**62, 4]}}, bytes(4)),
        "overflow",
    ),
    (
        "checkpoint-tensors",
        WEIGHTS,
        safetensors_bytes({"a": {**HEADER["a"], "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        "not a whole",
    ),
    (
        "checkpoint-tensors",
        WEIGHTS,
        safetensors_bytes({"a": {**HEADER["a"], "dtype": "F8_E4M3", "shape": [4]}}, bytes(4)),
        "not a whole safetensors file",
    ),
    ("pipeline", "unet/config.json", changed(block_out_channels=8), "block_out_channels = 8: must be a list"),
    (
        "pipeline",
        "unet/config.json",
        changed(down_block_types="DownBlock2D"),
        "down_block_types = 'DownBlock2D': must be",
    ),
    ("pipeline", "unet/config.json", changed(norm_eps=float("nan")), "model.norm_eps = nan: must be"),
    ("pipeline", "unet/config.json", changed(sample_size=[8, "8"]), "model.sample_size = '8': must be int"),
    ("pipeline", "unet/config.json", changed(_class_name=["UNet2DModel"]), "_class_name = ['UNet2DModel']"),
    ("pipeline", "scheduler/scheduler_config.json", changed(_class_name=[]), "_class_name is []: must be a text"),
    ("pipeline", "scheduler/scheduler_config.json", changed(beta_schedule={}), "beta_schedule is {}: must be a text"),
    ("pipeline", "scheduler/scheduler_config.json", changed(num_train_timesteps="9"), "num_train_timesteps is '9'"),
    (
        "pipeline",
        "scheduler/scheduler_config.json",
        changed(beta_end=float("nan")),
        "beta_end is nan: must be a finite",
    ),
    ("pipeline", "scheduler/scheduler_config.json", changed(trained_betas={"a": 1}), "not a scheduler's configuration"),
    ("pipeline", "scheduler/scheduler_config.json", changed(trained_betas=[["x"]]), "could not convert"),
    ("pipeline", "scheduler/scheduler_config.json", changed(rescale_betas_zero_snr="no"), "must be true or false"),
    ("pipeline", "scheduler/scheduler_config.json", changed(variance_type=3), "variance_type is 3: must be a text"),
    ("shards", SHARDS[0], b'{"weight_map": []}', "holds no weight_map"),
    ("shards", SHARDS[0], b'{"weight_map": {"a": "../../x.safetensors"}}', "holds no weight_map"),
    ("shards", SHARDS[0], b'{"weight_map": {"a": 5}}', "holds no weight_map"),
    ("statistics", "own.npz", array_bytes(np.arange(6.0)), "not a whole .npz file of plain arrays"),
    (
        "statistics",
        "own.npz",
        npz_bytes({"mu": claiming("<f8", (2**40,)), "sigma": claiming("<f8", (8,))}),
        "header says",
    ),
    (
        "statistics",
        "own.npz",
        npz_bytes({"mu": claiming("|O", (8,)), "sigma": claiming("<f8", (8,))}),
        "pickled objects",
    ),
    (
        "statistics",
        "own.npz",
        npz_bytes({"mu": array_bytes([1, 2]), "sigma": array_bytes(np.eye(2))}),
        "mu is of int64",
    ),
    ("statistics", "own.npz", npz_bytes({"mu": array_bytes([1.0, np.nan]), "sigma": array_bytes(np.eye(2))}), "finite"),
    ("statistics", "own.npz", npz_bytes({"mu": array_bytes([1.0, 2.0]), "sigma": array_bytes(np.eye(3))}), "mu (2,)"),
    (
        "statistics",
        "own.npz",
        npz_bytes({"mu": array_bytes([1.0, 2.0]), "sigma": array_bytes(np.triu(np.ones((2, 2))))}),
        "sigma is no covariance",
    ),
    (
        "statistics",
        "own.npz",
        npz_bytes({"mu": array_bytes([1.0]), "sigma": array_bytes(np.eye(1)), "about": array_bytes(np.array("[]"))}),
        "about holds no JSON object",
    ),
    ("samples", "manifest.json", changed(labels=[0, 1]), "labels is [0, 1]: must be 6 classes"),
    ("samples", "manifest.json", changed(labels={"a": 1}), "labels is {'a': 1}: must be 6 classes"),
    ("samples", "manifest.json", changed(seed=float("nan")), "not a manifest of drawn images"),
    ("result", "fid.json", changed(frechet__value="1.5"), "frechet: value is '1.5': must be a finite number"),
    ("result", "fid.json", changed(real=[1]), "real is [1]: must be an object"),
    ("result", "fid.json", changed(floor__mean=float("inf")), "floor: mean is inf: must be a finite number"),
]


@pytest.mark.parametrize(
    ("name", "target", "damage", "message"), HOSTILE, ids=[f"{row[0]}-{i}" for i, row in enumerate(HOSTILE)]
)
def test_hostile_content(whole, tmp_path, name, target, damage, message):
    files = whole(name)
    data = damage(files[target]) if callable(damage) else damage
    lay_out(tmp_path / "x", {**files, target: data})
    line = line_of(lambda: READERS[name].read(tmp_path / "x", target))
    assert str(tmp_path / "x" / target) in line and message in line, line


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
@pytest.mark.parametrize("target", [WEIGHTS, STATE])
def test_tensors_that_are_not_of_floating_point_are_refused(whole, tmp_path, target, dtype):
    from safetensors.numpy import load, save

    files = whole("checkpoint-tensors")
    tensors = {name: value.astype(dtype) for name, value in load(files[target]).items()}
    lay_out(tmp_path / "x", {**files, target: save(tensors)})
    line = line_of(lambda: READERS["checkpoint-tensors"].read(tmp_path / "x", target))
    assert str(tmp_path / "x" / target) in line and "not of floating point" in line


def test_a_file_larger_than_the_memory_is_not_read(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("core.reading.free_memory", lambda: 5000)
    for name, target in (("recipe", "recipe.json"), ("extractor", "lens.safetensors")):
        lay_out(tmp_path / "x", dict(whole(name)))
        os.truncate(tmp_path / "x" / target, 1 << 25)
        line = line_of(lambda name=name, target=target: READERS[name].read(tmp_path / "x", target))
        assert "GiB of memory where" in line and target in line


GOOD = b'{"step": 1, "loss": 0.5, "distance": 2.0}\n'


CUT = [b"text", b"[" * 100_000, b"\0\0\0", b"\xff\xfe", b'{"step": 1, "lo']
WRONG = [
    *(b"[1]", b"{}", b'{"step": "1"}', b'{"step": -1}', b'{"step": true}', b'{"step": 1.5}'),
    *(b'{"step": 1, "loss": NaN}', b'{"step": 1, "loss": []}', b'{"step": 1, "distance": null}'),
]


@pytest.mark.parametrize("line", CUT + WRONG)
def test_a_damaged_line_of_metrics_is_named_and_one_at_the_end_was_cut_short(whole, tmp_path, line, caplog):
    file = tmp_path / "x" / "metrics.jsonl"
    for content in (GOOD + line + b"\n" + GOOD, *([GOOD + line] if line in WRONG else [])):
        lay_out(tmp_path / "x", {**whole("run"), "metrics.jsonl": content})
        found = line_of(lambda: READERS["run"].read(tmp_path / "x", "metrics.jsonl"))
        assert f"{file}, line 2: " in found and file.read_bytes() == content
    if line in CUT:
        lay_out(tmp_path / "x", {**whole("run"), "metrics.jsonl": GOOD + line})
        assert READERS["run"].read(tmp_path / "x", "metrics.jsonl")["lines"] == [GOOD.decode().strip()]
        assert "metrics.jsonl, line 2: " in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"step-00000009", b"../../elsewhere", b"\xff" * 10_000_000, b"step-00000002/x"]
)
def test_a_damaged_best_names_no_checkpoint(whole, tmp_path, content):
    lay_out(tmp_path / "x", {**whole("run"), "best": content})
    line = line_of(lambda: READERS["run"].read(tmp_path / "x", "best"))
    assert f"{tmp_path / 'x' / 'best'}: names no checkpoint" in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", b"text"),
        ("a.npy", claiming("<f8", (2**40,))),
        ("a.npy", array_bytes(["a"])),
        ("a.npy", array_bytes(np.full((4, 6), np.nan))),
        ("a.txt", b"text"),
        ("a.npy", array_bytes(np.ones((4, 6, 3, 2)))),
    ],
)
def test_a_mask_that_is_none_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in line_of(lambda: read_hole(str(tmp_path / name), "", (4, 6)))


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"recipe": {}, "seconds": [], "first_step_seconds": {}, "commands": []},
        {"recipe": {}, "seconds": {"data": "1"}, "first_step_seconds": {}, "commands": []},
        {"recipe": {}, "seconds": {}, "first_step_seconds": {}, "commands": [1]},
    ],
)
def test_a_damaged_record_of_a_demo_is_refused(whole, tmp_path, record):
    lay_out(tmp_path / "x", dict(whole("recipe")))
    (tmp_path / "x" / "demo.json").write_text(json.dumps(record))
    config = tmp_path / "x" / "recipe.toml"
    assert str(tmp_path / "x" / "demo.json") in line_of(lambda: open_demo(tmp_path / "x", config, 4, False, tmp_path))


def test_what_is_whole_is_read(tmp_path):
    values = {"a": 1, "b": 2, "c": [1], "d": {}, "e": "x", "f": True}
    write_json(tmp_path / "a.json", values)
    kinds = {"a": int, "b": float, "c": list, "d": dict, "e": str, "f": bool}
    assert read_json(tmp_path / "a.json", kinds) == values
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\n\n{"a": 2}')
    assert read_lines(tmp_path / "a.jsonl", lambda name, line: None) == [{"a": 1}, {"a": 2}]
    write_npz(tmp_path / "b.npz", {"mu": np.ones(2), "sigma": np.eye(2)})
    found = READERS["statistics"].read(tmp_path, "b.npz")["statistics"]
    assert np.array_equal(found[0], [1, 1]) and np.array_equal(found[1], np.eye(2))


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "recipe.json")
    assert "a folder or a device" in line_of(lambda: READERS["recipe"].read(tmp_path, "recipe.json"))
