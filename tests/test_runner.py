"""The test runner and the `backend` fixture, on small trees of tests of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # half of pytest's start is other people's plugins
RUN = """
import os, pytest
FRAMEWORK = os.environ["DIPTYCH_BACKEND"]
"""
TESTS = {
    "core/test_a.py": "def test_a(): assert FRAMEWORK == 'torch'\n@pytest.mark.slow\ndef test_slow(): pass\n",
    "backend/test_b.py": "def test_b(): assert FRAMEWORK == 'torch'\n"
    "@pytest.mark.diffusers\ndef test_peer(): assert FRAMEWORK == 'torch'\n"
    "def test_skip(): pytest.skip('why')\n",
    "parity/test_c.py": "def test_c(): assert os.environ['OMP_NUM_THREADS']\n",
}


COPIED = (
    "pyproject.toml",
    "eval/__init__.py",
    "eval/twins/__init__.py",
    "eval/twins/interpreters.py",
    "tests/__init__.py",
    "tests/run_tests.py",
    "tests/conftest.py",
    "tests/peers/torchvision_stub.py",
)


@pytest.fixture
def tests(tmp_path) -> Path:
    """The folder of tests in a checkout that holds the runner and TESTS."""
    for name in COPIED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in TESTS.items():
        (tmp_path / "tests" / name).parent.mkdir()
        (tmp_path / "tests" / name).write_text(RUN + text)
    return tmp_path / "tests"


def run(tests: Path, *flags: str) -> tuple[list[str], int]:
    """The last four lines that the runner prints, with the line before them where tests were skipped; its exit code."""
    pythons = {"DIPTYCH_TORCH_PYTHON": sys.executable, "DIPTYCH_TF_PYTHON": sys.executable}
    command = [sys.executable, "-m", "tests.run_tests", *flags]
    answer = subprocess.run(command, cwd=tests.parent, capture_output=True, text=True, env={**ENVIRONMENT, **pythons})
    *_, before, one, two, three, four = [" ".join(line.split()) for line in answer.stdout.splitlines()]
    return [before, one, two, three, four][0 if "skipped" in before else 1 :], answer.returncode


def test_the_runner_runs_each_test_where_it_belongs_and_adds_up(tests):
    assert run(tests) == (
        [
            "2 skipped: why",
            "PyTorch environment 3 passed, 0 failed, 1 skipped",
            "TensorFlow environment 0 passed, 1 failed, 1 skipped",
            "both frameworks 1 passed, 0 failed",
            "4 passed, 1 failed, 2 skipped",
        ],
        1,
    )


def test_slow_tests_run_when_asked_for_and_without_a_failure_the_code_is_0(tests):
    (tests / "backend" / "test_b.py").write_text("def test_b(): pass\n")
    lines = ["PyTorch environment 3 passed, 0 failed", "TensorFlow environment 1 passed, 0 failed"]
    assert run(tests, "--slow") == ([*lines, "both frameworks 1 passed, 0 failed", "5 passed, 0 failed"], 0)


def test_a_run_that_finds_no_test_or_cannot_read_one_is_a_failure(tests):
    (tests / "backend" / "test_b.py").unlink()
    (tests / "core" / "test_a.py").write_text("import no_such_module\n")
    lines, code = run(tests)
    assert [line.split(", ")[1] for line in lines] == ["1 failed"] * 3 + ["3 failed"] and code == 1


BACKEND_TEST = "def test_b(backend): assert backend.layers.NAME and backend.name == {name!r}\n"


@pytest.mark.parametrize(
    ("framework", "expected"),
    [
        ("torch", "backend: torch"),
        ("tensorflow", "No module named 'tensorflow'"),
        ("jax", "must be torch or tensorflow"),
    ],
)
def test_the_backend_asked_for_is_the_one_used_or_the_test_fails(tmp_path, framework, expected):
    for folder in ("tests/backend", "torch_impl", "tf_impl", "torch"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("")
    for twin in ("torch_impl", "tf_impl"):
        (tmp_path / twin / "layers.py").write_text("NAME = 'ours'\n")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "backend" / "test_b.py").write_text(BACKEND_TEST.format(name=framework))
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "DIPTYCH_BACKEND": framework},
    )
    assert expected in answer.stdout + answer.stderr
    assert answer.returncode == (0 if framework == "torch" else 1), answer.stdout
