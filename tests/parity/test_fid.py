"""`eval fid` and `eval sweep` over the real twins: both frameworks give one number, from files and from a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.data.lenses import simulate
from eval.__main__ import main
from eval.parity.closeness import require_close
from eval.parity.tolerances import DISTANCE_FLOAT32
from eval.twins.client import run_verb

RECIPE = """
[model]
sample_size = 32
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
mid_block_type = "none"
[process]
prediction = "v"
schedule = "cosine"
[data]
simulate_count = 160
held_out = 0.4
field_of_view = 5.0
cache = "CACHE"
[training]
steps = 4
batch_size = 8
warmup_steps = 2
log_every = 1
sample_count = 0
[sampling]
steps = 4
[evaluation]
every = 2
n = 30
"""


def test_both_frameworks_measure_the_same_distance(tmp_path, capsys):
    for name, seed in (("real", 1), ("generated", 2)):
        np.save(tmp_path / f"{name}.npy", np.asarray(simulate("lensing", 80, (32, 32), seed=seed)[0], np.float32))
    results = {}
    for framework in ("torch", "tensorflow"):
        words = ["fid", str(tmp_path / "real.npy"), str(tmp_path / "generated.npy"), "--framework", framework, "--json"]
        assert main(words) == 0
        results[framework] = json.loads(capsys.readouterr().out)
    torch, tensorflow = results.values()
    for part, key in (("frechet", "value"), ("floor", "mean"), ("kid", "value")):
        found, expected = (np.array(r[part][key]) for r in (tensorflow, torch))
        print(f"{part}: {require_close(found, expected, DISTANCE_FLOAT32, part):.1e}")
    for name, entry in torch["lens"]["parameters"].items():
        require_close(
            np.array(tensorflow["lens"]["parameters"][name]["value"]), np.array(entry["value"]), DISTANCE_FLOAT32, name
        )
    assert torch["environment"]["framework"] == "torch" and tensorflow["environment"]["framework"] == "tensorflow"


@pytest.fixture(scope="module", params=["torch", "tensorflow"])
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    """A framework, and a run of four steps that is watched every second one."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.replace("CACHE", str(folder / "cache")))
    run_verb(request.param, ["train", "--config", str(recipe), "--run", str(folder / "run")])
    return request.param, folder / "run"


def sweep(framework: str, run: Path, *words: str) -> dict:
    """What a sweep writes."""
    assert main(["sweep", str(run), "--framework", framework, "--n", "30", *words]) == 0
    return json.loads((run / "sweep" / "sweep.json").read_text())


@pytest.mark.slow
def test_a_run_is_watched_and_its_best_checkpoint_kept(trained):
    _, run = trained
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [("distance" in line) for line in lines] == [False, True, False, True]
    assert (run / "best").is_file() and all(line.get("distance", 1) > 0 for line in lines)


@pytest.mark.slow
def test_an_untrained_run_is_far_from_its_held_out_images(trained, capsys):
    framework, run = trained
    assert main(["fid", str(run), str(run), "--framework", framework, "--n", "30", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (
        result["n"] == {"real": 30, "generated": 30}
        and result["generated"]["nfe"] == 4
        and "held out" in result["real"]["split"]
    )
    assert result["frechet"]["value"] > 5 * result["floor"]["mean"]


@pytest.mark.slow
def test_a_sweep_draws_every_point_once(trained):
    framework, run = trained
    words = ("--samplers", "ddim", "dpmsolver++", "--nfe", "2", "4")
    rows = [(row["sampler"], row["nfe"]) for row in sweep(framework, run, *words)["rows"]]
    assert rows == [("ddim", 2), ("ddim", 4), ("dpmsolver++", 2), ("dpmsolver++", 4)]
    assert (run / "sweep" / "report.html").stat().st_size > 10_000
    assert "dpmsolver++" in (run / "sweep" / "curves.svg").read_text()
    drawn = sorted(run.glob(f"sweep/{framework}/*/samples.npy"))
    stamps = [path.stat().st_mtime_ns for path in drawn]
    sweep(framework, run, *words)
    assert len(drawn) == 4 and [path.stat().st_mtime_ns for path in drawn] == stamps


@pytest.mark.slow
def test_a_sweep_on_another_grid_finds_other_distances(trained):
    framework, run = trained
    words = ("--samplers", "ddim", "--nfe", "4")
    trailing, log_snr = sweep(framework, run, *words), sweep(framework, run, *words, "--spacing", "log_snr")
    assert log_snr["spacing"] == "log_snr" and trailing["spacing"] == "trailing"
    assert log_snr["rows"][0]["distance"] != trailing["rows"][0]["distance"]


@pytest.mark.slow
def test_what_one_framework_drew_is_not_taken_for_the_other_s(trained):
    framework, run = trained
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    for drawing in (framework, other):
        assert main(["fid", str(run), str(run), "--framework", drawing, "--n", "30", "--json"]) == 0
        assert json.loads((run / "fid-samples" / "manifest.json").read_text())["framework"] == drawing
