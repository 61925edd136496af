"""PyTorch's fast path on a CPU, channels_last and the compiled GroupNorm, against TensorFlow.

The ladder's other networks are too small for it. PyTorch's part runs in this process, where its calls can be counted.
"""

import dataclasses
from collections import Counter

import pytest

from core.config import ModelConfig, ProcessConfig, Recipe
from core.networks.group_norm import GroupNorm
from core.worker.tasks import TrainingTask
from eval.parity.ladder import Board, Twins, climb
from eval.parity.rungs_network import gradients, network
from eval.parity.rungs_training import steps_of_training
from eval.parity.subject import Subject, random_weights
from tests.parity.test_ladder import hold
from torch_impl import kernel
from torch_impl.trainer import Trainer
from torch_impl.worker import TASKS

# The rungs' batches of two images give the norms of the first level 36,864 values, and those of the second too few.
OFFSET = ModelConfig(
    sample_size=(24, 48),
    block_out_channels=(16, 16),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
)
ONE_LEVEL = dataclasses.replace(
    OFFSET, block_out_channels=(16,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
)
SCALE = dataclasses.replace(OFFSET, resnet_time_scale_shift="scale_shift", act_fn="gelu")


class Here:
    """PyTorch's tasks in this process, in place of its worker."""

    def __init__(self):
        self.tasks = {**TASKS, "train": TrainingTask(Trainer)}

    def call(self, task, arrays, **options):
        return self.tasks[task](arrays, options)


@pytest.fixture
def calls(compiler, monkeypatch) -> Counter:
    """Number of calls of the compiled layer so far, by (forward or backward, dtype)."""
    counts: Counter = Counter()

    class Counted(GroupNorm):
        def _call(self, kind, *arrays):
            counts[kind, self.dtype] += 1
            super()._call(kind, *arrays)

    monkeypatch.setattr(kernel, "GroupNorm", Counted)
    return counts


def compare(twins, model, *rungs) -> Board:
    recipe = Recipe(model, ProcessConfig(schedule="cosine", prediction="v"))
    here = Twins(torch=Here(), tensorflow=twins["tensorflow"])
    subject = Subject("fast", recipe, random_weights(recipe))
    return climb(here, subject, [(6, rung) for rung in rungs], lambda _: None)


@pytest.mark.parametrize(
    ("model", "rungs", "dtypes"),
    [
        (OFFSET, (network, gradients), ("float64", "float32")),
        (SCALE, (network, gradients), ("float64", "float32")),
        (ONE_LEVEL, (steps_of_training,), ("float64",)),
    ],
    ids=["offset", "scale", "steps"],
)
def test_the_fast_path_computes_what_tensorflow_does(twins, calls, model, rungs, dtypes):
    board = compare(twins, model, *rungs)
    assert set(calls) == {(kind, dtype) for kind in ("forward", "backward") for dtype in dtypes}
    hold(board)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_a_wrong_compiled_layer_is_seen(twins, compiler, monkeypatch, kind):
    class Wrong(GroupNorm):
        def _call(self, which, *arrays):
            called = dataclasses.replace(self, silu=not self.silu) if which == kind else self
            GroupNorm._call(called, which, *arrays)

    monkeypatch.setattr(kernel, "GroupNorm", Wrong)
    red = {(m.quantity, m.dtype) for m in compare(twins, OFFSET, gradients).measurements if not m.ok}
    assert red >= {("gradient", "float32"), ("gradient", "float64")}
