"""Both twins open a network that comes with the software, and draw the same images from it."""

import os
import subprocess

import numpy as np

from core.checkpoints.checkpoint import Checkpoint, save_pretrained
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import PIPELINE_FLOAT32
from eval.twins.interpreters import FRAMEWORKS, PACKAGES, ROOT, THREAD_VARIABLES, find_python

MODEL = ModelConfig(
    (8, 12),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
)
PROGRAM = """
import sys
from pathlib import Path
from core.checkpoints import pretrained
from core.commands.main import main
pretrained.FOLDER = Path(sys.argv[2])
sys.exit(main(sys.argv[1], ["sample", "pretrained:tiny", "--n", "3", "--out", sys.argv[3]]))
"""


def test_both_twins_draw_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    specs = param_specs(MODEL).items()
    weights = {n: (0.1 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(np.float32) for n, s in specs}
    recipe = Recipe(MODEL, ProcessConfig(timesteps=100, prediction="v"), sampling=SamplingConfig("ddim", 8))
    save_pretrained(tmp_path / "box" / "tiny", Checkpoint(recipe, weights, {}, {"step": 1}, {}))
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    images = {}
    for framework in FRAMEWORKS:
        words = [*find_python(framework), "-c", PROGRAM, PACKAGES[framework], tmp_path / "box", tmp_path / framework]
        done = subprocess.run(
            [*map(str, words)], cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0 and "made float32" not in done.stderr, done.stderr
        images[framework] = np.load(tmp_path / framework / "samples.npy")
    assert images["torch"].std() > 0.05
    require_close(images["tensorflow"], images["torch"], PIPELINE_FLOAT32, "images")
