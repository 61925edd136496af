"""The picture of docs/architecture.md: the rooms of the code and their imports.

How to run: `python -m eval.studies.architecture_picture`.
Matplotlib is imported inside the function that draws.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.command_line import parse
from core.exits import end
from core.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "torch_impl", "tf_impl", "eval")
COLOURS = {"core": "#dbeafe", "torch_impl": "#ffedd5", "eval": "#dcfce7"}
TWINS = "torch_impl | tf_impl"
Arrows = dict[str, set[str]]
"""The rooms that each room imports."""


@dataclass(frozen=True)
class PictureCommand:
    """Draw docs/architecture.svg from the imports of the code."""

    out: str = "docs/architecture.svg"
    """File of the picture; its ending chooses the format, such as .svg or .png."""


def room_of(module: str) -> str:
    """The room of a module: `core.diffusion` for core.diffusion.table; the two twins are one room."""
    first, _, rest = module.partition(".")
    if first in ("torch_impl", "tf_impl"):
        return TWINS
    return f"{first}.{rest.partition('.')[0]}" if rest else first


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module of this project that a file imports, also inside functions; not those for types alone."""
    running = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
    for node in (node for statement in running for node in ast.walk(statement)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def arrows_of(root: Path) -> Arrows:
    """The imports between rooms, read from the source files."""
    arrows: Arrows = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            room = room_of(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
            targets = {room_of(module) for module in imported(ast.parse(path.read_text(encoding="utf-8")))}
            if room != package:  # a package's own __init__ is no room
                arrows[room] = arrows.get(room, set()) | targets - {room, *PACKAGES}
    return arrows


def floors(arrows: Arrows) -> dict[str, int]:
    """Floor of each room: 0 if it imports no other room, else one above the highest room that it imports.

    Raises:
        ValueError: rooms import each other in a circle.
    """
    heights: dict[str, int] = {}
    while len(heights) < len(arrows):
        ready = {room for room in arrows if room not in heights and arrows[room] <= heights.keys()}
        if not ready:
            raise ValueError(
                f"these rooms import each other in a circle: {', '.join(sorted(set(arrows) - set(heights)))}"
            )
        heights |= {room: 1 + max((heights[target] for target in arrows[room]), default=-1) for room in ready}
    return heights


def shortest(arrows: Arrows) -> Arrows:
    """The arrows without those that a chain of other arrows implies, so that the picture stays readable."""

    def below(room: str) -> set[str]:
        return arrows[room].union(*(below(target) for target in arrows[room]))

    return {
        room: {t for t in targets if not any(t in below(other) for other in targets)}
        for room, targets in arrows.items()
    }


def places(arrows: Arrows, heights: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Middle of each room's box, eval to the right of core; neighbours on other floors decide the order on a floor."""
    halves = [[a for a in arrows if not a.startswith("eval")], [a for a in arrows if a.startswith("eval")]]
    rows = [[a for a in half if heights[a] == floor] for half in halves for floor in sorted({*heights.values()})]
    neighbours = {a: arrows[a] | {b for b in arrows if a in arrows[b]} for a in arrows}
    x = dict.fromkeys(arrows, 0.0)
    for _ in range(50):
        for row in rows:
            row.sort(key=lambda room: (sum(x[n] for n in neighbours[room]) / max(len(neighbours[room]), 1), room))
            x |= {a: i - (len(row) - 1) / 2 + 3 * a.startswith("eval") for i, a in enumerate(row)}
    return {room: (x[room], heights[room]) for room in arrows}


def draw(arrows: Arrows) -> Any:
    """A Matplotlib figure; an arrow's id in an .svg is `ROOM imports ROOM`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

    heights = floors(arrows)
    drawn = shortest(arrows)
    place = places(drawn, heights)
    across, height = [x for x, _ in place.values()], max(y for _, y in place.values()) + 1
    figure = Figure(figsize=(11, 0.85 * height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(min(across) - 0.6, max(across) + 0.6), ylim=(-0.5, height - 0.5))
    axes.set_axis_off()
    for room, targets in sorted(drawn.items()):
        for target in sorted(targets):
            (x, y), (to_x, to_y) = place[room], place[target]
            arrow = FancyArrowPatch(
                (x, y - 0.2), (to_x, to_y + 0.2), arrowstyle="-|>", mutation_scale=10, color="#64748b"
            )
            arrow.set_gid(f"{room} imports {target}")
            axes.add_patch(arrow)
    for room, (x, y) in sorted(place.items()):
        box = {
            "boxstyle": "round,pad=0.45",
            "facecolor": COLOURS[room.split()[0].split(".")[0]],
            "edgecolor": "#334155",
        }
        axes.text(x, y, room.replace(".", "/"), ha="center", va="center", fontsize=10, bbox=box)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture; returns the exit code."""

    def run() -> None:
        import matplotlib

        arguments = list(sys.argv[1:] if argv is None else argv)
        command = parse(PictureCommand, arguments, "python -m eval.studies.architecture_picture", "Draw the rooms.")
        out, kind = Path(command.out), Path(command.out).suffix.removeprefix(".") or "svg"
        with matplotlib.rc_context({"svg.hashsalt": "rooms", "svg.fonttype": "none"}):
            figure = draw(arrows_of(ROOT))
            metadata = {"Date": None} if kind == "svg" else None
            write_atomically(out, lambda part: figure.savefig(part, format=kind, metadata=metadata, dpi=100))
        print(f"wrote {out}")

    return end(run)


if __name__ == "__main__":
    sys.exit(main())
