"""eval's door to the twins, against twins made for the purpose: a checkout in a temporary folder."""

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from eval.twins.client import Worker, run_verb
from eval.twins.interpreters import Interpreters, child_environment, find_python, first_framework

# Answers as the protocol says; each task but `double` misbehaves in its own way.
FAKE_TWIN = """
    import json, os, sys, time
    import numpy as np

    def worker():
        for line in sys.stdin:
            request = json.loads(line)
            task, options = request["task"], request["options"]
            answer = {"ok": True, "info": {"options": options, "input": request["input"] is not None}}
            if task == "double":
                with np.load(request["input"], allow_pickle=False) as arrays:
                    np.savez(request["output"], **{name: 2 * arrays[name] for name in arrays.files})
            elif task == "threads":
                answer["info"]["threads"] = [os.environ["OMP_NUM_THREADS"], *sys.argv[2:]]
            elif task == "input":
                answer = {"ok": False, "error": "steps = 0: must be at least 1", "kind": "input"}
            elif task == "run":
                answer = {"ok": False, "error": "the loss is not finite", "kind": "run"}
            elif task == "die":
                print("first\\nCUDA is on fire", file=sys.stderr)
                sys.exit(1)
            elif task == "sleep":
                time.sleep(60)
            elif task == "noise":
                print("x" * 300_000, file=sys.stderr)
            elif task == "babble":
                print("Epoch 1/5")
            print(json.dumps(answer), flush=True)

    verb = sys.argv[1]
    if verb == "worker":
        worker()
    elif verb == "echo":
        print("result", *sys.argv[2:])
        print("10%\\r100%", file=sys.stderr)
    elif verb == "sleep":
        time.sleep(60)
    else:
        print("loading\\nerror: unknown verb", file=sys.stderr)
        sys.exit(int(verb))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIPTYCH_TORCH_PYTHON", sys.executable)
    monkeypatch.delenv("DIPTYCH_TF_PYTHON", raising=False)
    (tmp_path / "torch_impl").mkdir()
    (tmp_path / "torch_impl" / "__main__.py").write_text(textwrap.dedent(FAKE_TWIN))
    return tmp_path


def worker(checkout, **options) -> Worker:
    return Worker("torch", root=checkout, **options)


def test_arrays_and_options_go_there_and_back(checkout):
    sent = {
        "down_blocks.0.weight": np.random.default_rng(0).standard_normal((2, 3)),
        "t": np.array(7, np.int64),
        "x": np.zeros((0, 4), np.float32),
    }
    with worker(checkout) as twin:
        for _ in range(2):  # the second call shows that the process and its folder are still usable
            received, info = twin.call("double", sent, steps=3, eta=0.1, names=["a"])
            assert info["options"] == {"steps": 3, "eta": 0.1, "names": ["a"]}
            assert received.keys() == sent.keys()
            for name, array in sent.items():
                assert received[name].dtype == array.dtype and received[name].shape == array.shape
                np.testing.assert_array_equal(received[name], 2 * array)
        received, info = twin.call("nothing")
        assert received == {} and info["input"] is False


def test_wrong_input_and_failed_runs_leave_the_worker_alive(checkout):
    with worker(checkout) as twin:
        with pytest.raises(ValueError, match="steps = 0: must be at least 1"):
            twin.call("input")
        with pytest.raises(RuntimeError, match="the loss is not finite"):
            twin.call("run")
        with pytest.raises(ValueError, match="cannot be sent"):
            twin.call("double", {"x": np.array([{}], dtype=object)})
        with pytest.raises(ValueError, match="cannot be sent"):
            twin.call("double", option={1, 2})
        assert twin.call("noise")[1]["input"] is False  # a full pipe of warnings does not block it


@pytest.mark.parametrize(
    ("task", "message"),
    [("die", "died during task 'die'\nfirst\nCUDA is on fire"), ("babble", "Epoch 1/5"), ("sleep", "within 0.5 s")],
)
def test_a_worker_that_breaks_is_stopped_and_says_why(checkout, task, message):
    with worker(checkout, timeout=0.5 if task == "sleep" else 60.0) as twin:
        child = twin._child
        with pytest.raises(RuntimeError, match=message):
            twin.call(task)
        assert child.poll() is not None
        with pytest.raises(RuntimeError, match="not running"):
            twin.call("double")


def test_the_worker_ends_with_the_block(checkout):
    with worker(checkout) as twin:
        child, folder = twin._child, Path(twin._folder.name)
    assert child.returncode == 0 and not folder.exists()
    with pytest.raises(RuntimeError, match="not running"):
        twin.call("double")


def test_threads_reach_the_child(checkout):
    with worker(checkout, threads=3) as twin:
        assert twin.call("threads")[1]["threads"] == ["3", "--threads", "3"]
    with pytest.raises(ValueError, match="threads = -1"):
        child_environment(-1)
    with pytest.raises(ValueError, match="timeout = 0"):
        worker(checkout, timeout=0)


def test_run_verb(checkout, capsys):
    def run(*args, **options):
        return run_verb("torch", args, root=checkout, **options)

    assert run("echo", "--steps", "3") == "result --steps 3\n"
    assert "100%" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^torch_impl 2: error: unknown verb$"):
        run("2")
    with pytest.raises(RuntimeError, match="exit code 1\nloading\nerror: unknown verb"):
        run("1")
    with pytest.raises(KeyboardInterrupt):
        run("130")
    with pytest.raises(RuntimeError, match=r"stopped after 0\.2 s"):
        run("sleep", timeout=0.2)


def test_the_interpreter_is_found_in_the_order_that_is_documented(checkout, monkeypatch):
    def program(path: Path, text: str = "") -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    monkeypatch.setenv("PATH", os.pathsep.join([str(checkout / "path"), "/usr/bin", "/bin"]))
    with pytest.raises(ValueError, match=r"make envs.*envs/tensorflow.yml.*--tf-python.*DIPTYCH_TF_PYTHON"):
        find_python("tensorflow", root=checkout)
    conda = checkout / "path" / "conda"
    program(conda, """echo '{"envs": ["/opt/conda", "/opt/conda/envs/diptych-tensorflow"]}'""")
    command = ["conda", "run", "--no-capture-output", "-n", "diptych-tensorflow", "python"]
    assert find_python("tensorflow", root=checkout) == command
    monkeypatch.delenv("DIPTYCH_TORCH_PYTHON")
    with pytest.raises(ValueError, match=r"--torch-python"):
        find_python("torch", root=checkout)
    local = program(checkout / ".venvs" / "tensorflow" / "bin" / "python")
    assert find_python("tensorflow", root=checkout) == [local]
    variable = program(checkout / "variable")
    monkeypatch.setenv("DIPTYCH_TF_PYTHON", variable)
    assert find_python("tensorflow", root=checkout) == [variable]
    flag = program(checkout / "flag")
    Interpreters(tf_python=flag).export()
    assert find_python("tensorflow", root=checkout) == [flag]
    Interpreters().export()
    assert find_python("tensorflow", root=checkout) == [flag], "a flag that is not given changes nothing"
    monkeypatch.setenv("DIPTYCH_TF_PYTHON", "/no/such")
    with pytest.raises(ValueError, match="--tf-python or DIPTYCH_TF_PYTHON = /no/such: no such program"):
        find_python("tensorflow", root=checkout)
    broken = program(checkout / "broken", "exit 3")
    for name in (broken, "/bin/false", "/bin/cat"):
        with pytest.raises(ValueError, match=f"--tf-python or DIPTYCH_TF_PYTHON = {name}: is no Python"):
            Interpreters(tf_python=name).export()
    with pytest.raises(ValueError, match="framework = 'jax': must be one of torch, tensorflow"):
        find_python("jax", root=checkout)


def test_a_python_that_was_named_is_never_replaced_by_the_other_framework(checkout, monkeypatch):
    monkeypatch.setenv("DIPTYCH_TF_PYTHON", sys.executable)
    assert first_framework(None) == "torch"
    monkeypatch.setenv("DIPTYCH_TORCH_PYTHON", "/no/such")
    with pytest.raises(ValueError, match="DIPTYCH_TORCH_PYTHON = /no/such: no such program"):
        first_framework(None)
    assert first_framework("tensorflow") == "tensorflow"


def test_a_python_without_the_framework_is_one_line_of_the_worker(checkout):
    program = "import sys\nprint('error: /x/python: this Python has no torch', file=sys.stderr)\nsys.exit(2)\n"
    (checkout / "torch_impl" / "__main__.py").write_text(program)
    with worker(checkout) as twin, pytest.raises(ValueError, match=r"^torch_impl worker: /x/python: this Python"):
        twin.call("describe")
