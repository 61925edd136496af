"""Files: the permissions of new files, and temporary names that are only this program's."""

import os
import subprocess
import sys

import numpy as np
import pytest

from core import files
from core.files import (
    atomic_folder,
    remove_leftovers,
    temporary_beside,
    write_json,
    write_npy,
    write_npz,
    write_tensors,
    write_text_atomic,
)

ONES = {"a": np.ones(3)}
WRITERS = {
    "text": lambda path: write_text_atomic(path, "a"),
    "json": lambda path: write_json(path, {"a": 1}),
    "npy": lambda path: write_npy(path, ONES["a"]),
    "npz": lambda path: write_npz(path, ONES),
    "tensors": lambda path: write_tensors(path, ONES),
}


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_new_file_is_readable_as_the_umask_says(tmp_path, umask, writer):
    WRITERS[writer](tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_new_folder_is_readable_as_the_umask_says(tmp_path, umask):
    with atomic_folder(tmp_path / "folder") as folder:
        write_tensors(folder / "file", ONES)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "folder"

    def fill(text):
        with atomic_folder(target) as folder:
            (folder / "file").write_text(text)

    fill("old")
    fill("new")
    assert (target / "file").read_text() == "new" and [*tmp_path.iterdir()] == [target]
    replace = os.replace

    def failing(source, destination):
        if destination == target and (source / "file").read_text() == "newer":
            raise OSError(28, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        fill("newer")
    assert (target / "file").read_text() == "new" and [*tmp_path.iterdir()] == [target]


def test_no_two_temporary_names_are_equal(tmp_path):
    with temporary_beside(tmp_path / "a") as first, temporary_beside(tmp_path / "a") as second:
        assert first != second and first.parent == second.parent == tmp_path


def test_a_file_or_link_under_the_temporary_name_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)  # somebody guessed it
    with temporary_beside(tmp_path / "a") as temporary:
        pass
    (tmp_path / "victim").write_text("theirs")
    temporary.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_text_atomic(tmp_path / "a", "mine")
    assert (tmp_path / "victim").read_text() == "theirs" and not (tmp_path / "a").exists()


def left_by(code: str, folder) -> subprocess.Popen:
    """A process of its own that runs code with a temporary file of `folder/a` open."""
    start = "import os, sys; from pathlib import Path; from core.files import temporary_beside\n"
    start += "temporary_beside(Path(sys.argv[1])).__enter__().touch(); print('made', flush=True)\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + code, str(folder / "a")],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    (tmp_path / "below").mkdir()
    dead, living = left_by("os._exit(9)", tmp_path / "below"), left_by("sys.stdin.read()", tmp_path / "below")
    with dead, living:
        assert dead.stdout.readline() == living.stdout.readline() == "made\n" and dead.wait() == 9
        with temporary_beside(tmp_path / "own") as own:
            own.mkdir()
            assert len([*tmp_path.rglob(".*.partial")]) == 3
            remove_leftovers(tmp_path.rglob("*"))
            names = {path.name.split("@")[0] for path in tmp_path.rglob(".*.partial")}
            assert names == {f".a.{living.pid}", f".own.{os.getpid()}"}
        living.kill()
        living.wait()
        remove_leftovers(tmp_path.rglob("*"))
        assert [*tmp_path.rglob("*")] == [tmp_path / "below"]


def test_what_is_not_this_programs_stays(tmp_path):
    dead = 2**30  # above every system's largest number of a process
    host = files._HOST
    others = [
        f".a.{dead}.partial",  # another program's
        ".vim.partial",
        "a.partial",
        f".a.{dead}@{host}.0123.partial",
        f".a.{dead}@elsewhere{host}.0123456789abcdef.partial",  # another host's
    ]
    mine = f".a.b@c.{dead}@{host}.0123456789abcdef.partial"
    for name in (*others, mine):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
