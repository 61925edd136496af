"""A checkout in which the NumPy twin stands for both frameworks, for diffusers and for the benchmark's limit.

Command line, loop and worker are the real ones. A step or a drawing takes a known time and is noted in calls.log.
TensorFlow's images lie SHIFT above PyTorch's.
"""

import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"torch": 0.02, "tensorflow": 0.04, "diffusers": 0.08, "limit": 0.01}
SHIFT = 0.01
"""In [0, 1]."""
PACKAGES = {"torch": "torch_impl", "tensorflow": "tf_impl"}
SCRIPTS = {"diffusers": "diffusers_contestant", "limit": "products_contestant"}

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

SETUP = """
    import sys
    import tests
    sys.path.insert(0, {root!r})
    tests.__path__.append({root!r} + "/tests")
    from tests.numpy_impl.pace import PACE
    PACE.framework, PACE.seconds, PACE.shift, PACE.more_threads = {name!r}, {seconds!r}, {shift!r}, {more!r}
"""
MAIN = """
    from core.commands.main import main
    sys.exit(main(__package__))
"""
PEER = """
    from core.worker.protocol import serve
    from core.worker.timing import TimedSampling, TimedTraining, peak_memory
    from tests.numpy_impl.sampler import make_network
    from tests.numpy_impl.trainer import Trainer, describe, set_threads

    tasks = {"time_training": TimedTraining(Trainer), "time_sampling": TimedSampling(make_network)}
    tasks["peak_memory"] = peak_memory
    tasks["describe"] = lambda *_: ({}, describe())
    sys.exit(serve(set_threads, tasks, sys.argv[1:]))
"""


def make_checkout(folder: Path, more_threads: int = 0) -> tuple[Path, Path]:
    """Both twins and the peer in a folder, and a tiny recipe: (checkout, recipe)."""

    def write(path: str, *texts: str) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("".join(map(textwrap.dedent, texts)))

    write("tests/__init__.py")
    write("tiny.toml", TINY)
    for name, seconds in SECONDS.items():
        values = {"root": str(ROOT), "name": name, "seconds": seconds, "more": more_threads}
        setup = SETUP.format(**values, shift=SHIFT * (name == "tensorflow"))
        if name not in PACKAGES:
            write(f"tests/peers/{SCRIPTS[name]}.py", setup, PEER)
            continue
        write(f"{PACKAGES[name]}/__init__.py", setup, "EXPORT_FORMATS = {}")
        write(f"{PACKAGES[name]}/__main__.py", "import sys", MAIN)
        for module in ("device", "ranks", "sampler", "trainer", "worker"):
            write(f"{PACKAGES[name]}/{module}.py", f"from tests.numpy_impl.{module} import *")
    return folder, folder / "tiny.toml"
