"""The verb `demo`."""

from __future__ import annotations

from dataclasses import dataclass

from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Demo(Interpreters):
    """Train and sample in both frameworks, and show the results side by side: report.html and picture.png.

    It takes some ten minutes on two CPU cores. A demo that was cut off goes on where it stopped when it is started
    again.

    Examples:
      python -m eval demo
      python -m eval demo --out runs/again --fresh
    """

    out: str = "runs/demo"
    """Folder of the demo."""
    config: str = "configs/demo.toml"
    """Recipe that both frameworks train."""
    n: int = 512
    """Images to draw from each framework's network."""
    fresh: bool = False
    """Start anew where the folder holds a demo."""

    def execute(self) -> str:
        """Run the demo, or what is left of it."""
        from eval.verbs import demo_steps

        return f"wrote {demo_steps.make_demo(self.config, self.out, self.n, self.fresh)}"
