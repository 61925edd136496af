"""The limits of options, and the hints for mistyped names."""

import dataclasses
import math

import pytest

from core.commands import edit_flags, features, import_, likelihood, sample, synthesise_ema, train
from core.config import Recipe
from core.config.limits import LARGEST, LARGEST_FLOAT, check_limits
from core.config.nearest import nearest
from core.config.recipes import from_dict, option_names
from core.data.__main__ import COMMANDS
from eval.__main__ import VERBS, command_of

PARTS = {field.name: type(getattr(Recipe(), field.name)) for field in dataclasses.fields(Recipe)}
CLASSES = (
    *PARTS.values(),
    *edit_flags.COMMANDS.values(),
    *(options for options, _, _ in COMMANDS.values()),
    *(command_of(name) for name in VERBS),
    *(train.TrainCommand, sample.SampleCommand, likelihood.LikelihoodCommand, features.FeaturesCommand),
    *(import_.ImportCommand, synthesise_ema.SynthesiseCommand),
)


def counts(cls):
    """The names of a dataclass's whole numbers."""
    return {field.name for field in dataclasses.fields(cls) if "int" in str(field.type)}


def test_every_whole_number_has_a_limit_and_no_limit_is_without_a_number():
    bounded = {"freq_shift", "downsample_padding", "order"}  # their few values are listed where they are checked
    found = set().union(*map(counts, CLASSES))
    assert found - bounded == {name.split(".")[-1] for name in LARGEST}


@pytest.mark.parametrize("part", PARTS)
def test_recipes_refuse_numbers_beyond_their_limits_by_name(part):
    for field in dataclasses.fields(PARTS[part]):
        largest = LARGEST.get(f"{part}.{field.name}", LARGEST.get(field.name))
        if largest is not None:
            for value, allowed in ((largest + 1, f"at most {largest}"), (-1, "at least 0")):
                given = [value, value] if "tuple" in str(field.type) else value
                with pytest.raises(ValueError, match=rf"^{part}\.{field.name} = .*: must be {allowed}$"):
                    from_dict(Recipe, {part: {field.name: given}})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300])
def test_every_float_of_a_recipe_is_finite(part, value):
    for field in dataclasses.fields(PARTS[part]):
        if "float" in str(field.type):
            given = (value,) if "tuple" in str(field.type) else value
            with pytest.raises(ValueError, match=rf"{part}\.{field.name} = .*: must be finite"):
                PARTS[part](**{field.name: given})


def test_flags_are_named_as_flags():
    @dataclasses.dataclass
    class Flags:
        batch_size: int | None = None
        strength: float = 0.5
        fresh: bool = True

    check_limits(Flags())
    check_limits(Flags(LARGEST["batch_size"], LARGEST_FLOAT))
    with pytest.raises(ValueError, match=r"^--batch-size 1000001: must be at most 1000000$"):
        check_limits(Flags(1_000_001))
    with pytest.raises(ValueError, match=r"^--strength nan: must be finite"):
        check_limits(Flags(strength=math.nan))


NAMES = option_names(Recipe)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("steps", "training.steps or sampling.steps"),
        ("trainig.steps", "training.steps"),
        ("sampling.step", "sampling.steps"),
        ("lr", "training.learning_rate"),
        ("training.lr", "training.learning_rate"),
        ("batch", "training.batch_size or sampling.batch_size"),
        ("seed", "training.seed or evaluation.seed"),
        ("epochs", "training.steps or sampling.steps"),
        ("batchsize", "training.batch_size or sampling.batch_size"),
        ("image_size", "model.sample_size"),
        ("held_outs", "data.held_out"),
        ("skip_broken", "data.skip_broken"),
        ("data", "data.source"),
    ],
)
def test_a_hint_goes_by_meaning(name, found):
    assert nearest(name, NAMES) == f"; did you mean {found}?"


def test_a_name_of_the_own_table_comes_before_those_of_others():
    assert nearest("lr", ["steps", "learning_rate"], NAMES) == "; did you mean learning_rate?"
    assert nearest("batch_size", ["sample_size"], NAMES).startswith("; did you mean training.batch_size or")
    assert nearest("xyzzy", NAMES) == ""
