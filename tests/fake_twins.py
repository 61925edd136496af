"""A checkout whose twins are NumPy pretenders under the real command line, loop and worker: no framework is started.

A step or a drawing takes a known time and is noted in calls.log; TensorFlow's images lie SHIFT above PyTorch's.
"""

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"torch": 0.02, "tensorflow": 0.04, "diffusers": 0.08}
SHIFT = 0.01
"""In [0, 1]."""

TINY = """
    [model]
    sample_size = 8
    block_out_channels = [8, 8]
    down_block_types = ["DownBlock2D", "DownBlock2D"]
    up_block_types = ["UpBlock2D", "UpBlock2D"]
    layers_per_block = 1
    norm_num_groups = 4
    attention_head_dim = 4
    [process]
    prediction = "v"
    [data]
    simulate_count = 40
    held_out = 0.3
    cache = "cache"
    [training]
    steps = 6
    batch_size = 4
    warmup_steps = 2
    log_every = 2
    checkpoint_every = 3
    sample_count = 0
    [sampling]
    steps = 3
"""

TWIN = """
    import os, sys, time
    sys.path.insert(0, {root!r})
    import numpy as np
    from core.commands.main import Twin, main
    from core.command_line import RunError
    from core.networks.specs import initial_weights
    from core.worker.protocol import serve
    from core.worker.timing import TimedTraining, peak_memory

    name, seconds, shift, threads = {name!r}, {seconds!r}, {shift!r}, [0]

    def note(what):
        with open("calls.log", "a") as file:
            file.write(f"{{what}} {{name}}\\n")

    class Sampler:
        def __call__(self, table, x_T, noise, labels=None, callback=None):
            note("sample")
            time.sleep(seconds)
            return np.tanh(x_T) / 2 + 2 * shift

    class Trainer:
        def __init__(self, recipe):
            self.weights, self.steps = initial_weights(recipe.model, 0, "float32"), 0

        def step(self, batch, scalars):
            note("step")
            if f"{{name}} {{self.steps}}" == os.environ.get("FAKE_FAILURE"):
                raise RunError("the disk is on fire")
            self.steps += 1
            time.sleep(seconds)
            return {{"loss": 1.0 / self.steps, "grad_norm": 1.0, "skipped": 0, "skipped_in_a_row": 0}}

        def state(self):
            parts = ("params", "exp_avg", "exp_avg_sq")
            state = {{f"{{part}}/{{n}}": value for part in parts for n, value in self.weights.items()}}
            return self.weights, state, {{"adam_steps": self.steps, "skipped": 0, "skipped_in_a_row": 0}}

        def load(self, ema, state, counters):
            self.steps = counters["adam_steps"]

    def describe(*_):
        return {{"framework": name, "version": "1", "threads": threads[0] + {more}, "device": "cpu"}}

    set_threads = lambda n: threads.__setitem__(0, n)
    if {peer}:
        tasks = {{"time_training": TimedTraining(Trainer), "peak_memory": peak_memory,
                 "describe": lambda arrays, options: ({{}}, describe())}}
        sys.exit(serve(set_threads, tasks, sys.argv[1:]))
    sampler = lambda config, weights, dtype: Sampler()
    nothing = (None,) * 5  # no export, no pickles, no extractor, no weights to fetch, no likelihood
    sys.exit(main(Twin({package!r}, set_threads, describe, Trainer, sampler, lambda: {{}}, {{}}, *nothing)))
"""


def make_checkout(folder: Path, more_threads: int = 0) -> tuple[Path, Path]:
    """Both twins and the peer in a folder, and a tiny recipe: (checkout, recipe)."""
    files = {
        "torch": "torch_impl/__main__.py",
        "tensorflow": "tf_impl/__main__.py",
        "diffusers": "tests/peers/diffusers_training.py",
    }
    for name, file in files.items():
        path = folder / file
        path.parent.mkdir(parents=True)
        text = TWIN.format(
            root=str(ROOT),
            name=name,
            package=path.parent.name,
            seconds=SECONDS[name],
            shift=SHIFT * (name == "tensorflow"),
            more=more_threads,
            peer=name == "diffusers",
        )
        path.write_text(textwrap.dedent(text))
    (folder / "tests" / "__init__.py").touch()
    recipe = folder / "tiny.toml"
    recipe.write_text(textwrap.dedent(TINY))
    return folder, recipe


PYTHONS = {"torch": sys.executable, "tensorflow": sys.executable}
