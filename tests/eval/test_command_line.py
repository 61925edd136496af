"""The command line of eval: every verb explains itself at once, and what is wrong is one line."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

from eval.__main__ import VERBS, command_of, main


@pytest.mark.parametrize("name", VERBS)
def test_help_has_the_docstring_and_every_flag(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    docstring = inspect.cleandoc(command_of(name).__doc__)
    assert docstring.splitlines()[0] in said and "  python -m eval " + name in said
    words = {
        "fid": ("real", "generated"),
        "pairs": ("truth", "draws"),
        "spd": ("real", "generated"),
        "spd-regression": ("run",),
        "sweep": ("run",),
        "utility": ("real", "generated"),
    }.get(name, ())  # these are no flags
    for field in dataclasses.fields(command_of(name)):
        assert field.name in words or f"--{field.name.replace('_', '-')} " in said, field.name
    assert "--no-" not in said


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from eval.__main__ import VERBS, main\n"
        "for verb in VERBS:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'jinja2', 'PIL', 'torch', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no verb given"),
        (["fit"], "unknown verb 'fit'"),
        (["fid", "only-one"], "Missing"),
        (["compare", "--real", "a"], "Missing"),
        (["sweep", "run", "--sampler", "ddim"], "did you mean --samplers?"),
        (["benchmark", "--peer", "jax"], "jax"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(capsys, words, message):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and len(said.splitlines()) == 1
