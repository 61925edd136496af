"""Networks that any version of diffusers saved: both twins import them and give diffusers' or the reference's output.

The TensorFlow environment has no diffusers: there the NumPy reference, which equals diffusers, is the oracle, and the
folders are written by hand.
"""

import contextlib
import io
import json
import logging
import pickle

import numpy as np
import pytest

from core.checkpoints.checkpoint import WEIGHTS_FILE
from core.checkpoints.diffusers_config import unet_from_diffusers
from core.checkpoints.importing import PICKLE_FILE, read_network, refuse_pickle
from core.checkpoints.trained import open_trained
from core.commands.main import main
from core.config import ProcessConfig, SamplingConfig
from core.files import write_json, write_tensors
from core.networks.specs import count_parameters, param_specs, time_frequencies
from core.reading import read_json, read_tensors
from eval.parity.closeness import require_close
from eval.parity.tolerances import EXACT, NETWORK_FLOAT32, NETWORK_FLOAT64
from tests.numpy_unet import NumpyUNet

# The three networks' own files, of diffusers 0.0.4 and 0.1.1.
COMMON = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "time_embedding_type": "positional",
}
CIFAR10 = {
    **COMMON,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "sample_size": 32,
}
LARGE = {
    **COMMON,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "sample_size": 256,
}
PUBLISHED = {"ddpm-cifar10-32": CIFAR10, "ddpm-celebahq-256": LARGE, "ddpm-bedroom-256": LARGE}
PARAMETERS = {"ddpm-cifar10-32": 35_746_307, "ddpm-celebahq-256": 113_673_219, "ddpm-bedroom-256": 113_673_219}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}
TINY = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def narrow(values):
    """The same network with a quarter of the channels, at most 64 x 64."""
    channels = [c // 4 for c in values["block_out_channels"]]
    return {
        **values,
        "block_out_channels": channels,
        "norm_num_groups": 8,
        "sample_size": min(64, values["sample_size"]),
    }


def make_weights(values, dtype=np.float32):
    rng = np.random.default_rng(0)
    specs = param_specs(unet_from_diffusers(values)).items()
    return {n: (0.1 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(dtype) for n, s in specs}


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(weights, convolutions=True):
    """Weights as diffusers wrote them before 0.13: other names in attention; still older ones are 1x1 convolutions."""
    renamed = {}
    for name, value in weights.items():
        for new, before in OLD.items():
            if convolutions and f".{new}.weight" in name:
                value = value[:, :, None, None]
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value
    assert renamed.keys() != weights.keys()
    return renamed


def write_shards(folder, weights):
    names = sorted(weights)
    shards = {f"diffusion_pytorch_model-0000{i}-of-00003.safetensors": names[i - 1 :: 3] for i in (1, 2, 3)}
    for file, part in shards.items():
        write_tensors(folder / file, {n: weights[n] for n in part})
    write_json(
        folder / f"{WEIGHTS_FILE}.index.json", {"weight_map": {n: f for f, part in shards.items() for n in part}}
    )


def pipeline_folder(path, values=TINY, weights=None, scheduler=SCHEDULER, shards=False):
    for name in ("unet", "scheduler"):
        (path / name).mkdir(parents=True)
    write_json(path / "unet" / "config.json", values)
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    weights = make_weights(values) if weights is None else weights
    if shards:
        write_shards(path / "unet", weights)
    else:
        write_tensors(path / "unet" / WEIGHTS_FILE, weights)
    return path


def run(backend, *argv):
    """Exit code, stdout and stderr of a twin's command line; logged lines too, which go to pytest's own handlers."""
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(repr(backend), [str(word) for word in argv])
    finally:
        logging.getLogger().removeHandler(handler)
    return code, out.getvalue(), err.getvalue()


def imported(backend, folder, out, *options):
    code, said, err = run(backend, "import", folder, "--out", out, *options)
    assert code == 0, err
    assert said.startswith(f"wrote {out}: ") and said.count("\n") == 1
    return out


def make_inputs(values, dtype):
    config = unet_from_diffusers(values)
    x = np.random.default_rng(1).standard_normal((1, *config.sample_size, config.in_channels))
    return x.astype(dtype), np.array([977.0])


def output(backend, network, x, t):
    return backend.array(network(backend.tensor(x), backend.tensor(t.astype(x.dtype)), None))


def refused(backend, folder, out, *options):
    code, said, err = run(backend, "import", folder, "--out", out, *options)
    assert code == 2 and said == "" and not out.exists()
    return next(line for line in err.splitlines() if line.startswith("error:"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configurations_are_read_as_they_are(name):
    config = unet_from_diffusers(PUBLISHED[name])
    assert count_parameters(config) == PARAMETERS[name]
    assert config.attention_head_dim is None and config.norm_eps == 1e-6 and config.downsample_padding == 0
    assert (config.flip_sin_to_cos, config.freq_shift) == (False, 1)


@pytest.mark.diffusers
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_our_parameters(name):
    import torch
    from diffusers import UNet2DModel

    with torch.device("meta"):
        peer = UNet2DModel.from_config(PUBLISHED[name])
    specs = param_specs(unet_from_diffusers(PUBLISHED[name]))
    assert {n: s.shape for n, s in specs.items()} == {n: tuple(v.shape) for n, v in peer.state_dict().items()}


@pytest.mark.parametrize("name", ["ddpm-cifar10-32", "ddpm-celebahq-256"])
def test_a_network_of_the_published_family_in_its_old_form_is_imported(backend, tmp_path, name):
    """Old attention names, 1x1 convolutions and shards at once, against the reference with the new names."""
    values = narrow(PUBLISHED[name])
    weights = make_weights(values)
    folder = pipeline_folder(tmp_path / "a", values, old_names(weights), shards=True)
    out = imported(backend, folder, tmp_path / "out")
    reference = NumpyUNet(unet_from_diffusers(values), {n: w.astype(np.float64) for n, w in weights.items()})
    x, t = make_inputs(values, np.float32)
    expected = reference(x.astype(np.float64), t, None)
    for path, dtype, tolerance in ((folder, "float32", NETWORK_FLOAT32), (out, "float64", NETWORK_FLOAT64)):
        found = output(backend, backend.weights.load_unet(path, dtype), x.astype(dtype), t)
        require_close(found, expected.astype(dtype), tolerance, name)
    assert {n: w.tobytes() for n, w in read_tensors(out / "unet" / WEIGHTS_FILE).items()} == {
        n: w.tobytes() for n, w in weights.items()
    }
    source = open_trained(out, "ema")
    assert source.process == ProcessConfig() and source.sampling == SamplingConfig(
        "ddpm", 1000, "leading", variance="fixed_large"
    )


def in_float64(peer, config):
    """The peer in float64, with time frequencies in float64 too (3e-5 off at t = 999 otherwise)."""
    import torch

    class Sinusoids(torch.nn.Module):
        def forward(self, t):
            angle = t.double()[:, None] * torch.from_numpy(time_frequencies(config))
            parts = (angle.cos(), angle.sin()) if config.flip_sin_to_cos else (angle.sin(), angle.cos())
            return torch.cat(parts, dim=1)

    peer = peer.double().eval()
    peer.time_proj = Sinusoids()
    return peer


@pytest.mark.diffusers
@pytest.mark.parametrize("form", ("one file", "shards", "pickle", "sharded pickle", "old names"))
@pytest.mark.parametrize("name", ["ddpm-cifar10-32", "ddpm-bedroom-256"])
def test_what_diffusers_saved_is_imported(backend, tmp_path, name, form):
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    values = narrow(PUBLISHED[name])
    torch.manual_seed(0)
    peer = UNet2DModel.from_config(values).eval()
    options = {"max_shard_size": "1MB"} if "shard" in form else {}
    folder = tmp_path / "a"
    DDPMPipeline(peer, DDPMScheduler.from_config(SCHEDULER)).save_pretrained(
        folder, safe_serialization="pickle" not in form
    )
    for file in (folder / "unet").glob("diffusion_pytorch_model*"):
        file.unlink()
    peer.save_pretrained(folder / "unet", safe_serialization="pickle" not in form, **options)
    assert len(list((folder / "unet").glob("diffusion_pytorch_model-*"))) > 1 or "shard" not in form
    if form == "old names":
        write_tensors(folder / "unet" / WEIGHTS_FILE, old_names(read_tensors(folder / "unet" / WEIGHTS_FILE), False))
        theirs = UNet2DModel.from_pretrained(folder / "unet").state_dict()  # diffusers converts them too
        assert all(torch.equal(theirs[n], w) for n, w in peer.state_dict().items())
    out = imported(backend, folder, tmp_path / "out")
    again = DDPMPipeline.from_pretrained(out).unet.eval()
    assert all(torch.equal(again.state_dict()[n], w) for n, w in peer.state_dict().items())
    config = unet_from_diffusers(values)
    for dtype, tolerance in (("float32", NETWORK_FLOAT32), ("float64", NETWORK_FLOAT64)):
        x, t = make_inputs(values, dtype)
        their = peer if dtype == "float32" else in_float64(peer, config)
        with torch.no_grad():
            expected = backend.array(their(backend.tensor(x), torch.from_numpy(t)).sample)
        found = output(backend, backend.weights.load_unet(out, dtype), x, t)
        require_close(found, expected, tolerance, f"{name}, {form}")


def test_an_imported_network_is_sampled_as_its_source_is(backend, tmp_path):
    folder = pipeline_folder(tmp_path / "a", scheduler={**SCHEDULER, "steps_offset": 1, "clip_sample_range": 2.0})
    out = imported(backend, folder, tmp_path / "out")
    assert read_json(out / "scheduler" / "scheduler_config.json")["steps_offset"] == 1  # diffusers' own is kept
    images = []
    for path in (folder, out):
        code, _, err = run(backend, "sample", path, "--n", 2, "--steps", 3, "--out", tmp_path / "images" / path.name)
        assert code == 0 and "steps_offset = 1 is not followed" in err and "clip_sample_range = 2.0" in err
        images.append(np.load(tmp_path / "images" / path.name / "samples.npy"))
    require_close(images[1], images[0], EXACT, "images")


@pytest.mark.parametrize("form", ("float16", "bfloat16"))
def test_half_precision_is_widened_and_said_so(backend, tmp_path, form):
    weights = make_weights(TINY)
    folder = pipeline_folder(tmp_path / "a")
    path = folder / "unet" / WEIGHTS_FILE
    if form == "float16":
        expected = {n: w.astype(np.float16).astype(np.float32) for n, w in weights.items()}
        write_tensors(path, {n: w.astype(np.float16) for n, w in weights.items()})
    else:
        from safetensors import TensorSpec, serialize_file

        halves = {n: (w.view(np.uint32) >> 16).astype(np.uint16) for n, w in weights.items()}
        expected = {n: (h.astype(np.uint32) << 16).view(np.float32) for n, h in halves.items()}
        halves["conv_in.bias"] = expected["conv_in.bias"] = weights["conv_in.bias"]  # types may be mixed
        specs = {
            n: TensorSpec(
                dtype="bfloat16" if h.dtype == np.uint16 else "float32",
                shape=h.shape,
                data_ptr=h.ctypes.data,
                data_len=h.nbytes,
            )
            for n, h in halves.items()
        }
        serialize_file(specs, path)
    code, _, err = run(backend, "import", folder, "--out", tmp_path / "out")
    assert code == 0 and form in err and "float32" in err
    found = read_tensors(tmp_path / "out" / "unet" / WEIGHTS_FILE)
    assert all(found[n].dtype == np.float32 and np.array_equal(found[n], w) for n, w in expected.items())


def test_a_bare_model_folder_needs_a_scheduler(backend, tmp_path):
    folder = pipeline_folder(tmp_path / "a")
    assert "its noise schedule is unknown; give it with --scheduler FILE" in refused(
        backend, folder / "unet", tmp_path / "out"
    )
    path = tmp_path / "scheduler.json"
    write_json(path, {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"})
    assert "has its own" in refused(backend, folder, tmp_path / "out", "--scheduler", path)
    out = imported(backend, folder / "unet", tmp_path / "out", "--scheduler", path)
    assert open_trained(out, "ema").process == ProcessConfig(prediction="v")
    assert read_json(out / "model_index.json")["scheduler"] == ["diffusers", "DDIMScheduler"]
    write_json(path, {"_class_name": "ScoreSdeVeScheduler"})
    assert "_class_name = 'ScoreSdeVeScheduler'" in refused(
        backend, folder / "unet", tmp_path / "b", "--scheduler", path
    )


def test_a_class_conditional_network_is_imported(backend, tmp_path):
    values = {**TINY, "num_class_embeds": 3}
    out = imported(backend, pipeline_folder(tmp_path / "a", values), tmp_path / "out")
    assert read_json(out / "model_index.json")["_class_name"] == "DiptychConditionalPipeline"
    assert (out / "README").is_file() and backend.weights.load_unet(out).config.num_class_embeds == 3


def test_every_tensor_is_used_once(backend, tmp_path):
    weights = make_weights(TINY)
    attention = "mid_block.attentions.0"
    wrong = {
        "0 missing, 1 left over (left over extra.weight)": {**weights, "extra.weight": weights["conv_in.weight"]},
        f"{attention}.to_q.bias occurs twice": {
            **weights,
            f"{attention}.query.bias": weights[f"{attention}.to_q.bias"],
        },
        "1 missing, 1 left over": {n.replace("conv_out.bias", "query.bias"): w for n, w in weights.items()},
        "conv_in.bias is of type int32": {**weights, "conv_in.bias": np.zeros(8, np.int32)},
    }
    for i, (message, tensors) in enumerate(wrong.items()):
        folder = pipeline_folder(tmp_path / str(i), weights=tensors)
        assert message in refused(backend, folder, tmp_path / "out")


def test_shards_that_are_damaged_are_refused(backend, tmp_path):
    folder = pipeline_folder(tmp_path / "a", shards=True)
    unet, index = folder / "unet", folder / "unet" / f"{WEIGHTS_FILE}.index.json"
    whole = read_json(index)["weight_map"]
    for weight_map in ({}, {n: f"../unet/{f}" for n, f in whole.items()}, list(whole), {"conv_in.bias": 3}):
        write_json(index, {"weight_map": weight_map})
        assert "holds no weight_map" in refused(backend, folder, tmp_path / "out")
    write_json(index, {"weight_map": {n: f for n, f in whole.items() if "-00003-" not in f}})
    assert "missing" in refused(backend, folder, tmp_path / "out")
    write_json(index, {"weight_map": whole})
    next(unet.glob("*-00002-of-*")).unlink()
    assert "00002-of-00003.safetensors: no such file" in refused(backend, folder, tmp_path / "out")
    index.unlink()
    assert f"{WEIGHTS_FILE}: no such file" in refused(backend, folder, tmp_path / "out")


class Canary:
    """Unpickled, it makes the file that it names."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_is_read_by_pytorch_s_import_alone_and_never_run(backend, tmp_path):
    folder = pipeline_folder(tmp_path / "a")
    (folder / "unet" / WEIGHTS_FILE).unlink()
    (folder / "unet" / PICKLE_FILE).write_bytes(pickle.dumps(Canary(tmp_path / "loaded"), protocol=2))
    convert = "convert it: python -m torch_impl import FOLDER --out OUT"
    message = "not a whole pickle of tensors alone" if backend.name == "torch" else convert
    assert message in refused(backend, folder, tmp_path / "out")
    for read in (read_network, lambda path: refuse_pickle(path / PICKLE_FILE)):
        with pytest.raises(ValueError, match=convert):
            read(folder)
    assert not (tmp_path / "loaded").exists()
    if backend.name == "torch":
        import torch

        path = folder / "unet" / PICKLE_FILE
        torch.save({"epoch": 3}, path)
        assert "holds more than tensors by name" in refused(backend, folder, tmp_path / "out")
        weights = make_weights(TINY)
        torch.save({n: torch.from_numpy(w).bfloat16() for n, w in weights.items()}, path)
        code, _, err = run(backend, "import", folder, "--out", tmp_path / "out")
        assert code == 0 and "bfloat16 weights are made float32" in err
        found = read_tensors(tmp_path / "out" / "unet" / WEIGHTS_FILE)
        assert all(np.array_equal(found[n], torch.from_numpy(w).bfloat16().float().numpy()) for n, w in weights.items())


def test_what_the_command_line_gets_wrong_is_said(backend, tmp_path):
    folder = pipeline_folder(tmp_path / "a")
    code, _, err = run(backend, "import", folder)
    assert code == 2 and "needs a folder and --out" in err
    (tmp_path / "there").mkdir()
    code, _, err = run(backend, "import", folder, "--out", tmp_path / "there")
    assert code == 2 and "exists already; name another" in err
    values = {**TINY, "out_channels": 2}
    out = imported(backend, pipeline_folder(tmp_path / "b", values), tmp_path / "out")
    code, _, err = run(backend, "sample", out, "--out", tmp_path / "images")
    assert code == 2 and "out_channels = 2" in err
    assert json.loads((out / "unet" / "config.json").read_text())["out_channels"] == 2
