"""The study `pretrained` with pretended twins, and the distance of every network that comes with the software."""

import json

import pytest

from core.checkpoints import pretrained
from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from core.checkpoints.pretrained import pretrained_names
from core.config.recipes import load_recipe
from core.reading import read_json
from eval.measure.fid import evaluate
from eval.measure.request import DistanceRequest
from eval.studies import pretrained as study
from eval.studies.pretrained import PretrainedStudy, training_command
from eval.twins import drawn
from eval.twins import features as fid_features
from eval.verbs import main
from tests.command_line import RECIPE, run
from tests.eval.test_fid import PixelWorker

N, SMALL_N = 40, 24


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a finished run and an empty box, and a twin that is the NumPy one."""

    def run_verb(framework, words):
        code, _, err = run(*words)
        assert code == 0, err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "box")
    monkeypatch.setattr(drawn, "run_verb", run_verb)
    monkeypatch.setattr(fid_features, "Worker", PixelWorker)
    monkeypatch.setattr(study, "SMALL_N", SMALL_N)
    recipe = RECIPE.replace("[8, 16]", "8\nvector_channels = 1\nnum_class_embeds = 4")
    recipe = recipe.replace("simulate_count = 24", 'simulate_count = 130\nheld_out = 0.5\ncondition = ["theta_e"]')
    recipe = recipe.replace("batch_size = 4", "batch_size = 4\ncondition_dropout = 0.1").replace("CACHE", "cache")
    (tmp_path / "tiny.toml").write_text(recipe)
    assert run("train", "--config", "tiny.toml", "--run", "run", "--training.seed", "3")[0] == 0
    environment = read_json(tmp_path / "run" / "run.json")
    (tmp_path / "run" / "run.json").write_text(json.dumps({**environment, "framework": "torch"}))
    return tmp_path


def test_the_card_has_what_the_files_say(place, capsys):
    words = ["run", "--name", "tiny", "--config", "tiny.toml", "--n", str(N), "--speed", "260"]
    assert main(PretrainedStudy, "pretrained", words) == 0
    assert f"at N = {N}" in capsys.readouterr().out
    card, facts = (place / "box" / "tiny" / "card.md").read_text(), read_json(place / "box" / "tiny" / "card.json")
    progress = load_checkpoint(resolve_checkpoint("run")).progress
    assert facts["command"] == "python -m torch_impl train --config tiny.toml --training.seed 3"
    assert (facts["steps"], facts["seconds"]) == (4, progress["seconds"])
    assert facts["reference_minutes"] == round(progress["seconds"] * 2 / 60, 1)
    assert [d["n"] for d in facts["distances"]] == [N, SMALL_N]
    for d in facts["distances"]:
        assert d["low"] < d["value"] < d["high"] and d["floor"] > 0
        assert f"| {d['n']} | {d['value']:.3g} | {d['low']:.3g} to {d['high']:.3g} | {d['floor']:.3g} ±" in card
    assert f"Of {N} drawn images {100 * facts['nearest']['share_closer']:.1f} % are nearer" in card
    assert facts["command"] in card and facts["weights_sha256"] in card and "`theta_e`" in card and "MIT" in card
    assert str(place) not in card + json.dumps(facts), "no path of this machine"
    result, _ = evaluate(DistanceRequest(real="pretrained:tiny", generated="pretrained:tiny", n=SMALL_N))
    assert result["frechet"]["value"] == pytest.approx(facts["distances"][1]["value"], rel=1e-9)


def test_what_is_refused(place, capsys):
    (place / "long.toml").write_text((place / "tiny.toml").read_text().replace("steps = 4", "steps = 9"))
    recipe = json.loads(next((place / "run" / "checkpoints").iterdir()).joinpath("recipe.json").read_text())
    assert recipe["training"]["steps"] == 4
    for words, message in (
        (["run", "--name", "../tiny"], "--name"),
        (["run", "--n", "3"], "--n 3"),
        (["run", "--speed", "-1"], "--speed"),
        (["missing"], "missing"),
    ):
        assert main(PretrainedStudy, "pretrained", words) == 2
        assert message in capsys.readouterr().err
    assert not (place / "box").exists()


def test_the_command_names_every_value_that_differs(place):
    base = load_recipe("tiny.toml")
    assert training_command("tiny.toml", base, "tensorflow") == "python -m tf_impl train --config tiny.toml"
    trained = load_recipe("run/recipe.json")
    assert training_command("tiny.toml", trained, "torch").endswith(" --training.seed 3")


@pytest.mark.slow
def test_the_distance_of_every_network_is_in_the_interval_of_its_card(tmp_path, monkeypatch):
    if not pretrained_names():
        pytest.skip("core/pretrained holds no network so far")
    monkeypatch.setattr(drawn, "results_folder", lambda run: tmp_path / str(run).removeprefix(pretrained.PREFIX))
    for name in pretrained_names():
        card = read_json(pretrained.FOLDER / name / "card.json")
        expected = next(d for d in card["distances"] if d["n"] == 500)
        network = f"pretrained:{name}"
        result, _ = evaluate(DistanceRequest(real=network, generated=network, n=500))
        assert expected["low"] <= result["frechet"]["value"] <= expected["high"]
        assert result["generated"]["weights_sha256"] == card["weights_sha256"]
