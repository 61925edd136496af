"""The picture and the page of the architecture against the real imports, which tests.test_arrows reads on its own."""

import ast
import re
from pathlib import Path

import pytest

from eval.studies.architecture_picture import floors
from tests.test_arrows import ROOMS as PACKAGES
from tests.test_arrows import imports

ROOT = Path(__file__).resolve().parents[1]
TWINS = "torch_impl | tf_impl"


def room_of(parts: list[str]) -> str:
    """`core.diffusion` for core.diffusion.table; the two twins are one room, as in the picture."""
    return TWINS if parts[0] in ("torch_impl", "tf_impl") else ".".join(parts[:2])


def real_arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    arrows: dict[str, set[str]] = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
        names = [module.split(".") for module, _, _ in imports(tree, parts[:-1])]
        names += [
            [node.module, alias.name]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in PACKAGES
            for alias in node.names
        ]
        rooms = {room_of(name) for name in names if name[0] in PACKAGES and (len(name) > 1 or name[0] in TWINS)}
        if parts[1] != "__init__" or room_of(parts) == TWINS:
            arrows[room_of(parts)] = arrows.get(room_of(parts), set()) | rooms - {room_of(parts)}
    return arrows


def below(arrows: dict[str, set[str]], room: str) -> set[str]:
    """Every room that a room reaches."""
    found, todo = set(), [room]
    while todo:
        new = arrows[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_the_picture_shows_the_imports():
    real, drawn = real_arrows(), {room: set() for room in real_arrows()}
    svg = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    for room, target in re.findall(r'id="([^"]+) imports ([^"]+)"', svg):
        drawn[room].add(target)
    command = "draw it again: python -m eval.studies.architecture_picture"
    for room, targets in real.items():
        assert drawn[room] <= targets, f"{room} imports no {drawn[room] - targets}; {command}"
        assert targets <= below(drawn, room), f"{room} imports {targets - below(drawn, room)}; {command}"
        assert f">{room.replace('.', '/')}</text>" in svg


def test_no_circle():
    floors(real_arrows())
    with pytest.raises(ValueError, match=r"circle: a, b$"):
        floors({"a": {"b"}, "b": {"a"}, "c": set()})


def test_the_page_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in ("core", "eval"):
        for folder in (path.parent for path in (ROOT / package).glob("*/__init__.py")):
            assert f"| `{package}/{folder.name}` |" in page
