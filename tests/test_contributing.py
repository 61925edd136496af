"""The recipes of CONTRIBUTING.md, each carried out as it is written in a copy of the code, which then uses it."""

import json
import textwrap

import numpy as np
import pytest

from tests.copied_checkout import Checkout
from tests.test_mirror import EXCEPTIONS, differences, unexcused


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "checkout")


def test_add_a_schedule(checkout):
    checkout.define(
        "core/diffusion/schedules.py",
        '''
        def constant(config: ProcessConfig) -> Array:
            """Betas that are all the same."""
            return np.full(config.timesteps, config.beta_end)
        ''',
        "BETAS",
        '"constant": constant',
    )
    checkout.change("core/config/process.py", 'Schedule = Literal["linear"', 'Schedule = Literal["constant", "linear"')
    checkout.python(
        "-c",
        textwrap.dedent(
            """
        import json
        from pathlib import Path
        import numpy as np
        from core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
        from core.checkpoints.sums import COUNTERS, make_progress
        from core.checkpoints.scheduler_config import process_from_diffusers
        from core.config import Recipe
        from core.config.recipes import from_dict
        from core.diffusion.process import make_process
        from core.networks.specs import initial_weights

        recipe = from_dict(Recipe, {
            "process": {"schedule": "constant", "timesteps": 20, "beta_end": 0.05}, "sampling": {"steps": 5}
        })
        process = make_process(recipe.process)
        np.testing.assert_allclose(process.alphas_cumprod, 0.95 ** np.arange(1, 21), rtol=1e-14)

        weights = initial_weights(recipe.model, 0)
        parts = ("params", "exp_avg", "exp_avg_sq")
        state = {f"{part}/{name}": value for part in parts for name, value in weights.items()}
        progress = make_progress(recipe, 0, dict.fromkeys(COUNTERS, 0))
        save_checkpoint(Path("saved"), Checkpoint(recipe, weights, state, progress, {}))
        opened = load_checkpoint(Path("saved"))
        assert opened.recipe == recipe
        scheduler = json.loads(Path("saved/scheduler/scheduler_config.json").read_text())
        assert scheduler["trained_betas"] == [0.05] * 20
        assert process_from_diffusers(scheduler).schedule == "constant"
        """
        ),
    )


def test_add_a_sampler(checkout):
    checkout.add(
        "core/diffusion/ancestral.py",
        '''
        def straight(levels: list[Level], config: SamplingConfig) -> list[Step]:
            """Keep the noise that the network sees, and lower its level: DDIM without its own option."""
            return [
                Step(now, np.array([[then.noise / now.noise, then.signal - then.noise * now.signal / now.noise, 0.0]]))
                for now, then in pairwise(levels)
            ]
        ''',
    )
    checkout.define("core/diffusion/samplers.py", "", "SAMPLERS", '"straight": SamplerRow(_plain(ancestral.straight))')
    checkout.change("core/config/sampling.py", "Sampler = Literal[", 'Sampler = Literal["straight",')
    checkout.python(
        "-c",
        textwrap.dedent(
            """
        import numpy as np
        from core.config import ProcessConfig, SamplingConfig
        from core.diffusion.process import make_process
        from core.diffusion.samplers import make_table
        from core.diffusion.table import run

        # Pixels N(0.3, 0.4^2): the optimal prediction of x_0 is linear, and the exact flow is a map of quantiles.
        process, mean, deviation = make_process(ProcessConfig(prediction="x0")), 0.3, 0.4
        def optimal(x, t):
            signal, noise = np.interp(t, process.time, process.signal), np.interp(t, process.time, process.noise)
            gain = signal * deviation**2 / ((signal * deviation) ** 2 + noise**2)
            return mean + gain * (x - signal * mean)

        x_T = np.random.default_rng(0).standard_normal((16, 4, 4, 1))
        last = np.hypot(process.signal[-1] * deviation, process.noise[-1])
        exact = mean + deviation * (x_T - process.signal[-1] * mean) / last
        errors = []
        for steps in (125, 250, 500):
            table = make_table(process, SamplingConfig(sampler="straight", steps=steps, clip=False))
            errors.append(np.abs(run(table, optimal, x_T, np.zeros_like) - exact).max())
        assert errors[-1] < 0.02 and all(1.6 < a / b < 2.4 for a, b in zip(errors, errors[1:]))  # of order 1
        """
        ),
    )


def test_add_a_layer(checkout):
    checkout.add(
        "torch_impl/layers.py",
        '''
        class Scale(nn.Module):
            """One factor a channel."""

            def __init__(self, channels: int) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(channels))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.weight[:, None, None]
        ''',
    )
    twins = checkout.folder / "torch_impl", checkout.folder / "tf_impl"
    missing, _ = unexcused(differences(*twins), EXCEPTIONS)
    assert {"layers.py: Scale", "layers.py: Scale.__init__"} == {item for item in missing if "Scale" in item}
    checkout.add(
        "tf_impl/layers.py",
        '''
        class Scale(keras.layers.Layer):
            """One factor a channel."""

            def __init__(self, channels: int, dtype: Any = "float32") -> None:
                super().__init__(dtype=dtype)
                self.gamma = self.add_weight(shape=(channels,), initializer="ones")

            def call(self, x: Any) -> Any:
                return x * self.gamma
        ''',
    )
    missing, _ = unexcused(differences(*twins), EXCEPTIONS)
    assert not [item for item in missing if "Scale" in item]


def test_add_a_metric(checkout):
    checkout.add(
        "core/metrics/pixels.py",
        '''
        def contrast(images: Images) -> float:
            """Standard deviation of all values."""
            return float(np.asarray(images, np.float64).std())
        ''',
    )
    checkout.define(
        "eval/measure/metrics.py",
        """
        def _contrast(a: Features, b: Features) -> float:
            return abs(pixels.contrast(a["thumbnail"]) - pixels.contrast(b["thumbnail"]))
        """,
        "METRICS",
        'Metric("contrast", "Contrast", "Do the values vary as much?", _contrast)',
    )
    rng = np.random.default_rng(0)
    for name, spread, count in (("real", 0.5, 80), ("generated", 1.0, 40)):
        np.save(checkout.folder / f"{name}.npy", spread * rng.random((count, 16, 16, 1)))
    assert "contrast" in checkout.program("eval compare --real real.npy --generated generated.npy --out out --json")
    (compared,) = [
        m
        for m in json.loads((checkout.folder / "out" / "compare.json").read_text())["metrics"]
        if m["key"] == "contrast"
    ]
    assert compared["sets"]["generated"]["mean"] == pytest.approx((1 - 0.5) / 12**0.5, abs=0.01)
    assert compared["floor"]["mean"] < 0.01
    assert "Do the values vary as much?" in (checkout.folder / "out" / "report.html").read_text()


def test_add_an_image_format(checkout):
    checkout.define(
        "core/data/formats.py",
        '''
        def _csv(data: bytes, name: str, channels: int | None) -> Image:
            """Grey levels as text, one line a row of pixels."""
            try:
                return np.loadtxt(io.BytesIO(data), delimiter=",", ndmin=2)[..., None]
            except ValueError as error:
                raise ValueError(f"{name}: not a table of numbers ({error})") from error
        ''',
        "FORMATS",
        '".csv": _csv',
    )
    images = np.random.default_rng(0).random((24, 8, 8))
    for name, part in (("real", images[:16]), ("generated", images[16:])):
        (checkout.folder / name).mkdir()
        for index, image in enumerate(part):
            np.savetxt(checkout.folder / name / f"{index}.csv", image, delimiter=",")
    facts = json.loads(checkout.program("core.data info real --json"))
    assert facts["count"] == 16 and facts["shape"] == [8, 8, 1]
    assert facts["mean"] == pytest.approx(images[:16].mean(), abs=1e-6)
    checkout.program("eval compare --real real --generated generated --out out")
    assert json.loads((checkout.folder / "out" / "compare.json").read_text())["counts"] == {"real": 16, "generated": 8}
