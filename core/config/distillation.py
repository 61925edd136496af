"""The table [distillation]: the trained network whose sampling another network learns to do in fewer evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.limits import check_limits
from core.config.require import requirements


@dataclass(frozen=True)
class DistillationConfig:
    """The teacher of a distillation. Without a teacher the network learns from the data."""

    teacher: str = ""
    """Run or checkpoint to distil. The network starts from its averaged weights, and learns to do in one step of DDIM
    what the teacher does in several. Default: no distillation."""
    teacher_nfe: int = 16
    """Number of the teacher's evaluations an image, a multiple of sampling.steps. More are closer to the exact
    solution, and an optimiser step then evaluates the teacher more often: teacher_nfe / sampling.steps times."""
    guidance: float = 1.0
    """Guidance scale of the teacher, which the network learns; it is then sampled with guidance 1. 1 is off."""

    def __post_init__(self) -> None:
        check_limits(self, "distillation")
        need = requirements(self, "distillation")
        need(self.teacher_nfe >= 2, "teacher_nfe", "at least 2")
        need(self.guidance >= 0, "guidance", "at least 0")
