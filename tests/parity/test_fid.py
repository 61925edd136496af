"""`eval fid` and `eval sweep` over the real twins: both frameworks give one number, from files and from a run."""

import json

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


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_run_is_watched_measured_and_swept(tmp_path, capsys, framework):
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(RECIPE.replace("CACHE", str(tmp_path / "cache")))
    run_verb(framework, ["train", "--config", str(recipe), "--run", str(run)])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [("distance" in line) for line in lines] == [False, True, False, True]
    assert (run / "best").is_file() and all(line.get("distance", 1) > 0 for line in lines)
    words = [str(run), "--framework", framework]
    assert main(["fid", str(run), *words, "--n", "30", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 30 and result["generated"]["nfe"] == 4 and "held out" in result["real"]["split"]
    # An untrained network is far from its held-out images, and real images are near one another.
    assert result["frechet"]["value"] > 5 * result["floor"]["mean"]
    assert main(["sweep", *words, "--samplers", "ddim", "dpmsolver++", "--nfe", "2", "4", "--n", "30"]) == 0
    assert "wrote" in capsys.readouterr().out
    swept = json.loads((run / "sweep" / "sweep.json").read_text())
    assert [(r["sampler"], r["nfe"]) for r in swept["rows"]] == [
        ("ddim", 2),
        ("ddim", 4),
        ("dpmsolver++", 2),
        ("dpmsolver++", 4),
    ]
    assert (run / "sweep" / "report.html").stat().st_size > 10_000
    assert "dpmsolver++" in (run / "sweep" / "curves.svg").read_text()
    drawn = sorted(run.glob(f"sweep/{framework}/*/samples.npy"))
    stamps = [path.stat().st_mtime_ns for path in drawn]
    assert main(["sweep", *words, "--samplers", "ddim", "dpmsolver++", "--nfe", "2", "4", "--n", "30"]) == 0
    assert len(drawn) == 4 and [path.stat().st_mtime_ns for path in drawn] == stamps  # nothing drawn twice
    assert main(["sweep", *words, "--samplers", "ddim", "--nfe", "4", "--spacing", "log_snr", "--n", "30"]) == 0
    again = json.loads((run / "sweep" / "sweep.json").read_text())
    assert again["spacing"] == "log_snr" and swept["spacing"] == "trailing"
    assert again["rows"][0]["distance"] != swept["rows"][1]["distance"]
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    assert main(["fid", str(run), str(run), "--framework", other, "--n", "30", "--json"]) == 0
    assert json.loads((run / "fid-samples" / "manifest.json").read_text())["framework"] == other  # drawn anew
