"""The verb gpu-check at toy size, as on any machine without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.commands import gpu_equality, gpu_parts
from core.commands.gpu_check import as_markdown
from core.commands.gpu_subject import Check
from core.commands.main import main
from core.twin import Twin

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("tyro", "tqdm", "diffusers", "jinja2", "matplotlib", "pandas")
SCRIPT = """
import sys
for name in sys.argv[3:]:
    sys.modules[name] = None  # as if it were not installed
from core.commands.main import main
sys.exit(main(sys.argv[1], ["gpu-check", "--out", sys.argv[2], "--device", "cpu"]))
"""


@pytest.mark.parametrize("name", ["torch", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_the_whole_check_runs_without_the_optional_packages(backend, tmp_path, name):
    if name != backend.name:
        pytest.skip("TensorFlow takes 100 s, in which it traces 30 graphs")
    out = tmp_path / "check"
    command = [sys.executable, "-c", SCRIPT, repr(backend), str(out), *OPTIONAL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith(f"wrote {out}/results.md\n"), done.stderr[-3000:]
    results = json.loads((out / "results.json").read_text())
    parts = results["parts"]
    assert list(parts) == list(gpu_parts.PARTS) and results["device"] == "cpu" and results["framework"] == backend.name
    left_out = {name: found["left out"] for name, found in parts.items() if found["left out"]}
    assert left_out == dict.fromkeys(("compiled in bf16", "peak memory"), "this part needs a GPU")
    for name in list(parts)[:3]:  # the CPU against itself
        assert all(value == 0 for row in parts[name]["rows"] for value in row.values() if isinstance(value, float))
    assert {row["precision"] for row in parts["speed of training"]["rows"]} == {"fp32", "tf32", "bf16"}
    assert all(np.isfinite(row["distance"]) and row["steps"] > 2 for row in parts["a minute of training"]["rows"])
    page = (out / "results.md").read_text()
    assert all(f"## {name}\n" in page for name in parts) and page == as_markdown(results)


def test_a_part_that_fails_or_has_no_time_is_left_out_with_a_line(backend, tmp_path, monkeypatch, capsys):
    def fails(check):
        """A part that fails."""
        yield {"row": 1}
        raise RuntimeError("no kernel\nimage is available")

    def long(check):
        """A part without end."""
        while True:
            yield {"row": 1}

    shares = {"fails": (fails, 0.5, 90), "long": (long, 0.0, 90), "none": (fails, 0.0, 90)}
    monkeypatch.setattr(gpu_parts, "PARTS", shares)
    flags = ["--out", str(tmp_path / "check"), "--minutes", "0.02", "--device", "cpu"]
    assert main(repr(backend), ["gpu-check", *flags]) == 0
    parts = json.loads((tmp_path / "check" / "results.json").read_text())["parts"]
    assert parts["fails"]["left out"] == "the rest, since it failed: RuntimeError: no kernel image is available"
    assert parts["fails"]["rows"] == [{"row": 1}] and parts["none"]["rows"] == []
    assert parts["long"]["rows"] and "time of this part was up" in parts["long"]["left out"]
    assert "none: 0 rows; left out: the rest, since the time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "the following arguments are required: --out"),
        (["--out", "x", "--minutes", "0"], "--minutes 0.0: must be above 0"),
        (["--out", "x", "--minutes", "nan"], "--minutes nan: must be above 0"),
        (["--out", "x", "--devices", "cpu"], "unrecognized arguments: --devices cpu"),
        (["--out", "x", "--device", "gpu"], "invalid choice: 'gpu'"),
        (["--out", __file__], "is a file: must be a folder"),
    ],
)
def test_wrong_flags_are_one_line(flags, line, capsys):
    assert main("tests.numpy_impl", ["gpu-check", *flags]) == 2
    error = capsys.readouterr().err
    assert line in error and error.startswith("error: ") and error.count("\n") == 1


def test_differences_are_relative_and_nan_where_a_value_is_not_finite():
    assert gpu_equality.apart(np.array([1.0, -4.0]), np.array([1.0, -3.0])) == 0.25
    assert gpu_equality.apart(np.zeros(2), np.array([0.0, 1e-3])) == 1e-3
    assert np.isnan(gpu_equality.apart(np.ones(2), np.array([1.0, np.inf])))


def test_a_network_that_computes_otherwise_on_the_other_device_is_seen(monkeypatch):
    check = Check(Twin("tests.numpy_impl", "cpu"), toy=True)
    made = []

    def make(self, model, weights, dtype):
        made.append(dtype)
        scale = 1 + 1e-3 * (len(made) % 2)

        class Bound:
            def evaluate(self, x, t):
                return scale * x

        return type("Network", (), {"bind": lambda self, condition: Bound()})()

    monkeypatch.setattr(Twin, "make_network", make)
    rows = list(gpu_equality.network(check))
    assert [row["precision"] for row in rows] == ["float64", "float32"]
    assert all(np.isclose(row["relative difference"], 1e-3, rtol=0.01) for row in rows)
