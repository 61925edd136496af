"""The scalars of each step, computed by hand, and the reference Adam and Muon against torch.optim."""

import numpy as np
import pytest

from core.config import ModelConfig, TrainingConfig
from core.networks.parameters import ParamSpec
from core.networks.specs import param_specs
from core.training.optim import ema_decay, is_decayed, is_orthogonalised, learning_rate, muon_stacks, scalars
from eval.parity.closeness import require_close
from eval.parity.tolerances import TABLE
from tests.numpy_adam import adam_step, clip_factor, muon_step, orthogonalised


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


def test_the_rate_of_muon_follows_the_learning_rate():
    config = TrainingConfig(
        steps=10, learning_rate=8.0, muon_learning_rate=0.5, warmup_steps=2, decay="linear", decay_start=0.6
    )
    found = [scalars(config, step)["muon_lr"] for step in range(10)]
    require_close(np.array(found), np.array([4, 8, 8, 8, 8, 8, 6, 4, 2, 0]) / 16, TABLE, "rate of Muon")


def test_muon_trains_the_kernels_and_matrices_inside_the_network():
    unet = param_specs(ModelConfig(num_class_embeds=3, vector_channels=2, condition_channels=1, in_channels=2))
    baseline = param_specs(
        ModelConfig((8, 8), block_out_channels=(8, 16, 32, 32), num_class_embeds=3, architecture="baseline")
    )
    outer = [
        {n for n, spec in specs.items() if len(spec.shape) >= 2 and not is_orthogonalised(n, spec)}
        for specs in (unet, baseline)
    ]
    first = {f"{n}.weight" for n in ("conv_in", "conv_out", "class_embedding")}
    embeddings = {f"{n}_embedding.linear_{i}.weight" for n in ("time", "vector") for i in (1, 2)}
    assert outer[0] == first | embeddings | {n for n in unet if n.endswith("time_emb_proj.weight")}
    times = {f"{n}{i}.emb_layer.1.weight" for n in ("down", "up") for i in (1, 2, 3)}
    assert outer[1] == times | {"inc.double_conv.0.weight", "outc.weight", "label_emb.weight"}
    assert not any(is_orthogonalised(n, s) for specs in (unet, baseline) for n, s in specs.items() if len(s.shape) < 2)


def test_the_parameters_of_muon_are_stacked_by_their_shape_as_a_matrix():
    specs = {
        "a.weight": (8, 4, 3, 3),
        "b.weight": (8, 36),
        "c.weight": (4, 8, 1, 1),
        "c.bias": (4,),
        "conv_in.weight": (8, 4),
    }
    specs = {n: ParamSpec(shape, "conv", "ones") for n, shape in specs.items()}
    assert muon_stacks(TrainingConfig(), specs) == {}
    found = muon_stacks(TrainingConfig(optimizer="muon"), specs)
    assert found == {(8, 36): ["a.weight", "b.weight"], (4, 8): ["c.weight"]}


@pytest.mark.parametrize("shape", ((6, 20), (20, 6), (5, 5)))
def test_the_reference_muon_is_torchs(monkeypatch, shape):
    """PyTorch's iterates in bfloat16, which float64 replaces here, and limits the norm where ours adds 1e-7 to it.

    Its default adjust_lr_fn is the original's factor, which is ours too.
    """
    import torch

    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    config = TrainingConfig(optimizer="muon", muon_momentum=0.9, weight_decay=0.1)
    rng = np.random.default_rng(1)
    p = rng.standard_normal(shape)
    m, theirs = np.zeros_like(p), torch.nn.Parameter(torch.from_numpy(p.copy()))
    optimiser = torch.optim.Muon([theirs], lr=1.0, momentum=0.9, weight_decay=0.1)
    for step in range(10):
        gradient, lr = 1e6 * rng.standard_normal(shape), 0.02 * (step + 1)
        theirs.grad = torch.from_numpy(gradient.copy())
        optimiser.param_groups[0]["lr"] = lr
        optimiser.step()
        p, m = muon_step(config, lr, p, gradient, m)
        require_close(p, theirs.detach().numpy(), TABLE, f"weights after step {step}")
    require_close(m, optimiser.state[theirs]["momentum_buffer"].numpy(), TABLE, "momentum")


def test_the_reference_muon_moves_a_kernel_as_a_matrix_of_its_output_channels():
    rng = np.random.default_rng(1)
    p, g, m = (rng.standard_normal((6, 2, 3, 3)) for _ in range(3))
    config = TrainingConfig(optimizer="muon")
    new = muon_step(config, 0.1, p, g, m)
    flat = muon_step(config, 0.1, *(x.reshape(6, 18) for x in (p, g, m)))
    assert all((a.reshape(6, 18) == b).all() for a, b in zip(new, flat, strict=True))
    values = np.linalg.svd(orthogonalised(flat[1]), compute_uv=False)
    assert values.min() > 0.68 and values.max() < 1.13
