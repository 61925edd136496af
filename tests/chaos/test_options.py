"""Generated option values: whatever is given becomes a configuration of finite numbers, or one line that names it."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.command_line import parse, read_flags
from core.commands.sample import SampleCommand
from core.commands.train import TrainCommand
from core.config import Recipe
from core.config.recipes import from_dict, to_dict
from core.data.__main__ import Simulate
from core.data.info import Info
from eval.verbs.fid import Fid

CLASSES = {"train": TrainCommand, "sample": SampleCommand, "info": Info, "simulate": Simulate, "fid": Fid}
NEEDED = {"info": ["--path", "x"], "simulate": ["--out", "x"], "fid": ["--real", "x", "--generated", "x"]}

INTEGERS = st.one_of(st.integers(), st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400]))
FLOATS = st.one_of(st.floats(), st.sampled_from(["inf", "-inf", "nan", "1e999", "-0.0", "1e-400"]))
WORDS = st.sampled_from(
    ["", " ", "none", "None", "True", "--", "-1", "[1]", "{}", "ddim", "../..", "é", "\x00", "\n", "a" * 999]
)
VALUES = st.one_of(INTEGERS.map(str), FLOATS.map(str), WORDS, st.text(max_size=9))

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), st.text(max_size=9), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def flags_of(cls, prefix=""):
    """The flags of a dataclass and of the tables in it."""
    found = []
    for field in dataclasses.fields(cls):
        table = getattr(field.default_factory, "__dataclass_fields__", None)
        name = f"{prefix}{field.name.replace('_', '-')}"
        found += flags_of(field.default_factory, f"{name}.") if table else [f"--{name}"]
    return found


def numbers(value):
    """All numbers in a configuration."""
    if dataclasses.is_dataclass(value):
        return [n for field in dataclasses.fields(value) for n in numbers(getattr(value, field.name))]
    if isinstance(value, (tuple, list)):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def sane(found):
    assert all(math.isfinite(n) and (isinstance(n, float) or abs(n) < 2**63) for n in numbers(found)), found


def one_line(message):
    assert message and "\n" not in message.strip() and len(message) < 3000, message


@pytest.mark.parametrize("verb", CLASSES)
def test_option_values_are_taken_or_refused_in_one_line(verb):
    cls = CLASSES[verb]

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(flags_of(cls)), VALUES, st.booleans()), min_size=1, max_size=3))
    def check(options):
        argv = list(NEEDED.get(verb, []))
        for flag, value, attached in options:
            argv += [f"{flag}={value}"] if attached else [flag, value]
        try:
            if verb in ("train", "sample"):
                sane(read_flags(cls(), "torch_impl", argv, verb, flat=verb == "sample"))
            else:
                sane(parse(cls, argv, f"prog {verb}", "Options."))
        except ValueError as error:
            one_line(str(error))
        except SystemExit as end:
            assert not end.code

    check()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_recipe_values_are_taken_or_refused_by_name(data):
    recipe = to_dict(Recipe())
    table = data.draw(st.sampled_from(sorted(recipe)))
    key = data.draw(st.sampled_from(sorted(recipe[table])))
    value = data.draw(JSON)
    recipe[table][key] = value
    try:
        found = from_dict(Recipe, recipe)
    except ValueError as error:
        assert key.split("_")[0] in str(error) or table in str(error)
        one_line(str(error))
    else:
        sane(found)
