"""Why float32 gradients through max pooling differ: some windows have another largest pixel than in float64.

Run by the PyTorch interpreter from the checkout: `python -m tests.peers.pooling_ties`. On the parity ladder's first
batch the baseline network is run forward and backward in float64, in float32, and in float32 with float64's choice
of pixels.
"""

import argparse

import numpy as np
import torch
from torch.nn import functional as F

from eval.parity.rungs_network import first_batch
from eval.parity.subject import Arrays, Subject, open_subject, stress
from torch_impl.trainer import Trainer
from torch_impl.weights import set_weights

STAGES = ("down1", "down2", "down3")


class Pool(torch.nn.Module):
    """Largest of 2x2 pixels, noting which; with `given`, the pixels named there instead, one tensor a call."""

    def __init__(self, given: list[torch.Tensor] | None) -> None:
        super().__init__()
        self.given, self.chosen, self.gaps = given, [], []
        self.largest = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled, index = F.max_pool2d(x, 2, return_indices=True)
        two = x.detach().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).topk(2).values  # (B, C, H / 2, W / 2, 2)
        self.gaps.append(two[..., 0] - two[..., 1])
        self.largest = max(self.largest, float(x.detach().abs().max()))
        self.chosen.append(index)
        if self.given is None:
            return pooled
        return x.flatten(2).gather(2, self.given[len(self.chosen) - 1].flatten(2)).view_as(pooled)


def run(subject: Subject, dtype: str, given: dict[str, Pool] | None = None) -> tuple[dict[str, Pool], Arrays]:
    """The pools and every parameter's gradient at a precision, with the choices of `given` where there are any."""
    recipe = stress(subject.recipe, dtype)
    trainer = Trainer(recipe)
    set_weights(trainer.network, {name: value.astype(dtype) for name, value in subject.weights.items()})
    pools = {stage: Pool(given[stage].chosen if given else None) for stage in STAGES}
    for stage, pool in pools.items():
        getattr(trainer.network, stage).maxpool_conv[0] = pool
    trainer.gradients(trainer.put(first_batch(recipe)), 0)
    return pools, {name: p.grad.double().numpy() for name, p in trainer.network.named_parameters()}


def main() -> None:
    """Print the windows that are decided otherwise, and the gradients' distance from float64's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/baseline-64.toml", help="recipe of a baseline network")
    subject = open_subject(parser.parse_args().config, None)
    exact, gradients = run(subject, "float64")
    single, rounded = run(subject, "float32")
    _, steered = run(subject, "float32", exact)
    windows = 0
    for stage, pool in exact.items():
        for part, (a, b, gaps) in enumerate(zip(pool.chosen, single[stage].chosen, pool.gaps, strict=True)):
            windows += a.numel()
            for index in (a != b).nonzero().tolist():
                gap = float(gaps[tuple(index)])
                print(
                    f"{stage}, part {part} of the batch, (image, channel, row, column) {index}: "
                    f"the two largest are {gap:.1e} apart, values up to {pool.largest:.1f}"
                )
    print(f"{windows:,} windows in all")
    for name, found in (("float32", rounded), ("float32 with float64's pixels", steered)):
        apart = {n: float(np.abs(found[n] - g).max() / np.abs(g).max()) for n, g in gradients.items()}
        worst = max(apart, key=apart.__getitem__)
        largest = np.abs(gradients[worst]).max()
        print(
            f"{name}: gradients at most {apart[worst]:.1e} from float64's ({worst}, at most {largest:.2g}); "
            f"sa1.ff_self.3.bias {apart['sa1.ff_self.3.bias']:.1e}"
        )


if __name__ == "__main__":
    main()
