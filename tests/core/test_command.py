"""The command line's errors in one line, and how a program ends."""

import errno
import importlib.util
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import pytest

from core.command_line import output_folder, parse, verb
from core.exits import RunError, end


@dataclass(frozen=True)
class Options:
    """Options of a test."""

    batch_size: int = 4
    """Images an optimiser step."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Noise schedule."""
    rate: float = 1.0
    """Rate."""
    verbose: bool = False
    """Say more."""


@dataclass(frozen=True)
class Needed:
    """With a required flag."""

    out: str
    """A folder."""


def refused(cls, argv):
    with pytest.raises(ValueError) as error:
        parse(cls, argv, "prog verb", "Options of a test.")
    message = str(error.value)
    assert "\n" not in message and not set(message) & set("│╭╰╮╯─\x1b")
    assert message.endswith("; see prog verb --help")
    return message


def test_flags_become_fields():
    assert parse(Options, [], "prog", "") == Options()
    argv = ["--batch-size", "8", "--schedule=cosine", "--rate", "1e-3", "--verbose"]
    assert parse(Options, argv, "prog", "") == Options(8, "cosine", 1e-3, True)
    assert parse(Options, ["--no-verbose"], "prog", "", Options(batch_size=2, verbose=True)) == Options(batch_size=2)


@pytest.mark.parametrize(
    ("cls", "argv", "pieces"),
    [
        (Options, ["--batchsize", "8"], ["Unrecognized", "--batchsize", "did you mean --batch-size?"]),
        (Options, ["--batch-size", "many"], ["--batch-size", "many"]),
        (Options, ["--schedule", "sigmoid"], ["--schedule", "sigmoid", "linear", "cosine"]),
        (Options, ["--rate"], ["--rate"]),
        (Options, ["left", "over"], ["Unrecognized", "left"]),
        (Needed, [], ["--out"]),
    ],
)
def test_an_error_of_the_parser_is_one_line(cls, argv, pieces):
    message = refused(cls, argv)
    assert all(piece in message for piece in pieces), message


def test_help_is_printed_and_ends_well(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Options, ["--help"], "prog verb", "Options of a test.")
    out = capsys.readouterr().out
    assert not stop.value.code
    assert all(words in out for words in ("Options of a test.", "--batch-size", "Images an optimiser step"))


VERBS = {"train": "Train.", "sample": "Draw."}


def test_the_verb_comes_first(capsys):
    assert verb(["sample", "--n", "3"], VERBS, "prog") == "sample"
    with pytest.raises(SystemExit) as stop:
        verb(["--help"], VERBS, "prog")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "train      Train." in out and "sample     Draw." in out
    with pytest.raises(ValueError, match="must be one of train, sample; see prog --help"):
        verb([], VERBS, "prog")
    with pytest.raises(ValueError, match="'trian': must be one of train, sample"):
        verb(["trian"], VERBS, "prog")


def test_the_version_is_the_projects_and_those_of_what_is_installed(capsys):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    with pytest.raises(SystemExit) as stop:
        verb(["--version"], VERBS, "prog")
    said = capsys.readouterr().out
    assert stop.value.code == 0 and said.startswith(f"diptych {project['version']}, Python 3.")
    assert f"numpy {metadata.version('numpy')}" in said
    for framework in ("torch", "tensorflow"):
        assert (f", {framework} " in said) == (importlib.util.find_spec(framework) is not None)


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "code", "stderr"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(ValueError("training.steps = 0:\n  must be")), 2, "error: training.steps = 0: must be\n"),
        (raising(RunError("the loss is not finite")), 1, "error: the loss is not finite\n"),
        (
            raising(OSError(errno.ENOSPC, "No space left on device", "runs/a")),
            1,
            "error: runs/a: No space left on device\n",
        ),
        (raising(OSError("cut short")), 1, "error: cut short\n"),
        (raising(OSError(errno.ENOTDIR, "Not a directory", "a/b")), 2, "error: a/b: Not a directory\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_a_program_ends_with_a_line_and_a_code(capsys, run, code, stderr):
    assert end(run) == code
    assert capsys.readouterr().err == stderr


def test_a_bug_keeps_its_traceback():
    with pytest.raises(TypeError):
        end(raising(TypeError("ours")))


class ResourceExhaustedError(Exception):
    """TensorFlow's name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 TiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: Unable to allocate 8 TiB"),
        ResourceExhaustedError("Unable to allocate 8 TiB"),
    ],
)
@pytest.mark.parametrize(
    "argv, lower",
    [
        (
            ["sample", "run", "--n", "900000", "--steps=50", "--seed", "999999999", "--out", "1000000x"],
            "lower --n 900000",
        ),
        (["sample", "run", "--data.count=7000", "--n", "900"], "lower --data.count 7000"),
        (["sample", "run"], "lower the size, the batch size or the number of images"),
        (["sample", "run", "--n", "9" * 9000], f"lower --n {'9' * 40}"),
    ],
)
def test_memory_that_is_not_there_names_the_option(capsys, error, argv, lower):
    assert end(raising(error), argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory (") and "8 TiB" in line and line.endswith(lower)


def test_a_missing_framework_is_one_line_and_another_module_a_bug(capsys):
    assert end(raising(ModuleNotFoundError("No module named 'torch'", name="torch"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "this Python has no torch" in said
    with pytest.raises(ModuleNotFoundError):
        end(raising(ModuleNotFoundError("No module named 'ours'", name="ours")))


@pytest.mark.parametrize(
    ("folder", "allowed"), [("new", True), (".", True), ("a/b/c", True), ("file", False), ("file/new", False)]
)
def test_an_output_folder_is_no_file_and_lies_in_none(tmp_path, monkeypatch, folder, allowed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if allowed:
        assert output_folder(folder) == Path(folder)
    else:
        with pytest.raises(ValueError, match=f"--out {folder}: file is a file: must be a folder, or a free name"):
            output_folder(folder)


def test_an_output_folder_that_may_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("core.command_line.os.access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(ValueError, match=r"may not be written; name another folder with --run"):
        output_folder(tmp_path / "a" / "b", "--run")
    (tmp_path / "a").mkdir()
    assert output_folder(tmp_path / "a" / "b", "--run") == tmp_path / "a" / "b"
