"""No tasks that need tensors."""

from core.worker.protocol import Task

TASKS: dict[str, Task] = {}
