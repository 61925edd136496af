"""The scalars of each step, computed by hand, and the reference Adam against torch.optim."""

import numpy as np
import pytest

from core.config import TrainingConfig
from core.networks.parameters import ParamSpec
from core.training.optim import ema_decay, is_decayed, learning_rate, scalars
from eval.parity.closeness import require_close
from eval.parity.tolerances import TABLE
from tests.numpy_adam import adam_step, clip_factor


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Ten steps with a peak of 8: warm-up reaches it at step warmup_steps - 1.
        (dict(warmup_steps=0), [8] * 10),
        (dict(warmup_steps=1), [8] * 10),
        (dict(warmup_steps=4), [2, 4, 6, 8, 8, 8, 8, 8, 8, 8]),
        (dict(warmup_steps=20), [0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0]),
        (dict(warmup_steps=0, decay="linear"), [7.2, 6.4, 5.6, 4.8, 4.0, 3.2, 2.4, 1.6, 0.8, 0]),
        (dict(warmup_steps=0, decay="linear", decay_start=0.6), [8, 8, 8, 8, 8, 8, 6, 4, 2, 0]),
        (dict(warmup_steps=0, decay="linear", decay_start=0.6, final_fraction=0.5), [8, 8, 8, 8, 8, 8, 7, 6, 5, 4]),
        (dict(warmup_steps=2, decay="linear", decay_start=0.6), [4, 8, 8, 8, 8, 8, 6, 4, 2, 0]),
        (dict(warmup_steps=0, decay="linear", decay_start=1.0), [8] * 10),
        # cos(pi / 4) = sqrt(1 / 2)
        (
            dict(warmup_steps=0, decay="cosine", decay_start=0.6),
            [8, 8, 8, 8, 8, 8, 4 + 4 * 0.5**0.5, 4, 4 - 4 * 0.5**0.5, 0],
        ),
        (
            dict(warmup_steps=0, decay="cosine", decay_start=0.6, final_fraction=0.5),
            [8, 8, 8, 8, 8, 8, 6 + 2 * 0.5**0.5, 6, 6 - 2 * 0.5**0.5, 4],
        ),
        (dict(warmup_steps=0, decay="constant", decay_start=0.6, final_fraction=0.5), [8] * 10),
    ],
)
def test_the_learning_rate_by_hand(options, expected):
    config = TrainingConfig(steps=10, learning_rate=8.0, **options)
    found = np.array([learning_rate(config, step) for step in range(10)])
    require_close(found, np.array(expected, np.float64), TABLE, "learning rate")


def test_the_ema_decay_by_hand():
    config = TrainingConfig(ema_decay=0.7)
    # (1 + n) / (10 + n) with n = 1, 2, ...
    head = [2 / 11, 3 / 12, 4 / 13, 5 / 14]
    require_close(np.array([ema_decay(config, s) for s in range(4)]), np.array(head), TABLE, "decay")
    # (1 + n) / (10 + n) = 0.7 at n = 20, that is step 19.
    assert ema_decay(config, 18) == 20 / 29 and ema_decay(config, 19) == 0.7 == ema_decay(config, 10**6)
    assert ema_decay(TrainingConfig(ema_decay=0.0), 5) == 0


def test_scalars_are_pure_and_the_dropout_seed_is_keyed_by_seed_and_step():
    config = TrainingConfig(steps=100, warmup_steps=4, learning_rate=8.0)
    assert scalars(config, 3) == scalars(config, 3)
    assert scalars(config, 1)["lr"] == 4 and scalars(config, 0)["ema_decay"] == 2 / 11
    seeds = {scalars(TrainingConfig(seed=seed), step)["dropout_seed"] for seed in range(4) for step in range(50)}
    assert len(seeds) == 200 and all(0 <= s < 2**31 and s == int(s) for s in seeds)


def test_clipping_is_torchs():
    import torch

    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 50.0):
        gradients = [scale * rng.standard_normal(shape) for shape in ((3, 4), (5,))]
        parameters = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = torch.from_numpy(g.copy())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.5))
        assert np.isclose(norm, np.sqrt(sum((g**2).sum() for g in gradients)), rtol=1e-14)
        for p, g in zip(parameters, gradients, strict=True):
            require_close(clip_factor(norm, 1.5) * g, p.grad.numpy(), TABLE, "clipped gradient")
    assert clip_factor(50.0, 0.0) == 1


def test_weight_decay_acts_on_kernels_and_matrices_only():
    kinds = {"conv": (4, 2, 3, 3), "linear": (4, 2), "embedding": (3, 4), "norm": (4,), "bias": (4,)}
    assert {k: is_decayed(ParamSpec(shape, k, "ones")) for k, shape in kinds.items()} == {
        "conv": True,
        "linear": True,
        "embedding": True,
        "norm": False,
        "bias": False,
    }


@pytest.mark.parametrize("decay", (0.0, 0.1))
@pytest.mark.parametrize("name", ("adam", "adamw"))
def test_the_reference_adam_is_torchs(name, decay):
    import torch

    config = TrainingConfig(optimizer=name, beta1=0.8, beta2=0.97, adam_eps=1e-3, weight_decay=decay)
    rng = np.random.default_rng(1)
    p = rng.standard_normal((4, 3))
    m, v = np.zeros_like(p), np.zeros_like(p)
    theirs = torch.nn.Parameter(torch.from_numpy(p.copy()))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimiser = kind([theirs], lr=1.0, betas=(0.8, 0.97), eps=1e-3, weight_decay=decay)
    undecayed = (p, m, v)
    for step in range(20):
        gradient, lr = rng.standard_normal(p.shape) * 10.0 ** (step % 5 - 3), 0.02 * (step + 1)
        theirs.grad = torch.from_numpy(gradient.copy())
        optimiser.param_groups[0]["lr"] = lr
        optimiser.step()
        p, m, v = adam_step(config, lr, step + 1, True, p, gradient, m, v)
        undecayed = adam_step(config, lr, step + 1, False, undecayed[0], gradient, *undecayed[1:])
        require_close(p, theirs.detach().numpy(), TABLE, f"weights after step {step}")
    require_close(m, optimiser.state[theirs]["exp_avg"].numpy(), TABLE, "first moment")
    require_close(v, optimiser.state[theirs]["exp_avg_sq"].numpy(), TABLE, "second moment")
    assert (np.abs(undecayed[0] - p).max() > 1e-3) == (decay > 0)


def test_the_first_adam_step_by_hand():
    """The bias corrections cancel the moments' (1 - beta) at step 1: p - lr g / (|g| + eps)."""
    config = TrainingConfig(adam_eps=1e-8)
    gradient = np.array([4.0, -0.5, 1e-8])
    p, m, v = adam_step(config, 0.1, 1, False, np.ones(3), gradient, np.zeros(3), np.zeros(3))
    require_close(p, np.array([0.9, 1.1, 0.95]), 1e-8, "weights")  # eps itself moves the first two by 1e-8
    require_close(m, 0.1 * gradient, TABLE, "first moment")
    require_close(v, 0.001 * gradient**2, TABLE, "second moment")
