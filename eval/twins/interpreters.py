"""Which Python runs a twin, and with which environment variables."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Framework = Literal["torch", "tensorflow"]
FRAMEWORKS: tuple[Framework, ...] = ("torch", "tensorflow")
ROOT = Path(__file__).resolve().parents[2]
PACKAGES: dict[Framework, str] = {"torch": "torch_impl", "tensorflow": "tf_impl"}
TITLES: dict[str, str] = {"torch": "PyTorch", "tensorflow": "TensorFlow"}
"""The frameworks' names as people read them."""
ENVIRONMENTS: dict[Framework, str] = {"torch": "pytorch", "tensorflow": "tensorflow"}
FLAGS: dict[Framework, str] = {"torch": "--torch-python", "tensorflow": "--tf-python"}
VARIABLES: dict[Framework, str] = {"torch": "DIPTYCH_TORCH_PYTHON", "tensorflow": "DIPTYCH_TF_PYTHON"}
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


@dataclass(frozen=True, kw_only=True)
class Interpreters:
    """The flags of every command that starts a twin."""

    torch_python: str | None = None
    """Python that has PyTorch. By default DIPTYCH_TORCH_PYTHON, then .venvs/, then the conda environment is taken."""
    tf_python: str | None = None
    """Python that has TensorFlow. By default DIPTYCH_TF_PYTHON, then .venvs/, then the conda environment is taken."""

    def export(self) -> None:
        """Put the given interpreters into the environment variables that find_python reads.

        Raises:
            ValueError: a given interpreter does not work.
        """
        given: dict[Framework, str | None] = {"torch": self.torch_python, "tensorflow": self.tf_python}
        for framework, python in given.items():
            if python:
                os.environ[VARIABLES[framework]] = python
                find_python(framework)


def find_python(framework: Framework, root: Path = ROOT) -> list[str]:
    """Command prefix of the interpreter that has a framework.

    Args:
        framework: torch or tensorflow.
        root: the checkout.
    Returns:
        From the first that is set or found: DIPTYCH_TORCH_PYTHON or DIPTYCH_TF_PYTHON (where --torch-python and
        --tf-python go), .venvs/, the conda environment diptych-pytorch or diptych-tensorflow.
    Raises:
        ValueError: a named interpreter does not exist or does not run, or none is found; the message says how to make
            one.
    """
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework = {framework!r}: must be one of {', '.join(FRAMEWORKS)}")
    names = f"{FLAGS[framework]} or {VARIABLES[framework]}"
    if value := os.environ.get(VARIABLES[framework]):
        path = shutil.which(value)
        if path is None:
            raise ValueError(f"{names} = {value}: no such program; give the path of a Python that has {framework}")
        if not _runs(path):
            raise ValueError(f"{names} = {value}: is no Python; give the path of one that has {framework}")
        return [os.path.abspath(path)]  # not resolved: a venv is known by where its link stands
    environment = ENVIRONMENTS[framework]
    local = root / ".venvs" / environment / "bin" / "python"
    if local.exists():
        return [str(local)]
    if _conda_has(f"diptych-{environment}"):
        return ["conda", "run", "--no-capture-output", "-n", f"diptych-{environment}", "python"]
    raise ValueError(
        f"no Python with {framework} found: run `make envs` (or `conda env create -f envs/{environment}.yml`), "
        f"or name one with {names}"
    )


def first_framework(chosen: Framework | None) -> Framework:
    """The framework that was chosen, else the first that has an environment.

    Raises:
        ValueError: none has, or the Python that was named for the first does not work.
    """
    if chosen:
        return chosen
    try:
        find_python("torch")
    except ValueError:
        if os.environ.get(VARIABLES["torch"]):
            raise
        find_python("tensorflow")
        return "tensorflow"
    return "torch"


@functools.cache
def _runs(python: str) -> bool:
    """Whether a program is a Python: it runs an empty one, in at most a minute."""
    try:
        answer = subprocess.run([python, "-c", "import sys"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _conda_has(environment: str) -> bool:
    if shutil.which("conda") is None:
        return False
    from core.reading import reading  # with NumPy, which --help does without

    answer = subprocess.run(["conda", "env", "list", "--json"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise ValueError(f"`conda env list` failed: {answer.stderr.strip()[-200:]}")
    with reading("conda env list --json", "a list of environments", "look at conda"):
        return any(Path(path).name == environment for path in json.loads(answer.stdout)["envs"])


def child_environment(threads: int = 0) -> dict[str, str]:
    """Environment variables of a twin's process.

    Args:
        threads: CPU threads; 0 leaves the variables as they are.
    Raises:
        ValueError: threads below 0.
    """
    if threads < 0:
        raise ValueError(f"threads = {threads}: must be at least 0 (0 for the framework's choice)")
    environment = dict(os.environ)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if threads:
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    return environment
