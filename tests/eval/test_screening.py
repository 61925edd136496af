"""The studies of training speed: every change is a change, finished results are kept, and the tables are right."""

import dataclasses
import json

import numpy as np
import pytest

from core.command_line import read_flags
from core.commands.train import TrainCommand
from core.config import Recipe
from core.config.recipes import load_recipe, to_dict
from core.files import write_json
from eval.pages.tables import replace_between
from eval.studies import reference_speed, screening
from eval.twins.interpreters import ROOT

BASE = load_recipe(ROOT / "configs" / "lens-64-fast.toml")


def changed(flags):
    parts = {f.name: getattr(BASE, f.name) for f in dataclasses.fields(BASE)}
    command = read_flags(TrainCommand(**parts), "torch_impl", flags.split(), "train")
    return Recipe(**{name: getattr(command, name) for name in parts})


@pytest.mark.parametrize("name", screening.CHANGES)
def test_every_change_is_a_recipe_of_its_own(name):
    assert (changed(screening.CHANGES[name].flags) == BASE) == (name == "recipe")
    assert len({change.flags for change in screening.CHANGES.values()}) == len(screening.CHANGES)


@pytest.fixture
def programs(monkeypatch):
    """What the study starts: words of the verbs, with a step of half a second and a distance of its steps."""
    called = []

    def run_verb(framework, words, **options):
        called.append(words)
        if "--dry-run" in words:
            return json.dumps(to_dict(BASE)) + "\nparameters 1"
        return ""

    def execute(fid):
        frechet = {"value": 2.0, "low": 1.5, "high": 2.5}
        write_json(fid.out, {"frechet": frechet, "floor": {"mean": 0.1}})

    monkeypatch.setattr(screening, "run_verb", run_verb)
    monkeypatch.setattr(screening.Fid, "execute", execute)
    monkeypatch.setattr(screening, "step_seconds", lambda recipe: 0.5)
    return called


def test_equal_time_is_given_and_finished_results_stay(programs, tmp_path):
    study = screening.Screening(only=("recipe", "adam"), seconds=100.0, n=50, out=tmp_path / "out")
    assert study.execute() == f"wrote {tmp_path / 'out' / 'table.md'}"
    trained = [words for words in programs if words[0] == "train" and "--dry-run" not in words]
    assert [words[words.index("--training.steps") + 1] for words in trained] == ["200", "200"]
    assert "--training.optimizer" not in trained[0] and "--training.optimizer" in trained[1]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| Adam in place of Muon | 500 | 200 | 2 [1.5, 2.5] |" in text
    count = len(programs)
    assert study.execute() and len(programs) == count
    dataclasses.replace(study, seconds=200.0).execute()
    assert len(programs) == 2 * count
    with pytest.raises(ValueError, match="--only muon: must be among recipe, no-stretch"):
        dataclasses.replace(study, only=("muon",)).execute()


def test_a_page_s_table_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{screening.BEGIN}old\n{screening.END}after\n")
    replace_between(page, screening.BEGIN, screening.END, "new")
    assert page.read_text() == f"before\n{screening.BEGIN}new\n{screening.END}after\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="screening: begin"):
        replace_between(page, screening.BEGIN, screening.END, "new")


def test_a_reference_minute_is_half_as_long_on_a_machine_twice_as_fast(monkeypatch):
    class Worker:
        def __init__(self, framework, threads, timeout):
            assert framework == "torch" and threads == 2

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def call(self, task, recipe, steps):
            assert task == "time_training" and recipe["training"]["batch_size"] == 64
            return {"seconds": np.r_[np.full(reference_speed.SETTLING, 9.0), np.full(20, 64 / 260)]}, {}

    monkeypatch.setattr(reference_speed, "Worker", Worker)
    assert "a reference minute has 30 s here" in reference_speed.ReferenceSpeed().execute()
