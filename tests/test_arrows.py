"""Who may import whom, over the syntax tree: torch_impl -> core <- tf_impl, eval -> core, and nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "torch_impl", "tf_impl", "eval")
NEIGHBOURS = {"core": set(), "torch_impl": {"core"}, "tf_impl": {"core"}, "eval": {"core"}}
TORCH, TENSORFLOW = {"torch", "torchvision"}, {"tensorflow", "keras"}
FORBIDDEN = {  # packages, wherever in a file the import stands; of the tests' peers no room knows
    "core": TORCH | TENSORFLOW,
    "torch_impl": TENSORFLOW,
    "tf_impl": TORCH,
    "eval": TORCH | TENSORFLOW,
}
PEERS = {"diffusers", "transformers", "jax", "pytest", "hypothesis", "tests", "envs"}
CORE_EAGER = {"numpy"}
CORE_LAZY = {"tyro", "tqdm", "PIL", "gdown", "requests", "safetensors", "matplotlib", "jinja2", "onnx", "onnxruntime"}


def imports(tree: ast.Module, package: list[str]) -> Iterator[tuple[str, bool, int]]:
    """(absolute module, whether it is imported when the file is, line) of every import in a file."""

    def visit(node: ast.AST, eager: bool) -> Iterator[tuple[str, bool, int]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, eager, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]) or "(above)", eager, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), eager, node.lineno
            else:
                yield "(computed)", eager, node.lineno
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            eager = False
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            eager = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager)

    return visit(tree, True)


def violations(root: Path) -> list[str]:
    """One line for every import under `root` that the architecture forbids."""
    found = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            for module, eager, line in imports(ast.parse(path.read_text(encoding="utf-8")), list(parts[:-1])):
                reason = objection(room, parts, module.split(".")[0], eager)
                if reason:
                    found.append(f"{'/'.join(parts)}.py:{line}: {module}: {reason}")
    return found


def objection(room: str, parts: tuple[str, ...], top: str, eager: bool) -> str | None:
    """Why a file of a room may not import a top-level package, or None where it may."""
    if top == room or top in NEIGHBOURS[room]:
        return None
    if parts == ("core", "twin") and top == "(computed)":
        return None  # the one place that imports a twin, whose name it is given
    if top in ROOMS or top in FORBIDDEN[room] | PEERS or top.startswith("("):
        return f"{room} must not import it"
    if room != "core" or top in sys.stdlib_module_names:
        return None
    allowed = CORE_EAGER | ({"scipy"} if parts[:2] == ("core", "metrics") else set())
    if top in allowed or (top in CORE_LAZY and not eager):
        return None
    return "core imports it inside the function that needs it" if top in CORE_LAZY else "unknown to core"


def test_the_arrows_hold():
    assert all(any((ROOT / room).glob("*.py")) for room in ROOMS)
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("core/a.py", "def f():\n    import torch"),
        ("core/a.py", "def f():\n    from tensorflow import keras"),
        ("core/a.py", "from eval import twins"),
        ("core/a.py", "import importlib\nimportlib.import_module('torch_impl.unet')"),
        ("core/a.py", "__import__('keras')"),
        ("core/a.py", "import importlib\nname = 'torch'\nimportlib.import_module(name)"),
        ("core/a.py", "import tyro"),
        ("core/a.py", "try:\n    from PIL import Image\nexcept ImportError:\n    Image = None"),
        ("core/a.py", "class A:\n    import matplotlib"),
        ("core/diffusion/a.py", "from scipy import special"),
        ("core/a.py", "def f():\n    import pandas"),
        ("core/networks/a.py", "from ... import eval"),
        ("torch_impl/a.py", "from tf_impl.unet import UNet"),
        ("torch_impl/a.py", "import keras"),
        ("torch_impl/a.py", "import diffusers"),
        ("tf_impl/a.py", "import torch.nn as nn"),
        ("tf_impl/a.py", "from eval.twins.client import Worker"),
        ("eval/a.py", "def f():\n    from torch_impl import weights"),
        ("eval/parity/a.py", "import torch"),
        ("eval/a.py", "from tests import test_arrows"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, code):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("core/a.py", "import math\nimport numpy as np\nfrom core.config import Recipe\nfrom . import config"),
        ("core/a.py", "def f():\n    import tyro, gdown\n    from PIL import Image"),
        ("core/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PIL import Image"),
        ("core/metrics/a.py", "from scipy import linalg\nfrom ..networks import unet"),
        ("torch_impl/a.py", "import torch\nfrom core import config\nfrom .layers import Norm"),
        ("tf_impl/a.py", "import keras, tensorflow as tf\nfrom core.networks import unet"),
        ("eval/a.py", "import numpy\nfrom core.metrics import frechet"),
    ],
)
def test_an_allowed_import_is_not(tmp_path, file, code):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    assert violations(tmp_path) == []


def loaded(names: list[str]) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after importing some."""
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return {name.split(".")[0] for name in answer.stdout.split()}


@pytest.mark.parametrize("room", ["core", "eval"])
def test_importing_a_room_loads_no_framework_and_nothing_slow(room):
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / room).rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]
    modules = loaded(names)
    assert room in modules
    assert modules.isdisjoint(TORCH | TENSORFLOW | PEERS | CORE_LAZY | {"torch_impl", "tf_impl"})


def test_the_subprocess_sees_what_is_loaded():
    assert {"core", "PIL"} <= loaded(["core.config", "PIL.Image"])


def test_the_script_that_makes_environments_needs_nothing_installed():
    tree = ast.parse((ROOT / "envs" / "make_envs.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    assert {module.split(".")[0] for module, _, _ in imports(tree, ["envs"])} <= sys.stdlib_module_names
