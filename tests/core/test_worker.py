"""The worker's protocol: requests and answers, a line each."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import sys
import numpy as np
from core.exits import RunError
from core.worker.protocol import serve

def double(arrays, options):
    print("a framework that talks")
    return {name: 2 * value for name, value in arrays.items()}, {"options": options}

def refuse(arrays, options):
    raise ValueError("steps = 0:\\n must be at least 1")

def fail(arrays, options):
    raise RunError("the loss is not finite")

tasks = {"double": double, "refuse": refuse, "fail": fail}
sys.exit(serve(lambda n: print("threads", n, file=sys.stderr), tasks, sys.argv[1:]))
"""


def served(lines: list[str], *argv: str) -> tuple[list[dict], str]:
    """The answers to some lines of requests, and what the worker wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *argv],
        cwd=ROOT,
        input="".join(f"{line}\n" for line in lines),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_one_line_in_is_one_line_out(tmp_path):
    np.savez(tmp_path / "in.npz", x=np.array([[1.5]]), n=np.array([3], np.int64))
    target = tmp_path / "out.npz"
    request = {"task": "double", "input": str(tmp_path / "in.npz"), "output": str(target), "options": {"a": [1]}}
    answers, said = served([json.dumps(request)], "--threads", "2")
    assert answers == [{"ok": True, "info": {"options": {"a": [1]}}}]
    assert "threads 2" in said and "a framework that talks" in said  # not on stdout
    with np.load(target, allow_pickle=False) as stored:
        assert stored["x"].tolist() == [[3.0]] and stored["n"].tolist() == [6] and stored["n"].dtype == np.int64


def test_a_request_that_fails_leaves_the_worker_alive(tmp_path):
    output = str(tmp_path / "out.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    requests = [
        {"task": "refuse", "output": output},
        {"task": "fail", "output": output},
        {"task": "unknown", "output": output},
        {"task": "double", "input": str(tmp_path / "pickled.npz"), "output": output},
        {"task": "double", "output": output},
    ]
    answers, _ = served([*map(json.dumps, requests), "no json"])
    assert [answer["ok"] for answer in answers] == [False, False, False, False, True, False]
    assert [answer.get("kind") for answer in answers] == ["input", "run", "input", "input", None, "input"]
    assert answers[0]["error"] == "ValueError: steps = 0: must be at least 1"  # on one line
    assert "double, refuse, fail" in answers[2]["error"] and "allow_pickle" in answers[3]["error"]


@pytest.mark.parametrize("argv", [["--threads"], ["--threads", "-1"], ["--threads", "2", "x"], ["2"]])
def test_a_worker_takes_nothing_but_threads(argv):
    done = subprocess.run([sys.executable, "-c", SERVER, *argv], cwd=ROOT, input="", text=True, capture_output=True)
    assert done.returncode == 1 and "takes nothing but --threads N" in done.stderr
