"""The command line without a framework: help, what the user must change, and exit codes."""

import platform
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from core.commands.main import VERBS
from tests.command_line import refused

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"torch", "tensorflow", "keras", "diffusers", "onnxruntime", "numpy", "scipy", "matplotlib", "PIL", "jinja2"}


@pytest.mark.parametrize("package", ["torch_impl", "tf_impl"])
@pytest.mark.parametrize("verb", ["", *VERBS, "edit inpaint", "edit translate"])
def test_help_imports_nothing_that_is_slow(package, verb):
    code = (
        "import sys, runpy\n"
        f"sys.argv[1:] = {[*verb.split(), '--help']!r}\n"
        "try:\n"
        f"    runpy.run_module({package!r}, run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(done.stderr.split())
    assert package in modules and modules.isdisjoint(SLOW)
    assert f"python -m {package}" in done.stdout
    other = {"torch_impl": "tf_impl", "tf_impl": "torch_impl"}[package]
    assert other not in done.stdout and "PACKAGE" not in done.stdout
    if verb in ("train", "sample", "likelihood"):
        examples = [line for line in done.stdout.splitlines() if line.startswith(f"  python -m {package} {verb} ")]
        assert len(examples) >= 4
        for name in re.findall(r"configs/\S+", " ".join(examples)):
            assert (ROOT / name).is_file()


def test_only_a_process_of_its_own_leaves_a_framework_out_of_garbage_collection():
    code = (
        "import gc, sys, types\n"
        "from core.twin import Twin\n"
        "package = sys.modules['twin'] = types.ModuleType('twin')\n"
        f"package.__path__ = [{str(ROOT / 'tests' / 'numpy_impl')!r}]\n"
        "Twin('twin').module('pace')\n"
        "before = gc.get_freeze_count()\n"
        "Twin('twin', own_process=True).module('pace')\n"
        "again = gc.get_freeze_count()\n"
        "Twin('twin', own_process=True).module('trainer')\n"
        "print(before, again, gc.get_freeze_count() > again, gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, again, *rest = done.stdout.split()
    assert before == again and rest == ["True", "True"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            [],
            [
                "no verb given",
                "train, distil, sample, likelihood, edit, features, import, synthesise-ema,",
                ", synthesise-ema, export, gpu-check, fetch, worker;",
            ],
        ),
        (
            ["trian"],
            [
                "unknown verb 'trian'",
                "train, distil, sample, likelihood, edit, features, import, synthesise-ema,",
                ", synthesise-ema, export, gpu-check, fetch, worker;",
                "--help",
            ],
        ),
        (["train", "--training.stepps", "4"], ["--training.stepps", "did you mean --training.steps?"]),
        (["train", "--training.steps", "0"], ["training.steps = 0: must be at least 1"]),
        (["train", "--training.steps", "many"], ["--training.steps", "'many'"]),
        (["train", "--process.schedule", "cubic"], ["--process.schedule", "cosine"]),
        (["train", "--config", "nowhere.toml"], ["nowhere.toml", "no such file"]),
        (["train", "--resume", "nowhere"], ["--resume nowhere", "no run there"]),
        (["train", "--config", "a.toml", "--resume", "b"], ["--config with --resume"]),
        (["train", "--data.source", "nowhere.zip"], ["nowhere.zip", "no such file"]),
        (["sample"], ["no run or checkpoint given"]),
        (["sample", "a", "b"], ["sample a b", "one run"]),
        (["sample", "nowhere"], ["nowhere: no such run"]),
        (["sample", "nowhere", "--n", "0"], ["n 0: must be at least 1"]),
        (["sample", "a", "--param", "theta_e"], ["--param theta_e: must be NAME=VALUE"]),
        (["sample", "--param", "theta_e=wide", "a"], ["--param theta_e=wide: must be NAME=VALUE with a number"]),
        (["sample", "a", "--param", "b=1", "--param=b=2"], ["--param b=2", "each name once"]),
        (["sample", "a", "--param"], ["--param: its value is empty"]),
        (["worker", "--thread", "2"], ["worker --thread 2", "--threads N"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(argv, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(2, *argv)
    assert all(word in line for word in words), line


def test_a_mistake_in_a_recipe_names_file_key_and_remedy(recipe):
    text = recipe.read_text()
    recipe.write_text(text.replace("batch_size", "batchsize"))
    line = refused(2, "train", "--config", recipe)
    assert str(recipe) in line and "training.batchsize" in line and "did you mean batch_size?" in line
    recipe.write_text(text.replace("timesteps = 100", 'timesteps = "100"'))
    assert "process.timesteps = '100': must be int" in refused(2, "train", "--config", recipe)
    recipe.write_text("[model")
    assert str(recipe) in refused(2, "train", "--config", recipe)


def test_images_that_do_not_fit(recipe, tmp_path):
    images = np.random.default_rng(0).random((5, 8, 16), np.float32)
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(images):
        np.save(folder / f"{index}.npy", image[:, :12])
    common = ("train", "--config", recipe, "--data.source", folder, "--run", tmp_path / "run")
    line = refused(2, *common)
    assert "0.npy" in line and "8x12 pixels" in line and "data.fit = resize or pad" in line
    images[3, 2, 5] = np.nan
    for index, image in enumerate(images):
        np.save(folder / f"{index}.npy", image)
    line = refused(2, *common)
    assert "3.npy" in line and "1 of 128 values are not finite" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no mallopt without glibc")
def test_freed_memory_is_used_again():
    """A block of 64 MiB, allocated and freed ten times, is mapped once: about 16,000 page faults, not 160,000."""
    code = """
        import resource, sys
        from core.command_line import keep_freed_memory
        if sys.argv[1] == "keep":
            keep_freed_memory()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            block = bytearray(b"x") * (64 << 20)
            del block
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
    """
    faults = {}
    for how in ("keep", "return"):
        words = [sys.executable, "-c", textwrap.dedent(code), how]
        faults[how] = int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert faults["return"] > 5 * faults["keep"], faults
