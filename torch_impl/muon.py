"""The orthogonalisation of the optimiser Muon in PyTorch. Twin: tf_impl/muon.py."""

from __future__ import annotations

import torch

from core.training.optim import NEWTON_SCHULZ, NEWTON_SCHULZ_EPS, NEWTON_SCHULZ_STEPS


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Move the singular values of matrices near 1 and keep their singular vectors.

    Args:
        matrices: (N, rows, columns), float32 or float64.
    Returns:
        The same shape and dtype. A matrix of zeros stays zero.
    Source: Jordan et al. 2024, quintic Newton-Schulz on the smaller side; the original computes it in bfloat16.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + NEWTON_SCHULZ_EPS)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, polynomial, beta=a) if tall else torch.baddbmm(x, polynomial, x, beta=a)
    return x
