"""The study `conditioning` over a pretended worker: its conditions, what is scored, and the files written."""

import json

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.config import DataConfig, ModelConfig, Recipe, SamplingConfig, TrainingConfig
from core.data.lenses import simulate
from core.extractors.lens import ANGLES, PARAMETERS
from core.inference.conditioning import data_record
from core.networks.specs import initial_weights
from core.worker.protocol import with_prefix
from core.worker.tasks import as_dataset
from eval.studies.conditioned_network import agreement
from eval.studies.conditioning import ConditioningStudy
from eval.twins import client

FIELD, NAMES = 5.0, ("theta_e", "gamma1")
BLOCKS = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
MODEL = ModelConfig((32, 32), 1, 1, **BLOCKS, norm_num_groups=4, mid_block_type=None, vector_channels=2)
RECIPE = Recipe(
    MODEL,
    data=DataConfig(condition=NAMES, field_of_view=FIELD),
    training=TrainingConfig(condition_dropout=0.1),
    sampling=SamplingConfig("ddim", 4),
)


def test_agreement_has_its_closed_forms():
    x = np.random.default_rng(0).standard_normal(500)
    assert agreement(x, x) == {"r2": 1.0, "rms": 0.0, "slope": pytest.approx(1.0)}
    shifted = agreement(x, 2 * x + 1)
    mean, variance = x.mean(), x.var()
    assert shifted["slope"] == pytest.approx(2)
    assert shifted["rms"] ** 2 == pytest.approx(variance + mean**2 + 2 * mean + 1)
    assert shifted["r2"] == pytest.approx(1 - shifted["rms"] ** 2 / variance)
    assert agreement(x, np.full(500, mean))["r2"] == pytest.approx(0)


@pytest.fixture(scope="module")
def record():
    images, labels, numbers = simulate("lensing", 30, (32, 32), field_of_view=FIELD)
    arrays = {"images": images, "labels": labels, **{f"parameters/{name}": numbers[name] for name in NAMES}}
    return data_record(RECIPE, as_dataset(arrays))


def save(folder, record, recipe=RECIPE):
    weights = initial_weights(recipe.model, 0)
    state = {f"{part}/{n}": w for part in ("params", "exp_avg", "exp_avg_sq") for n, w in weights.items()}
    save_checkpoint(folder, Checkpoint(recipe, weights, state, {"step": 1}, record))
    return str(folder)


class Pretender:
    """Draws blank images and measures in them the last condition, `error` too large in the radius without guidance."""

    error = 0.1

    def __init__(self, record):
        self.record, self.asked = record, []

    def __call__(self, *_, **__):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def call(self, task, arrays, **options):
        if task == "sample":
            vector = with_prefix(arrays, "condition/")["vector"]
            known = self.record["condition"]
            self.last = vector * known["std"] + known["mean"]
            self.guidance = options["recipe"]["sampling"]["guidance"]
            self.asked.append((options["n"], self.guidance, self.last))
            return {"images": np.zeros((options["n"], 32, 32, 1), np.float32)}, {}
        assert task == "features"
        seen = np.zeros((len(arrays["images"]), len(PARAMETERS)))
        if self.asked and len(self.last) == len(seen):
            for column, name in enumerate(NAMES):
                scale = FIELD if name in ANGLES else 1.0
                off = self.error if name == "theta_e" and self.guidance == 1 else 0.0
                seen[:, PARAMETERS.index(name)] = (self.last[:, column] + off) / scale
        return {"parameters": seen}, {}


@pytest.fixture(scope="module")
def made(tmp_path_factory, record):
    """The study of 20 images a guidance scale: the pretender, the output folder, the result and the table."""
    folder, pretender = tmp_path_factory.mktemp("conditioning"), Pretender(record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "Worker", pretender)
        study = ConditioningStudy(checkpoint=save(folder / "run", record), out=str(folder / "out"), n=20)
        text = study.execute()
    return pretender, folder / "out", json.loads((folder / "out" / "conditioning.json").read_text()), text


def test_radii_are_spread_evenly_over_the_training_range(made):
    pretender, _, result, _ = made
    low, high = result["radii"]
    np.testing.assert_allclose(np.sort(pretender.asked[0][2][:, 0]), np.linspace(low, high, 20), rtol=1e-6)
    assert [g for n, g, _ in pretender.asked if n == 20] == [1.0, 2.0]
    assert result["network_evaluations"] == {"guidance 1": 4, "guidance 2": 8}


def test_the_wanted_parameters_are_scored_against_those_measured(made):
    pretender, _, result, _ = made
    plain, guided = (result["scores"][f"guidance {g}"] for g in (1, 2))
    assert plain["theta_e"]["rms"] == pytest.approx(Pretender.error, rel=1e-4)
    variance = pretender.asked[0][2][:, 0].var()
    assert plain["theta_e"]["r2"] == pytest.approx(1 - Pretender.error**2 / variance, rel=1e-4)
    assert guided["theta_e"]["r2"] == pytest.approx(1, abs=1e-4) == plain["gamma1"]["r2"]


def test_the_pictures_lens_changes_in_its_radius_alone(made):
    single = [asked for n, _, asked in made[0].asked if n == 1]
    assert len(single) == 18 and len({tuple(np.round(asked[0, 1:], 5)) for asked in single}) == 1


def test_the_table_and_the_picture_are_written(made):
    _, folder, result, text = made
    assert text == (folder / "conditioning.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| guidance 2 |"))
    score = result["scores"]["guidance 2"]["theta_e"]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["8", f"{score['r2']:.3f}, {score['rms']:.3f}"]
    assert (folder / "conditioning.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_that_is_not_asked_by_radius_is_refused(tmp_path, monkeypatch, record):
    monkeypatch.setattr(client, "Worker", Pretender(record))
    with pytest.raises(ValueError, match="--n 3"):
        ConditioningStudy(checkpoint="any", n=3)
    bare = Recipe(ModelConfig((8, 8), **{key: 2 * value for key, value in BLOCKS.items()}, norm_num_groups=4))
    with pytest.raises(ValueError, match="must be trained on simulated lenses"):
        ConditioningStudy(checkpoint=save(tmp_path / "bare", {}, bare), out=str(tmp_path / "out"), n=20).execute()
