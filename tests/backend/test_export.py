"""The verb export: each format is opened by its own runtime and held against the NumPy reference and diffusers."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import WEIGHTS_FILE, Checkpoint, save_checkpoint
from core.checkpoints.diffusers_config import unet_to_diffusers
from core.commands.export import TOLERANCE
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.files import file_hash, write_json, write_tensors
from core.networks.specs import param_specs
from core.reading import read_tensors
from core.twin import Exported, Twin
from eval.parity.closeness import require_close
from eval.parity.tolerances import NETWORK_FLOAT32
from tests import command_line
from tests.numpy_unet import NumpyUNet

ROOT = Path(__file__).resolve().parents[2]
# Tiny, since the exporters take their time for every operation: 8x12 pixels, attention in the middle.
_SMALL = ModelConfig(
    sample_size=(8, 12),
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
)
NETWORKS = {
    "model": dataclasses.replace(
        _SMALL,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "conditional": dataclasses.replace(_SMALL, num_class_embeds=3, resnet_time_scale_shift="scale_shift"),
    "baseline": ModelConfig(architecture="baseline", sample_size=(8, 16), block_out_channels=(4, 8, 16, 16)),
}
PROCESS = ProcessConfig(timesteps=200, schedule="cosine", prediction="v")

# How a user opens each format: from a file to a function of named arrays.
RUNTIMES = {
    "torch-export": """
import torch
def opened(file):
    program = torch.export.load(file).module()
    return lambda inputs: program(*[torch.from_numpy(v) for v in inputs.values()]).detach().numpy()
""",
    "onnx": """
import onnxruntime
def opened(file):
    session = onnxruntime.InferenceSession(file)
    return lambda inputs: session.run(["output"], inputs)[0]
""",
    "saved-model": """
import tensorflow
def opened(file):
    function = tensorflow.saved_model.load(file).signatures["serving_default"]
    return lambda inputs: function(**{k: tensorflow.constant(v) for k, v in inputs.items()})["output"].numpy()
""",
    "keras": """
import keras, tf_impl.weights
def opened(file):
    network = keras.saving.load_model(file)
    return lambda inputs: network(**inputs).numpy()
""",
}
# argv: an export, a file of inputs, an export, a file of inputs, ...; each output is written beside its inputs.
SCRIPT = """
import sys
import numpy as np
{runtime}
for file, inputs in zip(sys.argv[1::2], sys.argv[2::2]):
    np.save(inputs + ".npy", opened(file)(dict(np.load(inputs))))
print(*sys.modules)
"""


def make_weights(config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    specs = param_specs(config).items()
    return {n: (0.3 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(np.float32) for n, s in specs}


def make_inputs(config, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    inputs = {
        "x": rng.standard_normal((batch, *config.sample_size, config.in_channels)).astype(np.float32),
        "t": rng.uniform(0, 199, batch).astype(np.float32),
    }
    if config.num_class_embeds:
        inputs["labels"] = rng.integers(0, config.num_class_embeds, batch)
    return inputs


def reference(backend, config, inputs) -> np.ndarray:
    """The output of the NumPy U-Net in float64; of the twin's own network where it is the baseline."""
    if config.architecture == "baseline":
        network = backend.weights.build_unet(config, make_weights(config))
        return backend.array(network(backend.tensor(inputs["x"]), backend.tensor(inputs["t"])))
    weights = {name: value.astype(np.float64) for name, value in make_weights(config).items()}
    x, t = (inputs[name].astype(np.float64) for name in ("x", "t"))
    return NumpyUNet(config, weights)(x, t, inputs.get("labels")).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`conditional`: a checkpoint with recipe and scheduler; the others: bare model folders."""
    folder = tmp_path_factory.mktemp("export")
    for name, config in NETWORKS.items():
        weights = make_weights(config)
        if name != "conditional":
            (folder / name).mkdir()
            write_json(folder / name / "config.json", unet_to_diffusers(config))
            write_tensors(folder / name / WEIGHTS_FILE, weights)
        else:
            recipe = Recipe(model=config, process=PROCESS, sampling=SamplingConfig(steps=10))
            save_checkpoint(folder / name, Checkpoint(recipe, weights, {}, {"step": 1}, {}))
    return folder


@pytest.fixture(scope="module")
def call(backend):
    """The twin's command line: exit code, stdout, stderr."""
    return partial(command_line.call, repr(backend))


@pytest.fixture(scope="module")
def formats(backend) -> dict[str, str]:
    return {name: suffix for name, (suffix, _) in Twin(repr(backend)).formats.items()}


@pytest.fixture(scope="module", params=[0, 1], ids=["first-format", "second-format"])
def exports(request, formats, call, folder) -> dict[str, tuple[Path, dict, str, str]]:
    """Name of the network -> file, manifest, stdout and stderr of its export in one of the twin's formats."""
    format, suffix = list(formats.items())[request.param]
    written = {}
    for name in NETWORKS:
        path = folder / "out" / f"{name}-{format}{suffix}"
        code, out, err = call("export", folder / name, "--format", format, "--out", path, "--overwrite")
        assert code == 0, err  # xdist may hand the fixture's tests out twice, with others between
        manifest = path.with_name(path.name + ".json") if suffix else path / "manifest.json"
        written[name] = path, json.loads(manifest.read_text()), out, err
    return written


@pytest.fixture
def stub(backend, monkeypatch):
    """Replaces the twin's export by one that writes three bytes and returns what the test wants."""
    answer = Exported(
        np.ones((3, 8, 12, 1), np.float32), np.ones((3, 8, 12, 1), np.float32), {"layout": "NHWC", "image_size": "free"}
    )

    def replace(**changes) -> None:
        def export(config, weights, format, path, batch):
            if format == "saved-model":
                path.mkdir()
            (path / "saved_model.pb" if format == "saved-model" else path).write_bytes(b"new")
            return dataclasses.replace(answer, **changes)

        monkeypatch.setattr(backend.export, "export", export)

    replace()
    return replace


@pytest.mark.slow
def test_each_runtime_opens_its_file_and_gives_the_network_at_any_batch_size(exports, backend, tmp_path):
    words, expected = [], {}
    for name, (path, manifest, *_) in exports.items():
        format, first, alone = (manifest[key] for key in ("format", "layout", "stands_alone"))
        for batch in (1, 3):
            inputs, file = make_inputs(NETWORKS[name], batch), str(tmp_path / f"{name}-{batch}.npz")
            x = inputs["x"].transpose(0, 3, 1, 2) if first == "NCHW" else inputs["x"]
            np.savez(file, **{**inputs, "x": np.ascontiguousarray(x)})
            words += [path, file]
            expected[file] = reference(backend, NETWORKS[name], inputs)
    # -I and another folder: nothing of this checkout can be imported.
    command = [sys.executable, *(["-I"] if alone else []), "-c", SCRIPT.format(runtime=RUNTIMES[format]), *words]
    done = subprocess.run(command, cwd=tmp_path if alone else ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rooms = {module.split(".")[0] for module in done.stdout.split()} & {"core", "torch_impl", "tf_impl", "eval"}
    assert rooms == (set() if alone else {"core", "tf_impl"})
    for file, wanted in expected.items():
        found = np.load(f"{file}.npy", allow_pickle=False)
        found = found.transpose(0, 2, 3, 1) if first == "NCHW" else found
        require_close(found, wanted, NETWORK_FLOAT32, f"{format} {Path(file).stem}")


@pytest.mark.slow
@pytest.mark.diffusers
def test_the_exports_equal_diffusers(exports, folder):
    import torch
    from diffusers import UNet2DModel

    for name in ("model", "conditional"):
        path, manifest, *_ = exports[name]
        source = folder / name if name == "model" else folder / name / "unet"
        peer = UNet2DModel.from_pretrained(source).eval()
        inputs = make_inputs(NETWORKS[name], 3)
        x, t = torch.from_numpy(inputs["x"]).permute(0, 3, 1, 2), torch.from_numpy(inputs["t"])
        labels = torch.from_numpy(inputs["labels"]) if "labels" in inputs else None
        with torch.no_grad():
            expected = peer(x, t, class_labels=labels).sample.numpy()
        values = {"x": x.numpy(), "t": t.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
        space = {}
        exec(RUNTIMES[manifest["format"]], space)
        found = space["opened"](str(path))(values)
        require_close(found, expected, NETWORK_FLOAT32, manifest["format"])


@pytest.mark.slow
def test_the_manifest_says_how_to_call_the_network(exports, backend):
    _, manifest, *_ = exports["conditional"]
    image = ["batch", 1, 8, 12] if backend.name == "torch" else ["batch", 8, 12, 1]
    if manifest["format"] == "keras":
        image = ["batch", "height", "width", 1]
    assert manifest["image_size"] == ("free" if "height" in image else "fixed")
    assert {name: (value["shape"], value["dtype"]) for name, value in manifest["inputs"].items()} == {
        "x": (image, "float32"),
        "t": (["batch"], "float32"),
        "labels": (["batch"], "int64"),
    }
    assert "0 to 199" in manifest["inputs"]["t"]["range"] and "0 to 2" in manifest["inputs"]["labels"]["range"]
    assert manifest["outputs"] == {"output": {"shape": image, "dtype": "float32"}}
    assert "labels" not in exports["model"][1]["inputs"]


@pytest.mark.slow
def test_the_manifest_says_what_the_output_means(exports):
    _, manifest, *_ = exports["conditional"]
    assert manifest["predicts"] == "v"
    assert manifest["noise_schedule"] == {
        "timesteps": 200,
        "schedule": "cosine",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "zero_terminal_snr": False,
        "shift": 1.0,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
    }
    bare = exports["model"][1]
    assert bare["predicts"] is None and bare["noise_schedule"] is None


@pytest.mark.slow
def test_the_manifest_says_what_was_exported_and_that_it_was_compared(exports, folder):
    _, manifest, *_ = exports["conditional"]
    assert manifest["weights_sha256"] == file_hash(folder / "conditional" / "unet" / WEIGHTS_FILE)
    assert manifest["verified"] is True and 0 <= manifest["difference"] <= TOLERANCE
    assert {"framework", "version", "numpy", "open_with"} <= manifest.keys()
    assert manifest["stands_alone"] == (manifest["format"] != "keras")


@pytest.mark.slow
def test_the_verb_says_one_line_and_leaves_nothing_else(exports):
    for path, _, out, err in exports.values():
        assert err == "" and out.startswith(f"wrote {path}, ") and out.count("\n") == 1 and "verified" in out
        assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []


@pytest.mark.slow
def test_a_file_does_not_name_the_folders_of_the_machine(exports):
    for path, *_ in exports.values():
        for file in [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]:
            data = file.read_bytes()
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    data = b"".join(archive.read(name) for name in archive.namelist())
            assert str(ROOT).encode() not in data and b"site-packages" not in data, file


def test_the_examples_of_the_help_are_accepted(stub, call, folder, tmp_path, backend, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("export", "--help")
    lines = [line.split() for line in out.splitlines() if line.startswith(f"  python -m {backend!r} export ")]
    assert code == 0
    assert len(lines) == 2
    for line in lines:
        verb, _, *rest = line[3:]
        code, _, err = call(verb, folder / "conditional", *rest)
        assert code == 0, err
        assert Path(rest[rest.index("--out") + 1]).exists()


def test_what_is_there_is_replaced_only_when_asked(stub, call, folder, formats, tmp_path):
    for format, suffix in formats.items():
        out = tmp_path / f"there{suffix}"
        command = ("export", folder / "model", "--format", format, "--out", out)
        assert call(*command)[0] == 0
        data = out if suffix else out / "saved_model.pb"
        manifest = tmp_path / f"there{suffix}.json" if suffix else out / "manifest.json"
        data.write_bytes(b"old")
        code, _, err = call(*command)
        assert code == 2 and "--overwrite" in err and str(out) in err and data.read_bytes() == b"old"
        manifest.write_text("{}")
        assert call(*command, "--overwrite")[0] == 0
        assert data.read_bytes() == b"new" and json.loads(manifest.read_text())["format"] == format
        if suffix:
            data.unlink()
            code, _, err = call(*command)
            assert code == 2 and str(manifest) in err and not data.exists()


def test_overwrite_spares_a_folder_that_is_no_export(stub, call, folder, formats, tmp_path):
    for format, suffix in formats.items():
        out = tmp_path / f"results{suffix}"
        out.mkdir()
        (out / "precious").touch()
        code, _, err = call("export", folder / "model", "--format", format, "--out", out, "--overwrite")
        assert code == 2 and "is no" in err and (out / "precious").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"found": np.full((3, 8, 12, 1), 1.001, np.float32)}, "differs from the network by 0.001"),
        ({"found": np.full((3, 8, 12, 1), np.nan, np.float32)}, "differs from the network by nan"),
        ({"found": np.ones((2, 8, 12, 1), np.float32)}, "the export gives float32 (2, 8, 12, 1)"),
        ({"expected": np.full((3, 8, 12, 1), np.inf, np.float32)}, "not finite"),
    ],
)
def test_an_export_that_differs_is_not_written(stub, call, folder, formats, tmp_path, change, words):
    format, suffix = next(iter(formats.items()))
    stub(**change)
    code, out, err = call("export", folder / "model", "--format", format, "--out", tmp_path / f"a{suffix}")
    assert code == 1 and words in err and out == "" and list(tmp_path.iterdir()) == []


def test_an_export_that_no_runtime_can_open_says_so(stub, call, folder, formats, tmp_path):
    format, suffix = list(formats.items())[-1]
    stub(found=None)
    code, out, _ = call("export", folder / "model", "--format", format, "--out", tmp_path / f"a{suffix}")
    assert code == 0 and "not verified: pip install onnxruntime" in out
    assert json.loads((tmp_path / f"a{suffix}.json").read_text())["verified"] is False


def test_mistakes_are_one_line_and_code_2(call, folder, formats, tmp_path):
    model, (format, suffix) = folder / "model", list(formats.items())[-1]
    for argv, words in (
        ([], "no run or checkpoint given"),
        ([model, "other"], "takes one run or checkpoint"),
        ([model, "--out", "a"], f"--format (none): must be one of {', '.join(formats)}"),
        ([model, "--format", "jpeg", "--out", "a"], f"--format jpeg: must be one of {', '.join(formats)}"),
        ([model, "--format", format], "--out is missing"),
        ([model, "--format", format, "--out", tmp_path / "a.bin"], f"must end in {suffix}"),
        (["nowhere", "--format", format, "--out", tmp_path / f"a{suffix}"], "nowhere: no such run"),
    ):
        code, out, err = call("export", *argv)
        assert code == 2 and words in err and err.count("\n") == 1 and out == "", err
    assert list(tmp_path.iterdir()) == []


def test_replaced_weights_are_exported_where_the_flag_asks_for_it(stub, call, folder, formats, tmp_path):
    checkpoint, (format, suffix) = (
        shutil.copytree(folder / "conditional", tmp_path / "copy"),
        next(iter(formats.items())),
    )
    path = checkpoint / "unet" / WEIGHTS_FILE
    write_tensors(path, {name: value / 2 for name, value in read_tensors(path).items()})
    words = ["export", checkpoint, "--format", format, "--out", tmp_path / f"a{suffix}"]
    code, _, err = call(*words)
    assert code == 2 and f"{path}: damaged, or changed since it was saved" in err and "--changed-weights" in err
    assert call(*words, "--changed-weights")[0] == 0


def test_a_folder_that_cannot_be_made_is_code_2(call, folder, formats, tmp_path):
    (tmp_path / "file").touch()
    format, suffix = next(iter(formats.items()))
    code, _, err = call("export", folder / "model", "--format", format, "--out", tmp_path / "file" / f"a{suffix}")
    assert code == 2 and str(tmp_path / "file") in err and err.count("\n") == 1


@pytest.mark.diffusers  # ONNX is a format of the PyTorch twin
def test_onnx_says_what_to_install(backend, call, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(backend.export, "find_spec", lambda name: None if name == "onnx" else True)
    code, _, err = call("export", folder / "model", "--format", "onnx", "--out", tmp_path / "a.onnx")
    assert code == 2 and "--format onnx needs onnx: pip install onnx" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.diffusers
def test_onnx_is_written_without_onnxruntime(backend, call, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(backend.export, "find_spec", lambda name: None if name == "onnxruntime" else True)
    code, out, err = call("export", folder / "model", "--format", "onnx", "--out", tmp_path / "a.onnx")
    assert code == 0 and "not verified: pip install onnxruntime" in out, err
