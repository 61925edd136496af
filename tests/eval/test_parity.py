"""The verb `parity`: its oracles, what it refuses, its exit codes and its page, with pretended twins made of NumPy."""

import functools
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.networks.specs import time_frequencies
from eval.__main__ import main
from eval.parity import closed_forms, report
from eval.parity.closeness import difference
from eval.parity.ladder import Board, Subject, Twins, random_weights
from eval.parity.page import RUNGS
from eval.parity.rungs_images import grey_levels
from eval.parity.rungs_network import gradients
from eval.parity.tolerances import EXACT, GRADIENT_FLOAT64, SAMPLER_FLOAT64, TABLE
from tests.fake_twins import TINY

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["--images", "4", "--ddpm-images", "2", "--long-steps", "6"]

# Both twins are this, so that they agree but for RED, "framework task": that task's numbers come out 1 % too large there.
TWIN = """
    import os, sys
    sys.path.insert(0, {root!r})
    import numpy as np
    from core.command_line import RunError
    from core.config import Recipe
    from core.config.recipes import from_dict
    from core.diffusion import table as tables
    from core.networks.specs import initial_weights
    from core.worker.protocol import serve, with_prefix
    from core.worker.tasks import Sampling, Training, affine_task

    class Trainer:
        def __init__(self, recipe):
            self.count, start = 0, initial_weights(recipe.model, 0, recipe.training.dtype)
            self.parts = {{part: start for part in ("params", "ema", "exp_avg", "exp_avg_sq")}}

        def step(self, batch, scalars):
            loss, lr = np.square(batch["eps"]).mean(), scalars["lr"]
            pull = {{"params": 0.5, "ema": scalars["ema_decay"], "exp_avg": 0.2, "exp_avg_sq": 0.1}}
            for part, rate in pull.items():
                self.parts[part] = {{n: v - (lr * rate * (v + loss)).astype(v.dtype) for n, v in self.parts[part].items()}}
            self.count += 1
            return {{"loss": loss, "grad_norm": 2 * loss}}

        def state(self):
            state = {{f"{{part}}/{{n}}": v for part, values in self.parts.items() if part != "ema" for n, v in values.items()}}
            return self.parts["ema"], state, {{"adam_steps": self.count}}

        def load(self, ema, state, counters):
            self.parts = {{"ema": ema, **{{part: with_prefix(state, f"{{part}}/") for part in self.parts if part != "ema"}}}}
            self.count = counters["adam_steps"]

    def make_sampler(slope, offset, time=None):
        def sampler(table, x_T, noise, labels=None, callback=None):
            def network(x, t):
                level = 0 if time is None else int(np.abs(time - time.dtype.type(t)).argmin())
                return slope[level] * x + offset[level]
            return tables.run(table, network, x_T, noise).astype(x_T.dtype)
        return sampler

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
        "train": Training(Trainer),
        "sample": Sampling(lambda *_: make_sampler([0.3], [0.1])),
        "sample_affine": affine_task(make_sampler),
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
    return tmp_path


def parity(checkout: Path, *words: str) -> tuple[int, dict, str]:
    """Exit code, parity.json and report.html."""
    code = main(["parity", "--config", str(checkout / "tiny.toml"), "--out", str(checkout / "out"), *WORDS, *words])
    folder = checkout / "out"
    return code, json.loads((folder / "parity.json").read_text()), (folder / "report.html").read_text()


def test_twins_that_agree_are_green_on_every_rung(checkout, capsys):
    code, result, page = parity(checkout)
    said = capsys.readouterr().out
    assert code == 0 and result["ok"] is True and result["left_out"] == 0
    assert {m["rung"] for m in result["rungs"]} == set(RUNGS) and all(m["ok"] for m in result["rungs"])
    assert f"all {len(result['rungs'])} comparisons hold" in said and all(name in said for name in RUNGS.values())
    assert result["environments"] == {name: {"framework": name} for name in ("torch", "tensorflow")}
    assert result["command"].startswith("python -m eval parity --config ") and "--long-steps 6" in result["command"]
    assert {m["why"] for m in result["rungs"]} >= {TABLE.why, EXACT.why}  # each carries its tolerance's reason
    headings = re.findall("<h2>(.*?)</h2>", page)
    parts = ["The ladder", "The same seed in both", "Drift over a longer run"]
    tables = [f"Rung {number}: {name}" for number, name in RUNGS.items()]
    assert headings == [*parts, *tables, "How it was made", "How to read this"]
    assert "<h1>The frameworks agree</h1>" in page
    assert page.count("<svg") == 3 and page.count("data:image/png") == 3  # two and their difference
    assert re.search(r"(src|href)=.(?!data:|#)", page) is None, "the page must need no network"


# A task that is 1 % off in one framework -> the rung that says so, and one of the quantities that it names.
RED = {
    "sample_affine": (4, "ddpm sampler, tensorflow"),
    "replay_layers": (5, "layer layer"),
    "forward": (5, "output at 8x8"),
    "gradients": (6, "gradient"),
    "train": (6, "params, 1 steps"),
    "sample": (9, "x_T of images 0 to 3, tensorflow"),
}


@pytest.mark.parametrize("task", RED)
def test_a_red_rung_exits_1_and_is_reported(checkout, monkeypatch, capsys, task):
    monkeypatch.setenv("RED", f"tensorflow {task}")
    code, result, page = parity(checkout, "--stop-at-red")
    rung, quantity = RED[task]
    red = [m for m in result["rungs"] if not m["ok"]]
    assert code == 1 and result["ok"] is False and red[0]["rung"] == rung
    assert quantity in [m["quantity"] for m in red]
    said = capsys.readouterr()
    assert said.out == "" and f"the first on rung {rung}: {red[0]['quantity']}" in said.err
    assert f"{len(red)} of {len(result['rungs'])} comparisons are red" in said.err and "report.html" in said.err
    assert "<h1>The frameworks differ</h1>" in page and "<h2>What is red</h2>" in page
    assert "Look first at: " in page and quantity in page


def test_the_climb_goes_on_after_a_red_rung_or_ends_there(checkout, monkeypatch):
    monkeypatch.setenv("RED", "tensorflow forward")
    code, result, page = parity(checkout)
    assert code == 1 and {m["rung"] for m in result["rungs"]} == set(RUNGS)
    assert result["left_out"] == 0 and "stop-at-red" not in page + result["command"]
    code, result, page = parity(checkout, "--stop-at-red")
    assert code == 1 and {m["rung"] for m in result["rungs"]} == {1, 2, 3, 4, 5}
    assert result["left_out"] == 7 and "7 of the ladder" in page and "--stop-at-red" in result["command"]
    monkeypatch.delenv("RED")
    code, result, _ = parity(checkout, "--stop-at-red", "--long-steps", "0")
    assert code == 0 and {m["rung"] for m in result["rungs"]} == set(RUNGS) and result["left_out"] == 0


def test_what_is_left_out_is_not_on_the_page(checkout):
    code, result, page = parity(checkout, "--ddpm-images", "0", "--long-steps", "0")
    assert code == 0 and result["curves"] == {} and "Drift" not in page
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
        (["--config", "nowhere.toml"], "nowhere.toml: cannot read the recipe"),
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


# The oracles


PROCESSES = {
    "linear-eps": ProcessConfig(),
    "linear-x0-short": ProcessConfig(timesteps=50, prediction="x0", loss_weight="min_snr"),
    "cosine-v": ProcessConfig(schedule="cosine", prediction="v", loss_weight="min_snr"),
    "sigmoid-eps": ProcessConfig(schedule="sigmoid", loss_weight="min_snr", min_snr_gamma=2.0),
    "scaled-zero-v": ProcessConfig(schedule="scaled_linear", prediction="v", zero_terminal_snr=True),
}
KINDS = [("ddpm", 0.0, "fixed_small"), ("ddpm", 0.0, "fixed_large"), ("ddim", 0.0, "fixed_small"), ("ddim", 0.4, "fixed_small"), ("ddim", 1.0, "fixed_small"), ("dpmsolver++", 0.0, "fixed_small")]  # fmt: skip


@pytest.mark.parametrize("name", PROCESSES)
def test_the_closed_forms_are_cores_tables(name):
    """Both are held against papers and peers in their own tests; here that one can be the other's oracle."""
    process = make_process(PROCESSES[name])
    for table, expected in closed_forms.process_tables(PROCESSES[name]).items():
        assert difference(getattr(process, table), expected.astype(np.float64), table).measured <= TABLE, table


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[2]}")
@pytest.mark.parametrize("name", PROCESSES)
def test_the_formulas_of_the_samplers_are_cores_tables(name, kind):
    config, (sampler, eta, variance) = PROCESSES[name], kind
    process, x_T = make_process(config), np.random.default_rng(4).standard_normal((3, 4, 5))
    for spacing, steps in (("trailing", 1), ("trailing", 2), ("trailing", 48), ("leading", 20), ("linspace", 30)):
        for clip in (True, False):
            sampling = SamplingConfig(sampler, steps, spacing, eta, variance, clip)

            def noise(row):
                return np.random.default_rng([5, row]).standard_normal((3, 4, 5))

            def network(x, t):
                return 0.3 * x + 0.1 * np.cos(0.01 * t)

            found = run(make_table(process, sampling), network, x_T, noise)
            expected = closed_forms.sample(config, sampling, network, x_T, noise).astype(np.float64)
            assert difference(found, expected, "image").measured <= SAMPLER_FLOAT64, sampling


def test_the_frequencies_are_cores():
    for config in (ModelConfig(), ModelConfig(freq_shift=1), ModelConfig(architecture="baseline", block_out_channels=(4, 8, 16, 16))):  # fmt: skip
        expected = closed_forms.time_frequencies(config).astype(np.float64)
        assert difference(time_frequencies(config), expected, "frequencies").measured <= TABLE


# The board


def test_named_tensors_are_each_held_against_their_own_size():
    board = Board(rung=6)
    expected = {"large": np.array([1.0, -1000.0]), "small": np.array([0.001, 0.0])}
    board.all_close("gradient", {**expected, "small": np.array([0.001, 1e-8])}, expected, GRADIENT_FLOAT64)
    (m,) = board.measurements
    assert m.measured == pytest.approx(1e-5) and not m.ok and m.rung == 6 and m.why == GRADIENT_FLOAT64.why
    assert m.where.startswith("small at [1]: ") and "1e-08, expected 0" in m.where


def test_what_is_all_rounding_is_held_against_the_largest_of_all():
    board = Board()
    expected = {"weight": np.array([10.0]), "bias": np.array([1e-12])}
    found = {**expected, "bias": np.array([-1e-12])}
    board.all_close("gradient", found, expected, GRADIENT_FLOAT64)
    board.all_close("gradient", found, expected, GRADIENT_FLOAT64, floor=0.0)
    # In float32 the rounding is larger; what the floor is looked up in is float64's.
    rough = {**expected, "bias": np.array([1e-5])}
    board.all_close("gradient", found, rough, GRADIENT_FLOAT64, oracle=expected)
    assert [m.measured for m in board.measurements] == pytest.approx([2e-13, 2.0, 1e-6])
    assert [m.ok for m in board.measurements] == [True, False, False]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a": np.ones(2)}, "1 names on one side only: b"),
        ({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)}, "1 names on one side only: c"),
        ({"a": np.ones(2), "b": np.ones((3, 1))}, "b: shape (3, 1), expected (3,)"),
        ({"a": np.ones(2, np.float32), "b": np.ones(3)}, "a: dtype float32, expected float64"),
        ({"a": np.ones(2), "b": np.array([1.0, np.nan, 1.0])}, "b: found nan at (1,), not finite"),
    ],
)
def test_what_cannot_be_compared_is_red(found, message):
    board = Board()
    board.all_close("state", found, {"a": np.ones(2), "b": np.ones(3)}, GRADIENT_FLOAT64)
    (m,) = board.measurements
    assert m.measured == np.inf and not m.ok and m.where == message
    assert report._entry(m)["measured"] is None and report._entry(m)["ok"] is False  # JSON has no infinity


class OtherPixel(Twins):
    """Workers whose float32 gradients are apart by 1e-3 on the images of `apart`, as where a pooled window is a near tie."""

    apart: tuple[int, ...] = ()

    def both(self, task, arrays, **options):
        """Gradients of one parameter; batches are counted as they come."""
        self.sizes = [*getattr(self, "sizes", []), len(arrays["batch/t"])]
        dtype, image = arrays["weights/outc.weight"].dtype, len(self.sizes) - 2
        off = 1e-3 * (dtype == np.float32 and image in self.apart)
        return [({"loss": np.ones((), dtype), "grad/a": np.array([0.5, 1 + x], dtype)}, {}) for x in (0, off)]


@pytest.mark.parametrize(("apart", "ok"), [((), True), ((0, 2, 3), True), ((0, 1, 2, 3), False)])
def test_where_pooling_decides_float32_gradients_are_taken_image_by_image(apart, ok):
    """One image without a near tie is enough; a fault is in all of them."""
    config = ModelConfig((8, 8), block_out_channels=(4, 8, 16, 16), architecture="baseline")
    twins, board, recipe = OtherPixel(), Board(6), Recipe(config)
    twins.apart = apart
    gradients(twins, Subject("baseline", recipe, random_weights(recipe)), board)
    assert twins.sizes == [4, 1, 1, 1, 1]
    last = board.measurements[-1]
    assert last.quantity == "gradient, nearest of 4 images" and last.ok is ok and last.dtype == "float32"
    each = ", ".join("1.0e-03" if image in apart else "0.0e+00" for image in range(4))
    assert last.where.endswith(f"; image by image {each}")


def test_grey_levels_are_counted_after_rounding_and_a_flat_picture_compares_nothing():
    board, picture = Board(), np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 6, 8, 1)
    grey_levels(board, "near", np.clip(picture + 0.4 / 255, 0, 1), picture)
    grey_levels(board, "far", np.clip(picture + 2.4 / 255, 0, 1), picture)
    flat = np.full_like(picture, 0.5)
    grey_levels(board, "flat", flat, flat)
    broken = picture.copy()
    broken[0, 2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        grey_levels(board, "broken", broken, picture)
    assert [m.measured for m in board.measurements] == [1, 3, np.inf, np.inf]
    assert [m.ok for m in board.measurements] == [True, False, False, False]
    assert all(m.unit == "grey levels" for m in board.measurements)
