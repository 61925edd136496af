"""The environment of the race's peers, .venvs/race: the packages of envs/race.txt over the PyTorch environment's."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path

from core.exits import RunError
from core.files import file_hash, write_json
from core.reading import read_json
from eval.twins.interpreters import ROOT, find_python

log = logging.getLogger(__name__)

NAME = "race"
REQUIREMENTS = ("race.txt", "common.txt")
MODULES = "torch, diffusers, denoising_diffusion_pytorch, smalldiffusion, torch_ema"
CHECK = f"import tests.peers.torchvision_stub\nimport {MODULES}\nfrom diffusers import UNet2DModel"
PATHS = "import sysconfig, json; print(json.dumps([sysconfig.get_path(key) for key in ('purelib', 'platlib')]))"


def peers_python(root: Path = ROOT) -> list[str]:
    """Command prefix of the Python that has the race's peers. Its environment is made where it is missing or outdated.

    The environment has the PyTorch environment's own Python and sees its packages, so that all contestants compute
    with the same build of PyTorch, and only the peers are downloaded.

    Raises:
        ValueError: there is no PyTorch environment. RunError: a step failed, for example without a network.
    """
    base, folder = find_python("torch", root), root / ".venvs" / NAME
    python, stamp = folder / "bin" / "python", folder / "diptych-stamp.json"
    wanted = {name: file_hash(root / "envs" / name) for name in REQUIREMENTS} | {"base": " ".join(base)}
    if stamp.is_file() and python.exists() and read_json(stamp) == wanted:
        return [str(python)]
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise ValueError(f"{folder}: is no virtual environment: remove it, and start the race again")
    log.info("making %s from envs/race.txt, once", folder)
    shutil.rmtree(folder, ignore_errors=True)
    _run("making the environment", [*base, "-m", "venv", str(folder)], root)
    paths = json.loads(_run("asking for its packages", [*base, "-c", PATHS], root).splitlines()[-1])
    own = json.loads(_run("asking for the new packages' folder", [str(python), "-c", PATHS], root))
    Path(own[0], "diptych-pytorch.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n", encoding="utf-8")
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-r",
        str(root / "envs" / "race.txt"),
    ]
    _run("installing the peers (this needs a network once)", install, root)
    _run("importing the peers", [str(python), "-c", CHECK], root)
    write_json(stamp, wanted)
    return [str(python)]


def _run(step: str, command: list[str], root: Path) -> str:
    """Run a program to its end; returns its stdout.

    Raises:
        RunError: it failed; the message has the last line that says why.
    """
    try:
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise RunError(f".venvs/{NAME}: {step}: {command[0]}: {error.strerror}") from error
    if answer.returncode:
        lines = [line.strip() for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
        raise RunError(f".venvs/{NAME}: {step} failed: {' '.join(errors[-1:])[:300]}")
    return answer.stdout
