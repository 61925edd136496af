"""The worker's protocol: tests, the parity ladder and the benchmark exchange arrays with a twin as .npz files.

A request is one JSON line on stdin: `{"task", "input", "output", "options"}`, where input and output are paths. An
answer is one JSON line on stdout: `{"ok": true, "info"}` or `{"ok": false, "error", "kind"}`. The client is
eval/twins/client.py.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.config.limits import LARGEST

Arrays = dict[str, np.ndarray]
Task = Callable[[Arrays, dict[str, Any]], tuple[Arrays, dict[str, Any]]]
"""A function (arrays by name, options) -> (arrays by name, info)."""


def serve(set_threads: Callable[[int], None], tasks: dict[str, Task], argv: Sequence[str]) -> int:
    """Answer requests until stdin ends.

    Args:
        set_threads: limits the number of CPU threads; called before the framework computes anything.
        tasks: the tasks by name.
        argv: `--threads N`, or nothing.
    Raises:
        ValueError: other words in argv.
    """
    if argv and (len(argv) != 2 or argv[0] != "--threads" or not argv[1].isdecimal()):
        raise ValueError(f"worker {' '.join(argv)}: takes nothing but --threads N")
    if argv and int(argv[1]) > LARGEST["threads"]:
        raise ValueError(f"--threads {argv[1]}: must be at most {LARGEST['threads']}")
    # Whatever prints to stdout (frameworks do) goes to stderr; the answers keep the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    set_threads(int(argv[1]) if argv else 0)
    for line in sys.stdin:
        print(json.dumps(_answer(tasks, line)), file=answers, flush=True)
    return 0


def _answer(tasks: dict[str, Task], line: str) -> dict[str, Any]:
    """Run the task of a request, and return the answer."""
    try:
        request = json.loads(line)
        if request["task"] not in tasks:
            raise ValueError(f"task {request['task']!r}: must be one of {', '.join(tasks)}")
        arrays: dict[str, np.ndarray] = {}
        if request.get("input"):
            with np.load(request["input"], allow_pickle=False) as file:
                arrays = dict(file)
        result, info = tasks[request["task"]](arrays, request.get("options") or {})
        np.savez(request["output"], **result)  # type: ignore[arg-type]
        return {"ok": True, "info": info}
    except Exception as error:  # one request must not end the worker
        traceback.print_exc()
        kind = "input" if isinstance(error, ValueError | KeyError) else "run"
        return {"ok": False, "error": " ".join(f"{type(error).__name__}: {error}".split()), "kind": kind}


def with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
