"""The orthogonalisation of the optimiser Muon in TensorFlow. Twin: torch_impl/muon.py."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from core.training.optim import NEWTON_SCHULZ, NEWTON_SCHULZ_EPS, NEWTON_SCHULZ_STEPS


def orthogonalise(matrices: Any) -> Any:
    """Move the singular values of matrices near 1 and keep their singular vectors.

    Args:
        matrices: (N, rows, columns), float32 or float64.
    Returns:
        The same shape and dtype. A matrix of zeros stays zero.
    Source: Jordan et al. 2024, quintic Newton-Schulz on the smaller side; the original computes it in bfloat16.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices / (tf.norm(matrices, axis=(1, 2), keepdims=True) + NEWTON_SCHULZ_EPS)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = tf.matmul(x, x, transpose_a=tall, transpose_b=not tall)
        polynomial = b * gram + c * tf.matmul(gram, gram)
        x = a * x + (tf.matmul(x, polynomial) if tall else tf.matmul(polynomial, x))
    return x
