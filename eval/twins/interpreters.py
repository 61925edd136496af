"""Which Python runs a twin, and with which environment variables. Imports no framework and no twin."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

Framework = Literal["torch", "tensorflow"]
ROOT = Path(__file__).resolve().parents[2]
PACKAGES: dict[str, str] = {"torch": "torch_impl", "tensorflow": "tf_impl"}
ENVIRONMENTS: dict[str, str] = {"torch": "pytorch", "tensorflow": "tensorflow"}
FLAGS: dict[str, str] = {"torch": "--torch-python", "tensorflow": "--tf-python"}
VARIABLES: dict[str, str] = {"torch": "DIPTYCH_TORCH_PYTHON", "tensorflow": "DIPTYCH_TF_PYTHON"}
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def find_python(framework: Framework, override: str | None = None, root: Path = ROOT) -> list[str]:
    """Command prefix of the interpreter that has a framework.

    Args:
        framework: torch or tensorflow.
        override: the value of --torch-python or --tf-python, if given.
        root: the checkout.
    Returns:
        From the first that is given or found: override, DIPTYCH_TORCH_PYTHON / DIPTYCH_TF_PYTHON, .venvs/, the conda
        environment diptych-pytorch / diptych-tensorflow.
    Raises:
        ValueError: an interpreter was named that is not there, or none is found; the message says how to make one.
    """
    if framework not in PACKAGES:
        raise ValueError(f"framework = {framework!r}: must be one of {', '.join(PACKAGES)}")
    for name, value in ((FLAGS[framework], override), (VARIABLES[framework], os.environ.get(VARIABLES[framework]))):
        if value:
            path = shutil.which(value)
            if path is None:
                raise ValueError(f"{name} = {value}: no such program; give the path of a Python that has {framework}")
            return [os.path.abspath(path)]  # not resolved: a venv is known by where its link stands
    environment = ENVIRONMENTS[framework]
    local = root / ".venvs" / environment / "bin" / "python"
    if local.exists():
        return [str(local)]
    if _conda_has(f"diptych-{environment}"):
        return ["conda", "run", "--no-capture-output", "-n", f"diptych-{environment}", "python"]
    raise ValueError(
        f"no Python with {framework} found: run `make envs` (or `conda env create -f envs/{environment}.yml`), "
        f"or name one with {FLAGS[framework]} or {VARIABLES[framework]}"
    )


def _conda_has(environment: str) -> bool:
    if shutil.which("conda") is None:
        return False
    answer = subprocess.run(["conda", "env", "list", "--json"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise ValueError(f"`conda env list` failed: {answer.stderr.strip()[-200:]}")
    return any(Path(path).name == environment for path in json.loads(answer.stdout)["envs"])


def child_environment(threads: int = 0) -> dict[str, str]:
    """Environment variables of a twin's process.

    Args:
        threads: CPU threads; 0 leaves what is set.
    """
    if threads < 0:
        raise ValueError(f"threads = {threads}: must be at least 0 (0 for the framework's choice)")
    environment = dict(os.environ)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if threads:
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    return environment
