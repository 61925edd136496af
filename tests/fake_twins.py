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

SAMPLER = """
    import time
    import numpy as np

    NAME, SECONDS, SHIFT = {name!r}, {seconds!r}, {shift!r}

    def note(what):
        with open("calls.log", "a") as file:
            file.write(f"{{what}} {{NAME}}\\n")

    class Drawing:
        def run(self, table, x_T, noise, weak=None, after=None):
            note("sample")
            time.sleep(SECONDS)
            return np.tanh(x_T) / 2 + 2 * SHIFT

    class Network:
        module = None

        def bind(self, condition=None):
            return Drawing()

    def make_network(model, weights, dtype="float32"):
        return Network()
"""

TRAINER = """
    import os, time
    from core.command_line import RunError
    from core.networks.specs import initial_weights
    from {package}.sampler import NAME, SECONDS, Network, note

    threads = [0]

    class Trainer:
        def __init__(self, recipe):
            self.weights, self.steps = initial_weights(recipe.model, 0, "float32"), 0

        def step(self, batch, scalars):
            note("step")
            if f"{{NAME}} {{self.steps}}" == os.environ.get("FAKE_FAILURE"):
                raise RunError("the disk is on fire")
            self.steps += 1
            time.sleep(SECONDS)
            return {{"loss": 1.0 / self.steps, "grad_norm": 1.0, "skipped": 0, "skipped_in_a_row": 0}}

        def state(self):
            parts = ("params", "exp_avg", "exp_avg_sq")
            state = {{f"{{part}}/{{n}}": value for part in parts for n, value in self.weights.items()}}
            return self.weights, state, {{"adam_steps": self.steps, "skipped": 0, "skipped_in_a_row": 0}}

        def load(self, ema, state, counters):
            self.steps = counters["adam_steps"]

        def ema_network(self):
            return Network()

    def describe():
        return {{"framework": NAME, "version": "1", "threads": threads[0] + {more}, "device": "cpu"}}

    def set_threads(n):
        threads[0] = n
"""

MAIN = """
    import sys
    sys.path.insert(0, {root!r})
    sys.path.insert(0, ".")
    from core.commands.main import main
    sys.exit(main({package!r}))
"""

PEER = """
    import sys
    sys.path.insert(0, {root!r})
    sys.path.insert(0, ".")
    from core.worker.protocol import serve
    from core.worker.timing import TimedTraining, peak_memory
    from pretended_peer.trainer import Trainer, describe, set_threads

    tasks = {{"time_training": TimedTraining(Trainer), "peak_memory": peak_memory,
             "describe": lambda arrays, options: ({{}}, describe())}}
    sys.exit(serve(set_threads, tasks, sys.argv[1:]))
"""


PACKAGES = {"torch": "torch_impl", "tensorflow": "tf_impl", "diffusers": "pretended_peer"}


def make_checkout(folder: Path, more_threads: int = 0) -> tuple[Path, Path]:
    """Both twins and the peer in a folder, and a tiny recipe: (checkout, recipe)."""
    peer = folder / "tests" / "peers" / "diffusers_training.py"
    peer.parent.mkdir(parents=True)
    (folder / "tests" / "__init__.py").touch()
    peer.write_text(textwrap.dedent(PEER.format(root=str(ROOT))))
    for name, package in PACKAGES.items():
        (folder / package).mkdir()
        values = {
            "root": str(ROOT), "name": name, "package": package, "seconds": SECONDS[name],
            "shift": SHIFT * (name == "tensorflow"), "more": more_threads,
        }  # fmt: skip
        modules = {"__init__": "", "__main__": MAIN, "sampler": SAMPLER, "trainer": TRAINER, "worker": "TASKS = {{}}"}
        for module, text in modules.items():
            (folder / package / f"{module}.py").write_text(textwrap.dedent(text.format(**values)))
    recipe = folder / "tiny.toml"
    recipe.write_text(textwrap.dedent(TINY))
    return folder, recipe


PYTHONS = {"torch": sys.executable, "tensorflow": sys.executable}
