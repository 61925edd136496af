"""The documentation: every command is read by its own program, Python blocks compile, and paths and links exist."""

import ast
import importlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import tyro

from core.commands.gpu_check import Parser
from core.config import Recipe
from core.config.recipes import to_dict
from core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "configs").glob("*.toml"))
WRITTEN = ROOT / "docs" / "results.md"
"""A page that a program writes, whose lines are as long as the numbers in them."""
TWINS = ("torch_impl", "tf_impl")
MENTION = re.compile(r"python -m (torch_impl|tf_impl|eval|core\.data)( [a-z0-9-]+)?")
"""A program, or its verb, that is named without its options."""


class Parsed(BaseException):
    """A command line was read; nothing of it is run. No program catches it."""


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose_of(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def read(page: Path) -> str:
    """The text of a page."""
    return page.read_text(encoding="utf-8")


def shell_lines(text: str) -> Iterator[str]:
    """The lines of ```sh blocks, continued lines joined, comments gone, `$S` replaced by what `S=` says."""
    variables: dict[str, str] = {}
    for line in "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).strip()
        for name, value in variables.items():
            words = words.replace(f"${name}", value)
        assignment = re.fullmatch(r'([A-Z]+)="(.*)"', words)
        if assignment:
            variables[assignment[1]] = assignment[2]
        elif words:
            yield words


def commands(path: Path) -> list[str]:
    """What a page (or the head of a recipe) says can be typed: one line a command."""
    text = read(path)
    if path.suffix == ".toml":
        return [match.strip() for match in re.findall(r"^#.*?(python -m [^#\n(]*?)(?:  .*)?$", text, re.MULTILINE)]
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(text)))
    typed = [span for span in spans if re.match(r"([A-Z_]+=\S+ )*(python -m|make|\S+/python -m) ", span)]
    return [*shell_lines(text), *typed]


COMMANDS = [
    pytest.param(command, id=f"{path.name}: {command[:60]}")
    for path in [*PAGES, *RECIPES]
    for command in dict.fromkeys(commands(path))
]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that has the checkout's recipes, in which nothing is run: every parser stops its program."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)

    def only_read(real):
        def read_and_stop(*arguments, **options):
            real(*arguments, **options)
            raise Parsed

        return read_and_stop

    def nothing(*arguments, **options):
        raise AssertionError("the command was run, not only read")

    monkeypatch.setattr(tyro, "cli", only_read(tyro.cli))
    monkeypatch.setattr(Parser, "parse_args", only_read(Parser.parse_args))  # of gpu-check, which needs no tyro
    monkeypatch.setattr("subprocess.Popen.__init__", nothing)
    return tmp_path


def words_of(command: str) -> list[str]:
    """The words of a command without the variables before it; alternatives of placeholders are one word."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    return [word for word in words if word != "..."]


def parse(module: str, argv: list[str]) -> None:
    """Read a command line as `python -m MODULE` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [module, *argv])
        name = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
        patch.delitem(sys.modules, name, raising=False)  # runpy warns of a module that is there already
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def printed(module: str, *argv: str) -> str:
    """What a program prints for --help."""
    with redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit, match="0"):
        parse(module, [*argv, "--help"])
    return text.getvalue()


def verbs_of(module: str, *argv: str) -> set[str]:
    """The verbs of a program, or the kinds of a verb; none where it has options only."""
    text = printed(module, *argv)
    return set(re.findall(r"^  ([a-z0-9-]+) +\S", text, re.MULTILINE)) if "VERB --help says more" in text else set()


def help_of(module: str, *argv: str) -> str:
    """The help of a program and of all its verbs."""
    return printed(module, *argv) + "".join(help_of(module, *argv, name) for name in verbs_of(module, *argv))


def check_python(words: list[str]) -> None:
    """One `python -m MODULE ...`."""
    module, argv = words[2], words[3:]
    if module == "pytest":
        for word in argv:
            assert "/" not in word or (ROOT / word).exists(), word
        return
    assert importlib.util.find_spec(module), f"no module {module}"
    if module.startswith("tests.") or module == "torch_impl.train_lens_extractor":
        place = ROOT / module.replace(".", "/")
        source = read(place / "__main__.py" if place.is_dir() else place.with_suffix(".py"))
        for option in (word for word in argv if word.startswith("--")):
            assert option.removeprefix("--").replace("-", "_") in source.replace("-", "_"), option
        return
    if "--resume" in argv:  # train reads the run's recipe before its options
        run = Path(argv[argv.index("--resume") + 1])
        run.mkdir(parents=True)
        write_json(run / "recipe.json", to_dict(Recipe()))
    with pytest.raises(Parsed):
        parse(module, argv)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_understood(command, checkout, capsys):
    words = words_of(command)
    if MENTION.fullmatch(command):
        assert len(words) == 3 or words[3] in verbs_of(words[2]), f"{words[2]} has no verb {words[3]}"
    elif words[0] == "make":
        makefile = read(ROOT / "Makefile")
        for word in words[1:]:
            name = word.partition("=")[0]
            assert f"$({name})" in makefile or f"$(if $({name})" in makefile or f"\n{name}:" in makefile, word
    elif words[0] == "conda":
        text = "".join(read(path) for path in (ROOT / "envs").glob("*.yml"))
        assert (ROOT / words[-1]).exists() or f"name: {words[-1]}\n" in text
    elif words[0] == "torchrun":
        check_python(["python", "-m", *words[words.index("--") + 1 :]])
        assert capsys.readouterr().err == ""
    elif Path(words[0]).name == "python":
        check_python(words)
        assert capsys.readouterr().err == ""
    else:
        pytest.fail(f"a command that this test cannot check: {command}")


def test_a_wrong_command_is_found(checkout):
    for command in ("python -m torch_impl sample RUN --stepz 3", "python -m eval fid A B --extractor vgg"):
        with pytest.raises(SystemExit, match="2"):
            parse(command.split()[2], command.split()[3:])
    assert MENTION.fullmatch("python -m eval fid") and "fidd" not in verbs_of("eval")
    assert {"train", "synthesise-ema"} < verbs_of("tf_impl")


def test_every_documented_option_exists():
    known = "".join(help_of(module) for module in ("torch_impl", "eval", "core.data"))
    for page in PAGES:
        for option in re.findall(r"`(--[a-z][a-z.-]*)", prose_of(read(page))):
            assert re.search(rf"{option}\b", known), f"{page.name}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page):
    prose = prose_of(read(page))
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for path in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|toml|md|png|svg|yml|txt|safetensors))[:`]", prose):
        assert path.startswith("runs/") or (ROOT / path).exists(), path


def test_every_page_is_reachable_from_the_index():
    index = read(ROOT / "docs" / "index.md")
    listed = set(re.findall(r"\]\((?:\.\./)?([\w-]+\.md)\)", index))
    assert {page.name for page in PAGES} - {"index.md"} == listed
    assert "](docs/index.md)" in read(ROOT / "README.md")


@pytest.mark.parametrize("page", [page for page in [*PAGES, *RECIPES] if page != WRITTEN], ids=lambda page: page.name)
def test_prose_keeps_to_120_columns(page):
    long = [line for line in prose_of(read(page)).splitlines() if len(line) > 120 and not line.startswith(("|", "!["))]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile_and_their_imports_exist(page):
    for block in blocks(read(page), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "core":
                assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)


def test_the_mathematics_alone_runs():
    block = next(b for b in blocks(read(ROOT / "docs" / "python.md"), "python") if "make_table" in b)
    names = {}
    exec(block, names)
    assert names["images"].shape == (4, 8, 8, 1) and not names["images"].any()  # the network predicts x0 = 0


@pytest.mark.parametrize(
    ("page", "command", "written"),
    [
        ("README.md", "python -m core.data info PATH", None),
        (
            "README.md",
            "python -m eval compare --real REAL --generated A B --train TRAIN --out comparison",
            "comparison/report.html",
        ),
        ("docs/architecture.md", "python -m eval.studies.architecture_picture", "docs/architecture.svg"),
        ("docs/math.md", "python -m eval.studies.math_picture", "docs/math.png"),
    ],
)
def test_a_quick_command_does_what_the_page_says(page, command, written, tmp_path):
    assert command in commands(ROOT / page)
    (tmp_path / "docs").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("PATH", 4), ("REAL", 80), ("A", 40), ("B", 40), ("TRAIN", 80)):
        (tmp_path / name).mkdir()
        for index in range(count):
            np.save(tmp_path / name / f"{index}.npy", rng.random((16, 16), np.float32))
    words = [sys.executable, *words_of(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0 and answer.stdout, answer.stderr
    assert written is None or (tmp_path / written).stat().st_size > 10_000
