"""The command line of every program: flags read into a dataclass.

What is slow to import is imported inside the function that needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import inspect
import io
import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core.exits import FRAMEWORKS

T = TypeVar("T")


def parse(cls: type[T], argv: Sequence[str], prog: str, text: str, default: T | None = None, flat: bool = False) -> T:
    """Read flags into a dataclass. Its fields become kebab-case flags, and their docstrings the flags' help.

    Args:
        cls: the dataclass.
        argv: the flags.
        prog: name of the program in its messages, such as python -m eval fid.
        text: the text of --help above the flags.
        default: values of the flags that are not given; None takes the dataclass's own.
        flat: whether the flags of nested dataclasses have no prefix.
    Returns:
        The dataclass with the given values.
    Raises:
        ValueError: an unknown flag, with the nearest known one; a wrong or missing value; or a number outside the
            limits of core.config.limits. The message is one line.
        SystemExit: with code 0, after --help is printed.
    """
    import tyro

    from core.config.limits import check_limits

    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if word.startswith("--") and ((equals and not value) or (not equals and argv[i + 1 : i + 2] == [""])):
            raise ValueError(f"{flag}: its value is empty; a shell variable may not be set")
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            given = tyro.MISSING_NONPROP if default is None else default
            config = (tyro.conf.OmitArgPrefixes,) if flat else ()
            command = tyro.cli(cls, args=list(argv), prog=prog, description=text, default=given, config=config)
    except SystemExit as error:
        if not error.code:
            raise
        said = _one_line(captured.getvalue())
        raise ValueError(f"{said}{_hint(said, cls, flat)}; see {prog} --help") from error
    check_limits(command)
    return command


def read_flags(default: T, package: str, argv: Sequence[str], name: str, more: str = "", flat: bool = False) -> T:
    """Read the flags of a twin's verb.

    Args:
        default: the verb's dataclass with its defaults. Its docstring is the text of --help, where PACKAGE stands for
            `package`.
        package: torch_impl or tf_impl.
        argv: the words after the verb.
        name: the verb.
        more: text of --help below the docstring, for this twin only.
        flat: as in parse().
    Returns:
        The dataclass with the given values.
    """
    text = inspect.cleandoc(type(default).__doc__ or "").replace("PACKAGE", package)
    return parse(type(default), argv, f"python -m {package} {name}", f"{text}\n\n{more}".rstrip(), default, flat)


def _one_line(box: str) -> str:
    """The message inside tyro's box, which may be drawn in ASCII."""
    lines = [line.strip("│╭╰╮╯ ").strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    message: list[str] = []
    for line in filter(None, lines[1:]):  # the first line is the box's title
        if set(line) > {"─"} or not set(line) <= {"─", "-"}:
            message.append(line)
        elif message:
            break
    return " ".join(message).rstrip(".")


def _hint(said: str, cls: Any, flat: bool) -> str:
    """The nearest flag to the first one that was not recognised, as '; did you mean --n?', or ''."""
    from core.config.nearest import nearest
    from core.config.recipes import option_names

    flag = re.match(r"Unrecognized options: --([\w.-]+)", said)
    if flag is None:
        return ""
    known = option_names(cls if isinstance(cls, type) else typing.get_args(cls)[0])
    names = [name.split(".")[-1] for name in known] if flat else known
    return re.sub(r"[\w.]+(?= or |\?)", lambda name: _as_flag(name[0]), nearest(flag[1].replace("-", "_"), names))


def _as_flag(name: str) -> str:
    """A name as its flag: training.batch_size is --training.batch-size."""
    return f"--{name.replace('_', '-')}"


def verb(argv: Sequence[str], verbs: dict[str, str], prog: str) -> str:
    """The first word of a command line, which must be a verb.

    Args:
        argv: the words of the command line.
        verbs: one line of help for each verb.
        prog: name of the program in its messages.
    Raises:
        ValueError: a missing or unknown verb.
        SystemExit: with code 0, after the list of verbs is printed for -h or --help, or the versions for --version.
    """
    width = max(10, *map(len, verbs))
    listed = "\n".join(f"  {name:<{width}} {text}" for name, text in verbs.items())
    if argv and argv[0] in ("-h", "--help"):
        more = f"{prog} VERB --help says more of each, and {prog} --version the versions."
        print(f"usage: {prog} VERB [OPTIONS]\n\n{listed}\n\n{more}")
        raise SystemExit(0)
    if argv and argv[0] == "--version":
        print(versions())
        raise SystemExit(0)
    if not argv or argv[0] not in verbs:
        given = f"unknown verb {argv[0]!r}" if argv else "no verb given"
        raise ValueError(f"{given}: must be one of {', '.join(verbs)}; see {prog} --help")
    return argv[0]


def versions() -> str:
    """This project's version, and those of Python, NumPy and the frameworks that this Python has."""
    import platform
    import tomllib
    from importlib import metadata

    project = Path(__file__).parents[1] / "pyproject.toml"
    own = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    found = [f"diptych {own}", f"Python {platform.python_version()}"]
    for package in ("numpy", *FRAMEWORKS):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return ", ".join(found)


def name_the_word(cls: type, argv: list[str], name: str, field: str, what: str) -> list[str]:
    """As name_the_words(), for a verb that takes one word."""
    return name_the_words(cls, argv, name, (field,), f"one {what}")


def name_the_words(cls: type, argv: list[str], name: str, names: tuple[str, ...], what: str) -> list[str]:
    """Give words without a flag the flags of `names`: `RUN --n 4` and `--n 4 RUN` become `--checkpoint RUN --n 4`.

    Args:
        cls: the verb's dataclass, which has the fields `names`.
        argv: the words after the verb.
        name: the verb, for the message.
        names: fields for the words, in this order, such as checkpoint.
        what: meaning of the words, for the message.
    Returns:
        The flags, first those of `names`.
    Raises:
        ValueError: more words than names.
    """
    parts: list[Any] = [cls, *(f.default_factory for f in dataclasses.fields(cls))]
    switches = {"-h", "--help"}
    for field in (
        field
        for part in filter(dataclasses.is_dataclass, parts)
        for field in dataclasses.fields(part)
        if field.type in ("bool", bool)
    ):
        name_of_flag = field.name.replace("_", "-")
        switches |= {f"--{name_of_flag}", f"--no-{name_of_flag}", f"--{field.name}", f"--no_{field.name}"}
    flags: list[str] = []
    words: list[str] = []
    takes_value = False
    for word in argv:
        bare = not takes_value and not word.startswith("-")
        (words if bare else flags).append(word)
        takes_value = not takes_value and not bare and "=" not in word and word not in switches
    if len(words) > len(names):
        raise ValueError(f"{name} {' '.join(words)}: takes {what}; options start with --")
    return [*(part for field, word in zip(names, words, strict=False) for part in (f"--{field}", word)), *flags]


def name_the_checkpoint(cls: type, argv: list[str], name: str) -> list[str]:
    """As name_the_word(), for a verb that takes a run or checkpoint."""
    return name_the_word(cls, argv, name, "checkpoint", "run or checkpoint")


def output_folder(folder: str | Path, flag: str = "--out") -> Path:
    """The folder that a flag names.

    Raises:
        ValueError: it is a file, or lies in one, or in a folder that may not be written, or is pretrained:NAME.
    """
    from core.checkpoints.pretrained import refuse_pretrained

    refuse_pretrained(folder, flag)
    folder = Path(folder)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{flag} {folder}: {there} is a file: must be a folder, or a free name")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{folder}: {there} may not be written; name another folder with {flag}")
    return folder


@contextlib.contextmanager
def sampling_flags() -> Iterator[None]:
    """Errors that name a key of the table sampling name the flag instead: --steps for sampling.steps."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"\bsampling\.(\w+)", lambda key: _as_flag(key[1]), str(error))) from error


def given(argv: Sequence[str], flag: str) -> str | None:
    """A flag's value, or None. It is read before the parser, where the defaults of other flags depend on it."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of any size for later use, rather than return them to the system.

    Otherwise a tensor above 32 MiB is mapped again, page by page, at every operation. That takes half the time of
    sampling in PyTorch at 64 x 64 on a CPU. Without glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
