"""The benchmark, with pretended twins whose every step takes a known time; once, slowly, with the real ones."""

import json

import numpy as np
import pytest

from core.config.recipes import from_dict, load_recipe
from eval.__main__ import main
from eval.measure.speed import contestants, measure, ratio, summary
from eval.pages.benchmark_page import benchmark_sections, benchmark_text, write_benchmark_page
from eval.pages.page import Notice
from tests.eval.html import read_page
from tests.fake_twins import SECONDS, make_checkout


def test_summary_and_ratio_in_closed_form():
    s = summary([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (s["min"], s["q1"], s["median"], s["q3"], s["max"]) == (1, 2, 3, 4, 5)
    # Paired: the machine is twice as slow in the second repetition, for both; the ratio does not move.
    r = ratio({"a": [10.0, 5.0, 10.0], "b": [20.0, 10.0, 20.0]}, "a", "b")
    assert r["values"] == [0.5, 0.5, 0.5] and (r["of"], r["to"], r["min"], r["max"]) == ("a", "b", 0.5, 0.5)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, this_python):
    root, recipe = make_checkout(tmp_path_factory.mktemp("checkout"))
    options = {"repetitions": 3, "steps": 4, "samples": 6, "threads": 2, "peer": "diffusers"}
    return measure(load_recipe(recipe), root=root, **options), (root / "calls.log").read_text().split("\n")


def test_known_times_are_found(measured):
    result, _ = measured
    assert list(result["contestants"]) == ["torch", "tensorflow", "diffusers"]
    for name, entry in result["contestants"].items():
        ceiling = 4 / SECONDS[name]  # images of a batch over the seconds that a step sleeps
        rates = entry["training_images_per_second"]
        assert 0.4 * ceiling < rates["median"] < ceiling and len(rates["values"]) == 3
        assert entry["first_step_seconds"] > SECONDS[name]
        assert entry["environment"]["threads"] == 2
        assert 10 * 2**20 < entry["peak_bytes"]["training"] < 4 * 2**30
    assert "sampling_seconds_per_image" not in result["contestants"]["diffusers"]
    for name in ("torch", "tensorflow"):
        floor = SECONDS[name] / 6
        assert floor < result["contestants"][name]["sampling_seconds_per_image"]["median"] < 4 * floor
    assert result["protocol"]["nfe"] == 3
    ratios = {(r["of"], r["to"]): r["median"] for r in result["ratios"]["training"]}
    assert ratios["tensorflow", "torch"] == pytest.approx(0.5, rel=0.4)
    assert ratios["torch", "diffusers"] == pytest.approx(4.0, rel=0.4)
    assert ratios["tensorflow", "diffusers"] == pytest.approx(2.0, rel=0.4)
    (sampling,) = result["ratios"]["sampling"]
    assert (sampling["of"], sampling["to"]) == ("tensorflow", "torch")
    assert sampling["median"] == pytest.approx(0.5, rel=0.4)


def test_repetitions_are_interleaved_after_a_warm_up(measured):
    names = ["torch", "tensorflow", "diffusers"]
    steps = [f"step {name}" for name in names for _ in range(1 + 2)]  # the first, and two to settle
    steps += [f"step {name}" for _ in range(3) for name in names for _ in range(4)]
    drawings = [f"sample {name}" for _ in range(1 + 3) for name in names[:2]]
    assert measured[1] == [*steps, *drawings, ""]


def test_the_table_has_every_median_and_every_ratio(measured):
    result, _ = measured
    lines = benchmark_text(result).splitlines()
    (line,) = (line for line in lines if line.startswith("training, images/s"))
    medians = [e["training_images_per_second"]["median"] for e in result["contestants"].values()]
    assert line.split()[2:] == [f"{median:.3g}" for median in medians]
    for ratio_ in (r for ratios in result["ratios"].values() for r in ratios):
        assert any(f": {ratio_['median']:.3g}, " in line for line in lines)


def test_the_page_warns_of_noise_and_of_a_busy_machine(measured):
    result = measured[0] | {"command": "command"}
    machines = [{**result["machine"], "load_before": load} for load in (0.0, 3.0)]
    found = [benchmark_sections({**result, "machine": machine}) for machine in machines]
    assert [sum(isinstance(section, Notice) for section in sections) for sections in found] == [1, 2]


def test_the_page_stands_alone_and_shows_the_medians(measured, tmp_path):
    result = measured[0] | {"command": "python -m eval benchmark --steps 4"}
    write_benchmark_page(tmp_path / "page.html", result)
    page = read_page(tmp_path / "page.html")
    assert page.stands_alone() and page.plots() == 3 and result["command"] in page.text
    rows = {row[0]: row[1:] for table in page.tables for row in table}
    medians = [e["training_images_per_second"]["median"] for e in result["contestants"].values()]
    assert [cell.split()[0] for cell in rows["training, images/s"]] == [f"{median:.3g}" for median in medians]
    (sampling,) = result["ratios"]["sampling"]
    assert rows["sampling: TensorFlow / PyTorch"][0].split()[0] == f"{sampling['median']:.3g}"


@pytest.mark.parametrize("name", ["repetitions", "steps", "samples", "threads"])
def test_numbers_below_1_are_refused(name, capsys):
    assert main(["benchmark", f"--{name}", "0"]) == 2
    assert f"--{name} 0: must be at least 1" in capsys.readouterr().err


def test_an_unknown_peer_and_other_threads_are_refused(tmp_path, this_python):
    with pytest.raises(ValueError, match="--peer jax: must be one of none, diffusers"):
        contestants("jax")
    root, recipe = make_checkout(tmp_path, more_threads=1)
    with pytest.raises(RuntimeError, match="torch: runs 3 threads: must be 2"):
        measure(load_recipe(recipe), root=root)


def test_out_may_not_be_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["benchmark", "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.diffusers
def test_the_peer_takes_the_very_steps_of_the_twin(tmp_path):
    pytest.importorskip("torch", reason="the TensorFlow environment has no PyTorch")
    from core.worker.tasks import TrainingTask
    from tests.peers.diffusers_training import Trainer as Peer
    from torch_impl.trainer import Trainer

    class WithState(Peer):
        def state(self):
            return {}, {}, {}

        def step(self, batch, scalars):
            return {**super().step(batch, scalars), "grad_norm": 0.0}

    _, path = make_checkout(tmp_path)
    recipe = {**json.loads(json.dumps(load_recipe(path), default=vars))}
    recipe["process"] |= {"prediction": "eps"}
    recipe["training"] |= {"learning_rate": 1e-2, "clip_norm": 0.5}
    arrays = {"images": np.random.default_rng(0).random((8, 8, 8, 1), np.float32)}
    losses = [TrainingTask(kind)(arrays, {"recipe": recipe, "steps": 5})[0]["loss"] for kind in (Trainer, WithState)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][-1] < 0.9 * losses[0][0]
    for key, value in (("accumulate", 2), ("autocast", "bf16"), ("optimizer", "adamw"), ("weight_decay", 0.1)):
        other = {**recipe, "training": {**recipe["training"], key: value}}
        with pytest.raises(ValueError, match=f"training.{key} = "):
            Peer(from_dict(type(load_recipe(path)), other))


@pytest.mark.cross
@pytest.mark.slow
def test_both_frameworks_and_the_peer(tmp_path, capsys):
    _, recipe = make_checkout(tmp_path / "checkout")
    words = ["--repetitions", "2", "--steps", "2", "--samples", "3", "--threads", "1", "--peer", "diffusers"]
    words += ["--batch-size", "3", "--sampling-steps", "2"]
    assert main(["benchmark", "--config", str(recipe), *words, "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert result["protocol"]["batch_size"] == 3 and result["protocol"]["nfe"] == 2
    assert "--batch-size 3 --sampling-steps 2" in result["command"]
    found = {name: entry["environment"]["framework"] for name, entry in result["contestants"].items()}
    assert found == {"torch": "torch", "tensorflow": "tensorflow", "diffusers": "diffusers"}
    assert all(entry["environment"]["threads"] == 1 for entry in result["contestants"].values())
    assert all(len(entry["training_images_per_second"]["values"]) == 2 for entry in result["contestants"].values())
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
