"""The verb `parity` with pretended twins made of NumPy: what it refuses, its exit codes and its page."""

import functools
import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.parity import report, rungs_ranks
from eval.parity.page import RUNGS
from eval.parity.tolerances import EXACT, TABLE
from tests.eval.html import Page, read_page
from tests.fake_twins import TINY

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["--images", "4", "--ddpm-images", "2", "--long-steps", "6"]

# Both twins are this, so that they agree, but for RED = "framework task": there that task's numbers are 1 % too large.
TWIN = """
    import os, sys
    sys.path.insert(0, {root!r})
    import numpy as np
    from core.exits import RunError
    from core.config import Recipe
    from core.config.recipes import from_dict
    from core.networks.specs import initial_weights
    from core.worker.protocol import serve, with_prefix
    from core.worker.tasks import SamplingTask, TrainingTask, affine_task
    from tests.numpy_impl.sampler import Network

    class Trainer:
        asynchronous = False

        def __init__(self, recipe):
            self.count, start = 0, initial_weights(recipe.model, 0, recipe.training.dtype)
            self.parts = {{part: start for part in ("params", "ema", "exp_avg", "exp_avg_sq")}}

        def put(self, batch):
            return batch

        def step(self, batch, scalars):
            loss, lr = np.square(batch["eps"]).mean(), scalars["lr"]
            pull = {{"params": 0.5, "ema": scalars["ema_decay"], "exp_avg": 0.2, "exp_avg_sq": 0.1}}
            for part, rate in pull.items():
                values = self.parts[part].items()
                self.parts[part] = {{n: v - (lr * rate * (v + loss)).astype(v.dtype) for n, v in values}}
            self.count += 1
            return {{"loss": loss, "grad_norm": 2 * loss}}

        def state(self):
            kept = {{part: values for part, values in self.parts.items() if part != "ema"}}
            state = {{f"{{part}}/{{n}}": v for part, values in kept.items() for n, v in values.items()}}
            return self.parts["ema"], state, {{"adam_steps": self.count, "skipped": 0, "skipped_in_a_row": 0}}

        def load(self, ema, state, counters):
            self.parts = {{part: with_prefix(state, f"{{part}}/") for part in self.parts}} | {{"ema": ema}}
            self.count = counters["adam_steps"]

    def make_network(slope, offset, time=None):
        def network(x, t, **condition):
            level = 0 if time is None else int(np.abs(time - time.dtype.type(t)).argmin())
            return slope[level] * x + offset[level]
        return Network(network)

    def forward(arrays, options):
        return {{"output": np.tanh(arrays["x"])}}, {{}}

    def gradients(arrays, options):
        loss = np.square(arrays["batch/eps"]).mean()
        return {{"loss": loss, **{{f"grad/{{n}}": v * loss for n, v in with_prefix(arrays, "weights/").items()}}}}, {{}}

    def trace_layers(arrays, options):
        return {{"in/layer/0": arrays["x"], "out/layer": np.tanh(arrays["x"])}}, {{}}

    def replay_layers(arrays, options):
        return {{"out/layer": np.tanh(arrays["in/layer/0"])}}, {{}}

    tasks = {{
        "describe": lambda arrays, options: ({{}}, {{"framework": {name!r}}}),
        "train": TrainingTask(Trainer),
        "sample": SamplingTask(lambda *_: make_network([0.3], [0.1])),
        "sample_affine": affine_task(make_network),
        "forward": forward, "gradients": gradients, "trace_layers": trace_layers, "replay_layers": replay_layers,
    }}
    red, broken = (os.environ.get(key, "").split() for key in ("RED", "BROKEN"))

    def wrong(task):
        def one_percent_more(arrays, options):
            out, info = task(arrays, options)
            return {{n: (v * 1.01).astype(v.dtype) for n, v in out.items()}}, info
        return one_percent_more

    def fail(arrays, options):
        raise RunError("the disk is on fire")

    if red[:1] == [{name!r}]:
        tasks[red[1]] = wrong(tasks[red[1]])
    if broken[:1] == [{name!r}]:
        tasks[broken[1]] = fail
    sys.exit(serve(lambda threads: None, tasks, sys.argv[2:]))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch, this_python) -> Path:
    """Pretended twins and a recipe, where main() finds them."""
    for name, package in (("torch", "torch_impl"), ("tensorflow", "tf_impl")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__main__.py").write_text(textwrap.dedent(TWIN.format(root=str(ROOT), name=name)))
    (tmp_path / "tiny.toml").write_text(textwrap.dedent(TINY).replace("[process]", "[process]\ntimesteps = 60"))
    monkeypatch.setattr(report, "run", functools.partial(report.run, root=tmp_path))
    monkeypatch.setattr(rungs_ranks, "several_processes", pretended)  # which would start the twins' command lines
    return tmp_path


def pretended(twins, subject, board) -> None:
    """A rung of one comparison that holds."""
    board.close("weights", np.ones(1), np.ones(1), EXACT)


def parity(checkout: Path, *words: str) -> tuple[int, dict, Page]:
    """Exit code, parity.json and report.html."""
    code = main(["parity", "--config", str(checkout / "tiny.toml"), "--out", str(checkout / "out"), *WORDS, *words])
    folder = checkout / "out"
    return code, json.loads((folder / "parity.json").read_text()), read_page(folder / "report.html")


def test_twins_that_agree_are_green_on_every_rung(checkout, capsys):
    code, result, page = parity(checkout)
    said = capsys.readouterr().out
    assert code == 0 and result["ok"] is True and result["left_out"] == 0
    assert {m["rung"] for m in result["rungs"]} == set(RUNGS) and all(m["ok"] for m in result["rungs"])
    assert f"all {len(result['rungs'])} comparisons hold" in said and all(name in said for name in RUNGS.values())
    assert result["environments"] == {name: {"framework": name} for name in ("torch", "tensorflow")}
    assert result["command"].startswith("python -m eval parity --config ") and "--long-steps 6" in result["command"]
    assert {m["why"] for m in result["rungs"]} >= {TABLE.why, EXACT.why}  # each carries its tolerance's reason
    assert page.stands_alone() and page.warnings == 0
    assert page.plots() == 3 and page.pictures() == 3  # two and their difference
    summary, *in_full, environments = page.tables
    assert len(in_full) == len(RUNGS) and environments[1][1:] == ["torch", "tensorflow"]
    assert sum(len(table) - 1 for table in in_full) == len(result["rungs"]), "every comparison stands on the page"
    held = [row[1].split()[:3] for row in summary[1:]]
    assert all(some == of_all for some, _, of_all in held)
    assert sum(int(of_all) for _, _, of_all in held) == len(result["rungs"])


# A task that is 1 % off in one framework -> the rung that says so, one of the quantities that it names, and the number
# of functions of the ladder that are left out after it.
RED = {
    "sample_affine": (4, "ddpm sampler, tensorflow", 11),
    "replay_layers": (5, "layer layer", 9),
    "forward": (5, "output at 8x8", 8),
    "gradients": (6, "gradient", 7),
    "train": (6, "params, 1 steps", 6),
    "sample": (9, "x_T of images 0 to 3, tensorflow", 2),
}


@pytest.mark.parametrize("task", RED)
def test_a_red_rung_exits_1_and_is_reported(checkout, monkeypatch, capsys, task):
    monkeypatch.setenv("RED", f"tensorflow {task}")
    code, result, page = parity(checkout, "--stop-at-red")
    rung, quantity, left_out = RED[task]
    red = [m for m in result["rungs"] if not m["ok"]]
    assert code == 1 and result["ok"] is False and red[0]["rung"] == rung
    assert quantity in [m["quantity"] for m in red]
    assert {m["rung"] for m in result["rungs"]} == set(range(1, rung + 1)) and result["left_out"] == left_out
    assert "--stop-at-red" in result["command"]
    said = capsys.readouterr()
    assert said.out == "" and f"the first on rung {rung}: {red[0]['quantity']}" in said.err
    assert f"{len(red)} of {len(result['rungs'])} comparisons are red" in said.err and "report.html" in said.err
    assert page.warnings == 2
    assert [row[0] for row in page.tables[0][1:]] == [m["quantity"] for m in red], "what is red stands first"


def test_the_climb_goes_on_after_a_red_rung_unless_asked_to_stop(checkout, monkeypatch):
    monkeypatch.setenv("RED", "tensorflow forward")
    code, result, page = parity(checkout)
    assert code == 1 and {m["rung"] for m in result["rungs"]} == set(RUNGS)
    assert result["left_out"] == 0 and "stop-at-red" not in page.text + result["command"]


def test_what_is_left_out_is_not_on_the_page_and_nothing_is_left_out_where_nothing_is_red(checkout):
    code, result, page = parity(checkout, "--ddpm-images", "0", "--long-steps", "0", "--stop-at-red")
    assert code == 0 and result["curves"] == {} and page.plots() == 0
    assert {m["rung"] for m in result["rungs"]} == set(RUNGS) and result["left_out"] == 0
    whole = f"ddpm, {result['recipe']['process']['timesteps']} steps"
    assert not [m for m in result["rungs"] if m["quantity"].startswith(whole)]


def test_a_worker_that_fails_is_no_red_rung(checkout, monkeypatch, capsys):
    monkeypatch.setenv("BROKEN", "torch forward")
    assert main(["parity", "--config", str(checkout / "tiny.toml"), "--out", str(checkout / "out"), *WORDS]) == 1
    assert "torch_impl worker: forward: RunError: the disk is on fire" in capsys.readouterr().err
    assert not (checkout / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "1"], "--images 1: must be at least 2"),
        (["--ddpm-images", "-1"], "--ddpm-images -1: must be at least 0"),
        (["--long-steps", "-1"], "--long-steps -1: must be at least 0"),
        (["--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--out", "{here}/tiny.toml"], "is a file"),
    ],
)
def test_what_the_user_must_change_exits_2(checkout, capsys, words, message):
    words = [word.format(here=checkout) for word in words]
    assert main(["parity", "--config", str(checkout / "tiny.toml"), "--out", str(checkout / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and len(said.splitlines()) == 1


def test_an_interpreter_that_is_not_there_exits_2(checkout, capsys, monkeypatch):
    monkeypatch.setenv("DIPTYCH_TF_PYTHON", "nowhere")
    assert main(["parity", "--config", str(checkout / "tiny.toml"), "--out", str(checkout / "out")]) == 2
    assert "--tf-python or DIPTYCH_TF_PYTHON = nowhere: no such program" in capsys.readouterr().err
    assert not (checkout / "out").exists()


def test_a_recipe_with_a_wrong_value_exits_2(checkout, capsys):
    (checkout / "wrong.toml").write_text("[model]\nsample_sizes = 8\n")
    assert main(["parity", "--config", str(checkout / "wrong.toml"), *WORDS]) == 2
    assert "wrong.toml: unknown key 'model.sample_sizes'; did you mean sample_size?" in capsys.readouterr().err
