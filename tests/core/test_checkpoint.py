"""Checkpoint folders: bit-exact round trips, atomicity under failures, what is kept, and what is refused."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from core import config
from core import files as written
from core.checkpoints import checkpoint as module
from core.checkpoints.checkpoint import (
    WEIGHTS_FILE,
    Checkpoint,
    checkpoints_of,
    load_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from core.checkpoints.importing import read_unet
from core.checkpoints.run_folder import RunFolder
from core.checkpoints.sums import make_progress
from core.checkpoints.trained import open_trained
from core.config import ModelConfig, ProcessConfig, Recipe, TrainingConfig, architectures
from core.config.recipes import from_dict
from core.diffusion import schedules
from core.files import file_hash, write_json, write_tensors, write_text_atomic
from core.networks import specs
from core.networks.parameters import ParamSpec
from core.networks.specs import check_weights, param_specs
from core.reading import read_json, read_tensors

ROOT = Path(__file__).resolve().parents[2]
OLD = Path(__file__).parent / "data" / "checkpoint-format-1"
"""A checkpoint of format 1, after two steps of a training; commit 11c370b saved it."""
MODEL = ModelConfig(
    (8, 8), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,), norm_num_groups=4
)
RECIPE = Recipe(MODEL, ProcessConfig(timesteps=100, prediction="v"), training=TrainingConfig(steps=7))
FILES = {
    "model_index.json",
    "recipe.json",
    "data.json",
    "unet/config.json",
    f"unet/{WEIGHTS_FILE}",
    "scheduler/scheduler_config.json",
    "training_state.safetensors",
    "training_state.json",
}


def weights(model=MODEL, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(spec.shape).astype(np.float32) for name, spec in param_specs(model).items()}


def make(step=3, recipe=RECIPE):
    parts = ("params", "exp_avg", "exp_avg_sq")
    state = {f"{p}/{n}": v for i, p in enumerate(parts, 1) for n, v in weights(recipe.model, i).items()}
    return Checkpoint(
        recipe,
        weights(recipe.model),
        state,
        make_progress(recipe, step, {"adam_steps": step, "skipped": 0, "skipped_in_a_row": 0}, 1.5),
        {"class_names": []},
    )


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def equal(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a)


def run_folder(path):
    run = RunFolder(path)
    run.create(RECIPE)
    return run


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    save_checkpoint(tmp_path / "a" / "b", make())
    assert files(tmp_path) == {f"a/b/{name}" for name in FILES}
    again = load_checkpoint(tmp_path / "a" / "b")
    assert again.recipe == RECIPE and again.data == make().data
    assert equal(again.ema, make().ema) and equal(again.state, make().state)
    assert again.progress == make().progress
    assert open_trained(tmp_path / "a" / "b", "ema").process == RECIPE.process
    assert equal(open_trained(tmp_path / "a" / "b", "raw").weights, weights(seed=1))


@pytest.mark.parametrize("own_recipe", (True, False))
def test_a_schedule_that_is_added_as_contributing_says_is_saved_and_opened(tmp_path, monkeypatch, own_recipe):
    """Its function, its row and its name; diffusers, which has no such schedule, reads the betas."""

    def quadratic(config):
        return config.beta_start + (config.beta_end - config.beta_start) * np.linspace(0, 1, config.timesteps) ** 2

    monkeypatch.setitem(schedules.BETAS, "quadratic", quadratic)
    monkeypatch.setattr(config.process, "Schedule", Literal[(*schedules.BETAS, "flow", "edm")])
    process = from_dict(
        ProcessConfig, {"timesteps": 100, "schedule": "quadratic", "zero_terminal_snr": True, "prediction": "v"}
    )
    save_checkpoint(tmp_path / "a", make(recipe=Recipe(MODEL, process)))
    if not own_recipe:  # as another program leaves it
        (tmp_path / "a" / "recipe.json").unlink()
    assert open_trained(tmp_path / "a", "ema").process == process
    scheduler = read_json(tmp_path / "a" / "scheduler" / "scheduler_config.json")
    assert scheduler["trained_betas"] == quadratic(process).tolist() and scheduler["rescale_betas_zero_snr"]


def test_a_network_that_is_added_by_its_rows_is_saved_and_opened(tmp_path, monkeypatch):
    row = architectures.ArchitectureRow(lambda config: None, ("sample_size", "in_channels", "out_channels"))
    network = specs.Network(
        lambda config: {"w": ParamSpec((1, 1), "linear", "fan_avg")}, lambda config: 2, "DiptychOneUNet"
    )
    monkeypatch.setitem(architectures.ARCHITECTURES, "one", row)
    monkeypatch.setitem(specs.NETWORKS, "one", network)
    monkeypatch.setattr(config.model, "Architecture", Literal[(*architectures.ARCHITECTURES,)])
    recipe = from_dict(Recipe, {"model": {"architecture": "one", "sample_size": [8, 4]}})
    with pytest.raises(ValueError, match=r"model\.dropout = 0\.1: must be left out where architecture is one"):
        from_dict(Recipe, {"model": {"architecture": "one", "dropout": 0.1}})
    save_checkpoint(tmp_path / "a", make(recipe=recipe))
    assert open_trained(tmp_path / "a", "ema").model == recipe.model == read_unet(tmp_path / "a")[0]
    index = read_json(tmp_path / "a" / "model_index.json")
    assert (index["_class_name"], index["unet"]) == ("DiptychOnePipeline", ["diptych", "DiptychOneUNet"])
    assert "The one network: diffusers cannot open it" in (tmp_path / "a" / "README").read_text()


def test_arrays_that_are_not_contiguous_are_written_as_they_look(tmp_path):
    x = np.arange(24.0).reshape(2, 3, 4)
    write_tensors(tmp_path / "a.safetensors", {"x": x.transpose(2, 0, 1), "y": x[:, ::-1]})
    found = read_tensors(tmp_path / "a.safetensors")
    assert equal(found, {"x": np.ascontiguousarray(x.transpose(2, 0, 1)), "y": np.ascontiguousarray(x[:, ::-1])})


def test_a_class_conditional_checkpoint_says_that_diffusers_pipeline_cannot_sample_it(tmp_path):
    model = dataclasses.replace(MODEL, num_class_embeds=3)
    save_checkpoint(tmp_path / "a", make(recipe=dataclasses.replace(RECIPE, model=model)))
    assert files(tmp_path / "a") == FILES | {"README"}
    assert read_json(tmp_path / "a" / "model_index.json")["_class_name"] != "DDPMPipeline"
    config, found = read_unet(tmp_path / "a")
    assert config == model and equal(found, weights(model))


WRITES = ("write_json", "write_tensors", "os.replace", "_sync")


@pytest.mark.parametrize("nth", (1, 2, 3))
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("error", (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")))
def test_a_failure_anywhere_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, write, nth, error):
    run = run_folder(tmp_path / "run")
    run.save(make(1), 0)
    before = files(tmp_path)
    owner, name = (os, "replace") if write == "os.replace" else (written if write == "_sync" else module, write)
    real, calls = getattr(owner, name), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == nth:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        if (write, nth) == ("write_tensors", 3):  # only two tensor files are written
            run.save(make(2), 0)
            assert resolve_checkpoint(tmp_path / "run").name == "step-00000002"
            return
        with pytest.raises(type(error)):
            run.save(make(2), 0)
    assert files(tmp_path) == before
    assert resolve_checkpoint(tmp_path / "run").name == "step-00000001"
    assert load_checkpoint(resolve_checkpoint(tmp_path / "run")).progress["step"] == 1
    run.save(make(2), 0)
    assert load_checkpoint(resolve_checkpoint(tmp_path / "run")).progress["step"] == 2


@contextlib.contextmanager
def file_size_limit(size):
    """The system refuses writes beyond `size` bytes a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_an_error_of_the_system(tmp_path):
    run = run_folder(tmp_path / "run")
    run.save(make(1), 0)
    before = files(tmp_path)
    with pytest.raises(OSError), file_size_limit(5000):
        run.save(make(2), 0)
    assert files(tmp_path) == before and resolve_checkpoint(tmp_path / "run").name == "step-00000001"


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        save_checkpoint(tmp_path / "file" / "a", make())
    assert files(tmp_path) == {"file"}


def test_text_is_replaced_in_one_step(tmp_path, monkeypatch):
    write_text_atomic(tmp_path / "a", "old")

    def failing(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError):
            write_text_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and files(tmp_path) == {"a"}


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3, 10]), (1, [10]), (2, [3, 10]), (9, [1, 2, 3, 10])])
def test_the_last_checkpoints_are_kept(tmp_path, keep, left):
    run = run_folder(tmp_path / "run")
    for step in (1, 2, 3, 10):
        run.save(make(step), keep)
        assert resolve_checkpoint(tmp_path / "run").name == f"step-{step:08d}"
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [f"step-{s:08d}" for s in left]
    run.save(make(10), keep)  # a step trained again
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == len(left)


def test_a_path_is_a_run_or_a_checkpoint(tmp_path):
    folder = run_folder(tmp_path / "run").save(make(), 0)
    assert resolve_checkpoint(tmp_path / "run") == folder == resolve_checkpoint(str(folder))
    assert resolve_checkpoint(folder / "unet") == folder / "unet"  # a bare model folder
    with pytest.raises(ValueError, match="nothing"):
        resolve_checkpoint(tmp_path / "nothing")
    with pytest.raises(ValueError, match="latest"):
        resolve_checkpoint(folder / "scheduler")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="neither a run with a checkpoint"):
        resolve_checkpoint(tmp_path / "run")


def test_a_new_run_does_not_write_over_an_old_one(tmp_path):
    run_folder(tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        RunFolder(tmp_path / "run").create(RECIPE)


def test_recovery_drops_what_a_killed_run_left(tmp_path):
    run = run_folder(tmp_path / "run")
    for step in (1, 2, 3):
        run.log({"step": step})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": ')
    code = "import os, sys; from pathlib import Path; from core.files import temporary_beside\n"
    code += "for name in sys.argv[1:]: temporary_beside(Path(name)).__enter__().mkdir()\nos._exit(9)"
    left = (run.path / "checkpoints" / "step-00000003", run.path / "latest")
    assert subprocess.run([sys.executable, "-c", code, *map(str, left)], cwd=ROOT).returncode == 9
    assert len([*run.path.rglob(".*.partial")]) == 2
    (tmp_path / "new").mkdir()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "new" / "recipe.json")], cwd=ROOT).returncode == 9
    run_folder(tmp_path / "new")
    assert not [*(tmp_path / "new").rglob(".*")]
    run.recover(2)
    assert [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()] == [1, 2]
    assert files(run.path) == {"recipe.json", "metrics.jsonl"} and not list((run.path / "checkpoints").iterdir())


def test_a_run_killed_before_latest_names_its_first_checkpoint_has_its_averages(tmp_path, monkeypatch):
    run, checkpoint = run_folder(tmp_path / "run"), make(2)
    checkpoint = dataclasses.replace(
        checkpoint, state=checkpoint.state | {f"profile_0/{n}": v for n, v in checkpoint.ema.items()}
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "core.checkpoints.run_folder.write_text_atomic", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        run.save(checkpoint, 0)
    assert run.load_last().progress["step"] == 2 and not (run.path / "latest").exists()
    run.recover(2)
    recipe = dataclasses.replace(checkpoint.recipe, training=TrainingConfig(ema_profiles=(0.1,)))
    assert [step for step, _, _ in run.averages(recipe)] == [2]


def test_pruning_spares_later_checkpoints_and_copies_of_the_user(tmp_path):
    run = run_folder(tmp_path / "run")
    for step in (1, 2, 3, 4):
        run.save(make(step), 0)
    shutil.copytree(run.path / "checkpoints" / "step-00000001", run.path / "checkpoints" / "step-00000001-copy")
    (run.path / "latest").write_text("step-00000002\n")  # the user goes back
    run.save(make(3), 1)
    names = {path.name for path in (run.path / "checkpoints").iterdir()}
    assert names == {"step-00000001-copy", "step-00000003", "step-00000004"}
    (run.path / "latest").unlink()
    assert [path.name for path in checkpoints_of(run.path)] == ["step-00000004", "step-00000003"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "a"
    save_checkpoint(folder, make())
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize(
    "name", sorted(FILES - {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"})
)
@pytest.mark.parametrize("share", (0.0, 0.5, 0.9))
def test_a_file_cut_short_is_named(copy, name, share):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    "name", sorted(FILES - {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"})
)
def test_a_file_that_is_missing_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_checkpoint(copy)


def _header(path, change):
    """Rewrite a safetensors header (8 bytes of length, then JSON)."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def test_a_damaged_header_is_named(copy):
    def change(header):
        header["conv_in.bias"]["shape"] = [9]
        return header

    _header(copy / "unet" / WEIGHTS_FILE, change)
    (copy / "training_state.json").unlink()  # as others save it, without sums
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_unet(copy)


def test_a_json_file_that_is_no_object_is_named(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"a\.json: holds no JSON object"):
        read_json(tmp_path / "a.json")
    write_json(tmp_path / "b.json", {"b": 1, "a": [None, 0.1]})
    assert read_json(tmp_path / "b.json") == {"b": 1, "a": [None, 0.1]}


def without(name):
    return lambda w: {k: v for k, v in w.items() if k != name}


WRONG = [
    (without("conv_in.bias"), "1 missing, 0 left over (missing conv_in.bias)"),
    (
        lambda w: {**w, "temb.dense.0.weight": w["conv_in.bias"]},
        "0 missing, 1 left over (left over temb.dense.0.weight)",
    ),
    (lambda w: {k.replace("conv_", "convolution_"): v for k, v in w.items()}, "12 missing, 12 left over"),
    (
        lambda w: {**w, "conv_in.weight": w["conv_in.weight"].transpose(2, 3, 1, 0)},
        "conv_in.weight has shape (3, 3, 1, 8), the network needs (8, 1, 3, 3)",
    ),
    (lambda w: {**w, "conv_out.bias": np.float32([np.nan])}, "conv_out.bias holds values that are not finite"),
    (lambda w: {**w, "conv_out.bias": np.float32([np.inf])}, "conv_out.bias holds values that are not finite"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_weights_that_are_not_this_networks_are_refused_by_name(copy, change, message):
    check_weights(weights(), MODEL, "w")
    with pytest.raises(ValueError) as error:
        check_weights(change(weights()), MODEL, "w")
    assert message in str(error.value) and str(error.value).startswith("w: ")
    shutil.rmtree(copy)
    save_checkpoint(copy, dataclasses.replace(make(), ema=change(weights())))  # the sums are right
    for read in (read_unet, load_checkpoint):
        with pytest.raises(ValueError) as error:
            read(copy)
        assert str(error.value).startswith(f"{copy / 'unet' / WEIGHTS_FILE}: ") and message in str(error.value)


def test_the_training_state_is_checked_too(copy):
    state = make().state
    del state["exp_avg_sq/conv_in.bias"]
    shutil.rmtree(copy)
    save_checkpoint(copy, dataclasses.replace(make(), state=state))
    with pytest.raises(ValueError, match=r"training_state\.safetensors.*exp_avg_sq.*conv_in\.bias"):
        load_checkpoint(copy)


def test_weights_of_another_architecture_are_refused(copy):
    config = read_json(copy / "unet" / "config.json")
    write_json(copy / "unet" / "config.json", {**config, "block_out_channels": [16]})
    with pytest.raises(ValueError, match=r"conv_in\.weight.*\(8, 1, 3, 3\).*\(16, 1, 3, 3\)"):
        read_unet(copy)


def test_a_bare_folder_opens_and_one_without_a_configuration_does_not(copy, tmp_path):
    config, found = read_unet(copy / "unet")
    assert config == MODEL and equal(found, weights())
    with pytest.raises(ValueError, match=r"no scheduler/scheduler_config\.json"):
        open_trained(copy / "unet", "ema")
    with pytest.raises(ValueError, match="only one set of weights"):
        open_trained(copy / "unet", "raw")
    (copy / "unet" / "config.json").unlink()
    for folder in (copy / "unet", copy):
        with pytest.raises(ValueError, match=r"no unet/config\.json"):
            read_unet(folder)


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ("diffusion_pytorch_model.bin", WEIGHTS_FILE))
def test_a_pickle_is_not_loaded(copy, tmp_path, name):
    import pickle

    (copy / "unet" / WEIGHTS_FILE).unlink()
    (copy / "unet" / name).write_bytes(pickle.dumps(Canary(tmp_path / "loaded")))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_unet(copy)
    assert not (tmp_path / "loaded").exists()
    pickle.loads((copy / "unet" / name).read_bytes()).close()
    assert (tmp_path / "loaded").exists()


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _flip(path, position):
    """Flip the lowest bit of a byte; what is written is another whole file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_every_file_has_its_sum_and_size(copy):
    progress = read_json(copy / "training_state.json")
    assert progress["format"] == 2 and progress["files"].keys() == set(module.SUMMED) <= FILES
    for name, found in progress["files"].items():
        content = (copy / name).read_bytes()
        assert found == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


@pytest.mark.parametrize("name", module.SUMMED)
def test_a_flipped_bit_is_a_damaged_file_by_its_path(copy, name):
    content = (copy / name).read_bytes()
    place = len(content) - 4 if name.endswith(".safetensors") else content.index(b"[")
    _flip(copy / name, place)
    with pytest.raises(ValueError) as error:
        load_checkpoint(copy)
    assert str(error.value).startswith(f"{copy / name}: damaged, or changed since it was saved")


def test_a_flipped_bit_that_makes_a_weight_infinite_is_damage_too(copy):
    path = copy / "unet" / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-4] + np.float32([np.inf]).tobytes())
    for read in (load_checkpoint, open_trained, read_unet):
        with pytest.raises(ValueError, match="damaged, or changed since it was saved"):
            read(copy)


@pytest.mark.parametrize("name", ["recipe.json", "data.json"])
def test_nobody_draws_by_a_damaged_recipe(copy, name):
    path = copy / name
    path.write_text(path.read_text().replace("{", "{ ", 1))
    with pytest.raises(ValueError) as error:
        open_trained(copy, changed_weights=True)
    assert str(error.value).startswith(f"{path}: damaged, or changed since it was saved")


COUNTS = {"adam_steps": 3, "skipped": 0, "skipped_in_a_row": 0}
PROGRESS = [
    ({"format": 3}, "format = 3: must be 1 or 2"),
    ({"format": 1}, "format = 1, and it holds sums"),
    ({"format": None}, "format = None: must be 1 or 2"),
    ({"format": True}, "format = True: must be 1 or 2"),
    ({"step": 2}, "step = 2, and the folder is named step-00000003"),
    ({"step": 3.0}, "step = 3.0: must be a whole number"),
    ({"step": None}, "step = None: must be a whole number"),
    ({"step": True}, "step = True: must be a whole number"),
    ({"data_position": 3}, "data_position = 3: must be 192, by step and recipe"),
    ({"seed": 1}, "seed = 1: must be 0, by step and recipe"),
    ({"seconds": "1"}, "seconds = '1': must be a number, at least 0"),
    ({"seconds": float("nan")}, "seconds = nan: must be a number, at least 0"),
    ({"counters": {}}, "adam_steps = None: must be a whole number, at least 0"),
    ({"counters": {**COUNTS, "adam_steps": -1}}, "adam_steps = -1: must be a whole number, at least 0"),
    ({"counters": {**COUNTS, "skipped": 0.5}}, "skipped = 0.5: must be a whole number, at least 0"),
    ({"counters": {**COUNTS, "adam_steps": 2}}, "must add up to step = 3"),
    ({"counters": {**COUNTS, "skipped_in_a_row": 1}}, "must add up to step = 3"),
    ({"counters": {**COUNTS, "lost": 0}}, "must be adam_steps, skipped, skipped_in_a_row by name"),
    ({"seed": False}, "seed = False: must be 0, by step and recipe"),
    ({"seed": None}, "seed = None: must be 0, by step and recipe"),
    ({"counters": [1]}, "counters = [1]: must be adam_steps, skipped, skipped_in_a_row by name"),
]


@pytest.mark.parametrize(("change", "message"), PROGRESS)
def test_progress_that_does_not_agree_is_refused(saved, tmp_path, change, message):
    folder = shutil.copytree(saved, tmp_path / "step-00000003")
    path = folder / "training_state.json"
    progress = read_json(path)
    assert load_checkpoint(folder).progress["step"] == 3
    write_json(path, {**progress, **change})
    with pytest.raises(ValueError) as error:
        load_checkpoint(folder)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


NO_SUMS = "{}: holds no SHA-256 sums of its files; damage to them may go unnoticed"


def test_a_folder_that_others_saved_opens_and_it_is_said_that_it_has_no_sums(copy, caplog):
    for name in ("training_state.json", "training_state.safetensors", "recipe.json", "data.json"):
        (copy / name).unlink()
    with caplog.at_level("INFO"):
        open_trained(copy)
    assert [record.getMessage() for record in caplog.records] == [NO_SUMS.format(copy)]


@pytest.mark.parametrize("sums", [None, {}, [], {"unet/": 1}])
def test_a_checkpoint_whose_sums_are_gone_is_refused(copy, sums):
    path = copy / "training_state.json"
    write_json(path, {**read_json(path), "files": sums})
    for read in (load_checkpoint, open_trained):
        with pytest.raises(ValueError, match=r"has no SHA-256 sum in training_state\.json"):
            read(copy)


def test_a_checkpoint_of_format_1_opens_and_says_that_it_has_no_sums(tmp_path, caplog):
    folder = shutil.copytree(OLD, tmp_path / "step-00000002")
    with caplog.at_level("INFO"):
        old = load_checkpoint(folder)
    assert [record.getMessage() for record in caplog.records] == [NO_SUMS.format(folder)]
    assert old.progress["step"] == 2 and old.progress["counters"]["adam_steps"] == 2
    assert float(sum(np.abs(value).astype(np.float64).sum() for value in old.ema.values())) > 0
    for kind in ("ema", "raw"):
        caplog.clear()
        with caplog.at_level("INFO"):
            opened = open_trained(folder, kind)
        assert [record.getMessage() for record in caplog.records] == [NO_SUMS.format(folder)]
    assert equal(open_trained(folder).weights, old.ema) and not equal(opened.weights, old.ema)
    save_checkpoint(tmp_path / "again" / "step-00000002", old)  # and the new format holds the same
    again = load_checkpoint(tmp_path / "again" / "step-00000002")
    assert equal(again.ema, old.ema) and equal(again.state, old.state)
    assert (again.recipe, again.progress, again.data) == (old.recipe, old.progress, old.data)


@pytest.mark.parametrize("kind", ["ema", "raw"])
def test_weights_that_others_replaced_are_drawn_from_where_that_is_asked_for(copy, caplog, kind):
    path = copy / ("training_state.safetensors" if kind == "raw" else f"unet/{WEIGHTS_FILE}")
    mine = {name: value * np.float32(2) for name, value in read_tensors(path).items()}
    write_tensors(path, mine)
    with pytest.raises(ValueError, match="changed since it was saved"):
        load_checkpoint(copy)
    with pytest.raises(ValueError, match=r"changed since it was saved.*--changed-weights"):
        open_trained(copy, kind)
    found = open_trained(copy, kind, changed_weights=True).weights
    assert "changed since it was saved" in caplog.text
    assert equal(found, {name: value * np.float32(2) for name, value in weights(seed=int(kind == "raw")).items()})
