"""The mutation check's own parts: faults that fit the files, a fault that is not found is said so, exit codes."""

import json
from pathlib import Path

import pytest

from tests import mutations
from tests.faults import FAULTS, RECIPES, Fault
from tests.mutations import climb, judge, main, make_copy, mutated

ROOT = Path(__file__).resolve().parents[2]
EPSILON = Fault("epsilon", "a.py", "eps = 1e-6", "eps = 1e-5", 5)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_fits_its_file(fault):
    """A fault whose text has changed in the code must be written anew: this says so without climbing."""
    text = mutated(ROOT, fault)
    compile(text, fault.file, "exec")
    assert text != (ROOT / fault.file).read_text(encoding="utf-8") and fault.recipe in RECIPES


def test_names_are_given_once_and_every_rung_has_a_fault():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.rung for fault in FAULTS} == set(range(1, 11))
    assert {Path(fault.file).parts[0] for fault in FAULTS} == {"core", "torch_impl", "tf_impl"}


@pytest.mark.parametrize("text", ["eps = 1e-3\n", "eps = 1e-6\neps = 1e-6\n"])
def test_a_fault_that_does_not_fit_once_is_refused(tmp_path, text):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(
        ValueError, match=f"fault 'epsilon': .* stands {text.count('1e-6')} times in a.py, must be once"
    ):
        mutated(tmp_path, EPSILON)


def test_the_copy_is_the_checkout_without_what_is_compiled(tmp_path):
    make_copy(tmp_path)
    for path in ("core/networks/unet.py", "torch_impl/unet.py", "tf_impl/unet.py", "eval/pages/templates/page.css"):
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
    assert not list(tmp_path.rglob("core/**/__pycache__"))


def entry(rung: int, quantity: str, measured: float | None, tolerance: float) -> dict:
    values = {"rung": rung, "quantity": quantity, "dtype": "float64", "measured": measured, "tolerance": tolerance}
    return {**values, "ok": measured is not None and measured <= tolerance}


GREEN = entry(1, "betas", 1e-15, 1e-12)
LAYER, OUTPUT, LATE = entry(5, "layer a", 1e-6, 1e-12), entry(5, "output", 1e-3, 1e-10), entry(6, "loss", 1.0, 1e-8)


@pytest.mark.parametrize(
    ("rungs", "quantity", "ok"),
    [
        ([GREEN, OUTPUT, LAYER, LATE], "output (float64)", True),  # 1e7 times its tolerance, before 1e6
        ([GREEN, LAYER, entry(5, "layer b", None, 1e-12)], "layer b (float64)", True),  # could not be compared
        ([GREEN, LAYER, entry(5, "names", 1.0, 0.0)], "names (float64)", True),
        ([GREEN, LATE], "loss (float64)", False),  # too late: another rung finds it, not the one that should
        ([entry(1, "betas", 1.0, 1e-12), OUTPUT], "betas (float64)", False),
        ([GREEN], "", False),
    ],
)
def test_a_fault_is_caught_where_its_rung_is_the_first_red_one(rungs, quantity, ok):
    outcome = judge(EPSILON, "classes", {"rungs": rungs})
    assert outcome.ok is ok and outcome.quantity == quantity
    clean = judge(None, "classes", {"rungs": rungs})
    assert clean.ok is (quantity == "")


def pretend(monkeypatch, red_at: int | None, broken: bool = False):
    """A ladder that is red at a rung for every fault, and green for none."""

    def climb(folder, recipe):
        if broken:
            raise RuntimeError("exit code 1, no report: out of memory")
        faulty = any((folder / f.file).read_bytes() != (ROOT / f.file).read_bytes() for f in FAULTS)
        return {"rungs": [GREEN, *([entry(red_at, "x", 1.0, 1e-8)] if faulty and red_at else [])]}

    monkeypatch.setattr(mutations, "climb", climb)


def test_the_table_and_the_file_say_what_was_caught(monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, 5)
    names = ["gelu by tanh", "GroupNorm's epsilon 1e-5 for 1e-6"]
    assert main(["--only", *names, "--out", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr()
    assert "2 of 2 caught" in said.out and "2 of 2 green without a fault" in said.out and "WRONG" not in said.out
    assert "1 of 4: no fault" in said.err and "3 of 4: gelu by tanh" in said.err
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(row["fault"], row["recipe"], row["rung"]) for row in rows] == [
        ("none", "shift", None),
        ("none", "classes", None),
        ("gelu by tanh", "shift", 5),
        ("GroupNorm's epsilon 1e-5 for 1e-6", "classes", 5),
    ]
    assert rows[2]["file"] == "tf_impl/layers.py" and (rows[2]["measured"], rows[2]["tolerance"]) == (1.0, 1e-8)


@pytest.mark.parametrize(("red_at", "broken"), [(None, False), (6, False), (5, True)])
def test_a_fault_that_slips_through_exits_1(monkeypatch, capsys, red_at, broken):
    pretend(monkeypatch, red_at, broken)
    assert main(["--only", "gelu by tanh"]) == 1
    said = capsys.readouterr().out
    assert "0 of 1 caught" in said and "WRONG" in said and ("no report: out of memory" in said) is broken


def test_an_unknown_name_or_folder_and_a_fault_that_does_not_fit_exit_2(monkeypatch, capsys):
    assert main(["--only", "gelu with tanh"]) == 2
    assert "--only gelu with tanh: no such fault; did you mean 'gelu by tanh'?" in capsys.readouterr().err
    assert main(["--out", "nowhere/out.json"]) == 2
    assert "--out nowhere/out.json: its folder does not exist" in capsys.readouterr().err
    pretend(monkeypatch, 5)
    monkeypatch.setattr(mutations, "FAULTS", (Fault("stale", "core/config/model.py", "no such text", "", 1),))
    assert main([]) == 2
    assert "fault 'stale'" in capsys.readouterr().err


def test_a_ladder_that_does_not_climb_is_no_catch(tmp_path):
    make_copy(tmp_path)
    (tmp_path / "core" / "config" / "__init__.py").write_text("raise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match=r"exit code 1, no report: .*broken"):
        climb(tmp_path, "classes")
    assert not (tmp_path / "parity").exists()
