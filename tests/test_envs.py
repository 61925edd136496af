"""The environments: what is pinned, what is installed, and the script that makes them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from envs import make_envs, make_locks
from eval.twins.interpreters import ENVIRONMENTS, find_python

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "envs"
REQUIREMENT = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9.]*)(?P<comment> +# .+)?")


def pins(name: str) -> dict[str, str]:
    """Package -> version in a requirement file and those that it includes; every line must be exact and explained."""
    found: dict[str, str] = {}
    for line in (ENVS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("-r "):
            found |= pins(line.split()[1])
            continue
        match = REQUIREMENT.fullmatch(line)
        assert match, f"{name}: not NAME==VERSION: {line}"
        assert match["comment"], f"{name}: no reason given: {line}"
        found[match["name"]] = match["version"]
    return found


def test_every_requirement_is_an_exact_pin_with_a_reason():
    files = {path.name: pins(path.name) for path in ENVS.glob("*.txt")}
    assert len(files) == 8
    shared = {name: files["race.txt"][name] for name in files["race.txt"] if name in files["test-pytorch.txt"]}
    assert shared == {name: files["test-pytorch.txt"][name] for name in shared} and "diffusers" in shared
    assert files["race.txt"]["torch"] == files["pytorch.txt"]["torch"]
    assert files["pytorch.txt"].keys() - files["common.txt"].keys() == {"torch"}
    assert files["tensorflow.txt"].keys() - files["common.txt"].keys() == {"keras", "tensorflow"}
    cpu = {name.removesuffix("-cpu"): version for name, version in files["tensorflow-cpu.txt"].items()}
    assert cpu == files["tensorflow.txt"]
    assert tuple(map(int, files["common.txt"]["scipy"].split("."))) < (1, 18)


@pytest.mark.parametrize("name", ["pytorch", "tensorflow"])
def test_conda_files(name):
    text = yaml.safe_load((ENVS / f"{name}.yml").read_text(encoding="utf-8"))
    assert text["name"] == f"diptych-{name}"
    assert text["dependencies"][:2] == ["python=3.11", "pip"]
    lines = text["dependencies"][2]["pip"]
    assert lines[0] == f"-r {name}.txt"  # a bare name: conda resolves it beside the .yml, whatever the working folder
    if name == "pytorch":
        assert len(lines) == 1
    else:
        version = pins("tensorflow.txt")["tensorflow"]
        assert lines[1:] == [
            f'tensorflow[and-cuda]=={version}; sys_platform == "linux" and platform_machine == "x86_64"'
        ]


HASHED = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^ +]+)[^ ]*(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def locked(path: Path) -> dict[str, str]:
    """Package -> version in a lock file; every line must be the head, or belong to a package with its hashes."""
    head, _, text = path.read_text(encoding="utf-8").partition("\n")
    assert head.startswith("# Made by envs/make_locks.py")
    found = {match["name"]: match["version"] for match in HASHED.finditer(text)}
    assert HASHED.sub("", text) == "", path
    return found


@pytest.mark.parametrize("name", make_locks.LOCKS)
def test_every_pin_stands_in_each_lock_file_with_the_same_version(name):
    wanted, found = pins(make_locks.LOCKS[name][0]), locked(ENVS / "lock" / f"{name}.txt")
    assert {package: found.get(package) for package in wanted} == wanted
    assert bool([package for package in found if package.startswith("nvidia-")]) == (
        name == "pytorch-cuda-linux-x86_64"
    )


def test_the_lock_files_are_those_that_are_made_and_asked_for(monkeypatch):
    assert {path.stem for path in (ENVS / "lock").iterdir()} == set(make_locks.LOCKS)
    asked = set()
    for system, machine, flags in (("Linux", "x86_64", (False, True)), ("Darwin", "arm64", (False,))):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        for name in make_envs.MODULES:
            for cpu in flags:
                lock = make_envs.lock_file(name, cpu)
                asked.add(Path(lock).stem)
                assert make_locks.LOCKS[Path(lock).stem][0] == make_envs.requirement_files(name, False, cpu)[0]
    assert asked == set(make_locks.LOCKS)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(
        make_envs.SetupError, match=r"there is no envs/lock/pytorch-cpu-macos-riscv64\.txt: leave LOCKED"
    ):
        make_envs.lock_file("pytorch", False)


INSTALLED = """
import importlib.metadata as m, json, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return m.version(name + "-cpu")  # CPU=1
print(json.dumps({name: version(name).split("+")[0] for name in sys.argv[1:]}))
"""


@pytest.mark.parametrize("framework", ["torch", pytest.param("tensorflow", marks=pytest.mark.cross)])
def test_an_environment_has_what_is_pinned(framework):
    name = ENVIRONMENTS[framework]
    wanted = pins(f"{name}.txt") | pins(f"test-{name}.txt")
    answer = subprocess.run([*find_python(framework), "-c", INSTALLED, *wanted], capture_output=True, text=True)
    assert json.loads(answer.stdout) == wanted, answer.stderr


# --- the script, on a checkout of its own whose frameworks are wheels of one line each


def wheel(folder: Path, name: str, version: str, code: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


class Checkout:
    """A folder with the script, small requirement files and the wheels that they ask for."""

    def __init__(self, root: Path) -> None:
        self.envs, self.venvs = root / "envs", root / ".venvs"
        if self.envs.exists():  # a copy
            return
        self.envs.mkdir()
        shutil.copy(ENVS / "make_envs.py", self.envs)
        for name in ("torch", "tensorflow", "keras", "pytest"):
            wheel(self.envs, name, "1.0")
        self.write("common.txt", "--no-index\n--find-links .\n")
        self.write("pytorch.txt", "-r common.txt\ntorch==1.0\n")
        self.write("tensorflow.txt", "-r common.txt\ntensorflow==1.0\nkeras==1.0\n")
        for name in ("pytorch", "tensorflow"):
            self.write(f"test-{name}.txt", "pytest==1.0\n")

    def write(self, name: str, text: str) -> None:
        (self.envs / name).write_text(text)

    def make(self, *flags: str, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(self.envs / "make_envs.py"), *flags]
        environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, **variables}  # pip's own settings may cap versions
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    def version(self, name: str, package: str) -> str:
        code = f"from importlib.metadata import version; print(version({package!r}))"
        python = self.venvs / name / "bin" / "python"
        return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def first_call(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A checkout after the script's first call, beside a venv made by hand, and what that call said."""
    root = tmp_path_factory.mktemp("made")
    checkout = Checkout(root)
    subprocess.run([sys.executable, "-m", "venv", checkout.venvs / "pytorch"], check=True)
    (checkout.venvs / "pytorch" / "by-hand").touch()
    return root, checkout.make("--tool", "venv")


@pytest.fixture
def made(first_call, tmp_path) -> Checkout:
    """A copy of that checkout."""
    shutil.copytree(first_call[0], tmp_path / "copy", symlinks=True)
    return Checkout(tmp_path / "copy")


@pytest.mark.slow
def test_a_missing_environment_is_created_and_a_venv_made_by_hand_is_adopted(first_call, made):
    said = first_call[1].stderr
    assert first_call[1].returncode == 0, said
    assert "[pytorch 1/3]" not in said and (made.venvs / "pytorch" / "by-hand").exists()
    assert "[tensorflow 1/3] creating" in said and "[tensorflow 3/3] importing" in said
    assert made.version("pytorch", "torch") == made.version("tensorflow", "keras") == "1.0"


@pytest.mark.slow
def test_what_is_up_to_date_is_left_alone_at_once(made):
    start = time.monotonic()
    again = made.make("--tool", "venv")
    assert again.stderr == "environments are up to date\n" and time.monotonic() - start < 1.0


@pytest.mark.slow
def test_the_tests_packages_are_added_and_kept(made):
    assert "[pytorch 2/3]" in made.make("--tool", "venv", "--test").stderr
    assert made.version("pytorch", "pytest") == "1.0"
    for flags in ([], ["--test"]):
        assert made.make("--tool", "venv", *flags).stderr == "environments are up to date\n"


def lock(checkout: Checkout, hashes: dict[str, str]) -> None:
    """Lock files of the checkout for this machine; a wheel's hash where none is given."""
    (checkout.envs / "lock").mkdir(exist_ok=True)
    for name, packages in (("pytorch", ["torch"]), ("tensorflow", ["tensorflow", "keras"])):
        text = "--no-index\n--find-links ..\n"
        for package in packages:
            content = (checkout.envs / f"{package}-1.0-py3-none-any.whl").read_bytes()
            text += f"{package}==1.0 --hash=sha256:{hashes.get(package, hashlib.sha256(content).hexdigest())}\n"
        checkout.write(make_envs.lock_file(name, False), text)


@pytest.mark.slow
def test_packages_whose_hash_is_another_are_refused_with_locked(tmp_path):
    checkout = Checkout(tmp_path)
    lock(checkout, {"keras": "0" * 64})
    failed = checkout.make("--tool", "venv", "--locked")
    assert (
        failed.returncode == 1
        and "HASHES" in failed.stderr
        and "keras" in (checkout.venvs / "tensorflow.log").read_text()
    )
    assert checkout.version("pytorch", "torch") == "1.0" and checkout.version("tensorflow", "keras") == ""
    lock(checkout, {})
    made = checkout.make("--tool", "venv", "--locked")
    assert made.returncode == 0 and "[pytorch" not in made.stderr and checkout.version("tensorflow", "keras") == "1.0"
    for flags in ([], ["--locked"]):  # what was made with it needs it no more
        assert checkout.make("--tool", "venv", *flags).stderr == "environments are up to date\n"
    tests = checkout.make("--tool", "venv", "--test")
    assert tests.returncode == 0 and tests.stderr.count("now installed without a check of their hashes") == 2
    refused = checkout.make("--tool", "venv", "--locked")
    assert refused.returncode == 2 and "was not made with LOCKED=1 alone: remove it" in refused.stderr


def test_locked_and_test_exclude_each_other(tmp_path):
    answer = Checkout(tmp_path).make("--locked", "--test")
    assert answer.returncode == 2 and "not allowed with" in answer.stderr


@pytest.mark.parametrize("right", [True, False])
def test_pip_refuses_a_wrong_hash(tmp_path, right):
    """The same options as the script's, without an environment of its own."""
    wheel(tmp_path, "torch", "1.0")
    content = (tmp_path / "torch-1.0-py3-none-any.whl").read_bytes()
    found = hashlib.sha256(content if right else content + b"x").hexdigest()
    (tmp_path / "lock.txt").write_text(f"torch==1.0 --hash=sha256:{found}\n")
    options = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "to")]
    command = [sys.executable, "-m", "pip", "install", *make_envs.CHECKED, *options, "-r", "lock.txt"]
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (answer.returncode == 0) == right == (tmp_path / "to" / "torch.py").exists(), answer.stderr
    assert right or "DO NOT MATCH THE HASHES" in answer.stderr


@pytest.mark.slow
def test_another_version_is_installed_where_it_is_asked_for_alone(made):
    wheel(made.envs, "keras", "2.0")
    made.write("tensorflow.txt", "-r common.txt\ntensorflow==1.0\nkeras==2.0\n")
    upgraded = made.make("--tool", "venv")
    assert "[tensorflow 2/3]" in upgraded.stderr and "[pytorch" not in upgraded.stderr
    assert made.version("tensorflow", "keras") == "2.0"


@pytest.mark.slow
def test_an_environment_with_a_gpu_s_packages_does_not_become_a_cpu_s(made):
    refused = made.make("--tool", "venv", "--cpu")
    assert refused.returncode == 2 and "was not made with CPU=1: remove it" in refused.stderr


@pytest.mark.slow
def test_an_installation_that_fails_is_tried_again_and_takes_nothing_away(made):
    made.write("pytorch.txt", "-r common.txt\ntorch==3.0\n")
    for _ in range(2):  # what failed is not taken for whole the next time
        failed = made.make("--tool", "venv")
        assert failed.returncode == 1
        error = failed.stderr.splitlines()[-1]
        assert error.startswith("error: pytorch: installing packages failed") and "torch==3.0" in error
        assert str(made.venvs / "pytorch.log") in error
    assert (made.venvs / "pytorch" / "by-hand").exists()


@pytest.mark.slow
def test_an_environment_whose_framework_cannot_be_imported_is_rebuilt(made):
    made.write("pytorch.txt", "-r common.txt\ntorch==3.0\n")
    wheel(made.envs, "torch", "3.0", "import no_such_module")
    broken = made.make("--tool", "venv")
    assert broken.returncode == 1 and "importing the framework failed: ModuleNotFoundError" in broken.stderr
    wheel(made.envs, "torch", "3.0")
    rebuilt = made.make("--tool", "venv")
    assert rebuilt.returncode == 0 and "removing the broken or unfinished" in rebuilt.stderr
    assert not (made.venvs / "pytorch" / "by-hand").exists() and made.version("pytorch", "torch") == "3.0"


@pytest.mark.slow
def test_an_interrupted_creation_and_a_lost_interpreter_are_not_taken_for_whole(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.write("pytorch.txt", "-r common.txt\ntorch==9\n")
    assert checkout.make("--tool", "venv").returncode == 1  # as after an interruption: a venv, and no torch in it
    assert (checkout.venvs / "pytorch" / "bin" / "python").exists()
    checkout.write("pytorch.txt", "-r common.txt\ntorch==1.0\n")
    (checkout.venvs / "tensorflow" / "bin").mkdir(parents=True)
    (checkout.venvs / "tensorflow" / "bin" / "python").symlink_to("/no/such/python")
    made = checkout.make("--tool", "venv")
    assert made.returncode == 0 and made.stderr.count("removing the broken or unfinished") == 2


def test_a_tool_that_is_not_installed_is_said_first(tmp_path):
    answer = Checkout(tmp_path).make("--tool", "conda", PATH=str(tmp_path))
    assert answer.returncode == 2 and "--tool conda: not on PATH" in answer.stderr


@pytest.mark.parametrize(
    ("version", "has_pip", "code", "message"),
    [
        ("3 10", True, 2, "Python 3.11 (3.12 and 3.13 are untested), or uv or conda"),
        ("3 11", False, 2, "Python 3.11 lacks ensurepip, so it cannot make a venv: install it (Debian, Ubuntu: apt"),
        ("3 12", True, 1, "warning: Python 3.12 is untested; the version tested is 3.11"),
    ],
)
def test_which_python_the_user_must_install_is_said_first(tmp_path, version, has_pip, code, message):
    """The interpreter, as sys.executable and on PATH, reports a version and whether it has ensurepip, no more."""
    checkout, path = Checkout(tmp_path), tmp_path / "path"
    path.mkdir()
    fake = path / "python3.11"
    fake.write_text(f"#!/bin/sh\n[ $1 = -c ] && echo {version} {has_pip}\n")
    fake.chmod(0o755)
    script = f"import sys, make_envs; sys.executable = {str(fake)!r}; sys.exit(make_envs.main())"
    answer = subprocess.run(
        [sys.executable, "-c", script, "--tool", "venv"],
        cwd=checkout.envs,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(path)},
    )
    assert message in answer.stderr and answer.returncode == code


RECORDER = """#!/bin/sh
for last; do
  case "$last" in
    */.venvs/*/bin/*) ;;
    */.venvs/*) mkdir -p "$last/bin"; ln -s /bin/true "$last/bin/python";;
  esac
done
"""
CONDA_CREATE = "--override-channels --channel conda-forge python=3.11 pip"
COMMANDS = {  # of a tool: to make an environment, to install into it, what PyTorch's CPU builds add
    "uv": (
        "uv venv --seed --python 3.11 {folder}",
        "uv pip install --python {folder}/bin/python",
        "--index-strategy unsafe-best-match ",
    ),
    "conda": (
        f"conda create --yes --prefix {{folder}} {CONDA_CREATE}",
        "{folder}/bin/python -m pip install --disable-pip-version-check",
        "",
    ),
}


@pytest.mark.parametrize("tool", COMMANDS)
def test_the_commands_of_uv_and_conda_for_the_cpu(tmp_path, tool):
    """The tool is a recorder that makes a folder whose python does nothing; the script logs what it runs."""
    checkout, path = Checkout(tmp_path), tmp_path / "path"
    checkout.write("tensorflow-cpu.txt", "-r common.txt\n")
    path.mkdir()
    (path / tool).write_text(RECORDER)
    (path / tool).chmod(0o755)
    search = os.pathsep.join([str(path), "/usr/bin", "/bin"])
    flags = [] if tool == "uv" else ["--tool", "conda"]  # uv is the default where it is on PATH
    answer = checkout.make(*flags, "--cpu", "--test", PATH=search)
    assert answer.returncode == 0, answer.stderr
    create, install, more = COMMANDS[tool]
    index = f"--extra-index-url https://download.pytorch.org/whl/cpu {more}"
    for name, extra, main, imported in (
        ("pytorch", index, "pytorch.txt", "torch"),
        ("tensorflow", "", "tensorflow-cpu.txt", "tensorflow, keras"),
    ):
        folder = checkout.venvs / name
        assert (checkout.venvs / f"{name}.log").read_text().splitlines() == [
            f"$ {create.format(folder=folder)}",
            f"$ {install.format(folder=folder)} {extra}-r {main} -r test-{name}.txt",
            f"$ {folder}/bin/python -c import {imported}",
        ]
    # What was made for the CPU stays so without the flag.
    assert checkout.make(*flags, PATH=search).stderr == "environments are up to date\n"
    shutil.rmtree(checkout.venvs)
    shutil.copytree(ENVS / "lock", checkout.envs / "lock")
    assert checkout.make(*flags, "--cpu", "--locked", PATH=search).returncode == 0
    for name, extra in (("pytorch", index), ("tensorflow", "")):
        checked = f"--require-hashes --only-binary :all: -r {make_envs.lock_file(name, True)}"
        line = f"$ {install.format(folder=checkout.venvs / name)} {extra}{checked}"
        assert line in (checkout.venvs / f"{name}.log").read_text().splitlines()
