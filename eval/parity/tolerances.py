"""Every tolerance of the tests and of the ladder, with its reason; raising one needs a line in the changelog.

All are max abs(found - expected) / max abs(expected), as closeness.require_close measures it. "Seen" is the largest
difference measured on CPU over all cases. Must not import a framework or a twin.
"""

from __future__ import annotations


class Tolerance(float):
    """A number with the reason for it, `why`."""

    why: str

    def __new__(cls, value: float, why: str) -> Tolerance:
        """A float that carries a sentence."""
        tolerance = super().__new__(cls, value)
        tolerance.why = why
        return tolerance


EXACT = Tolerance(0.0, "copies: nothing is computed")

# Against NumPy or a peer in float64. A wrong formula shows here, not under float32's noise.
TABLE = Tolerance(1e-12, "tables and closed forms, some ten float64 operations each")
FORWARD_NOISE = Tolerance(1e-6, "three float32 operations, of 1.2e-7 each")
STATISTICS_SIGMA = Tolerance(5.0, "in standard errors of the statistic: one in two million fails by chance")
SAMPLER_FLOAT64 = Tolerance(1e-10, "a whole loop amplifies rounding by the network's slope at each row")
SAMPLER_FLOAT32 = Tolerance(1e-5, "a whole loop amplifies rounding by the network's slope at each row")
LAYER_FLOAT64 = Tolerance(1e-12, "one layer, fed the other framework's input: sums of at most some thousand terms")
LAYER_FLOAT32 = Tolerance(1e-5, "one layer, fed the other framework's input: other order of sums, 1.6e-6 a convolution")
GROUP_NORM_OFFSET_FLOAT32 = {30.0: 5e-6, 300.0: 5e-5, 3000.0: 5e-4}
"""GroupNorm by mean / deviation, which float32's eps is multiplied by: seen 8e-7, 1.4e-5 and 1.3e-4."""
NETWORK_FLOAT64 = Tolerance(1e-10, "the whole network: rounding amplified from layer to layer")
NETWORK_FLOAT32 = Tolerance(1e-4, "the whole network: some forty convolutions of 1.6e-6")
LENS_FLOAT32 = Tolerance(1e-5, "the lens extractor: eight convolutions without a norm between them")
PIPELINE_FLOAT64 = Tolerance(1e-13, "twenty steps of a diffusers pipeline in float64 from our noise: seen 1e-14")
PIPELINE_FLOAT32 = Tolerance(4e-5, "the same as shipped, whose tables are float32: seen 4.4e-6")
LOSS_FLOAT64 = Tolerance(1e-12, "the loss and the split of a batch, from equal outputs")
BOUND_FLOAT64 = Tolerance(
    1e-10, "the variational bound from equal outputs, which divides by a deviation of 0.01 at t = 0"
)
BOUND_SLOPE = Tolerance(1e-7, "its slopes by five points 1e-4 apart: curved in units of a deviation of 0.01")
TAIL_FLOAT64 = Tolerance(
    1e-9, "a normal tail's logarithm: its series leaves out 1.5e-8 of 1 at 12, where the logarithm is -75"
)
TAIL_FLOAT32 = Tolerance(1e-6, "the same in float32: some operations of 1.2e-7 each")
FINITE_DIFFERENCE = Tolerance(
    1e-9, "slopes by five points 1e-3 apart: 1e-12 of the fifth derivative and 1e-13 of rounding"
)
GRADIENT_FLOAT64 = Tolerance(1e-8, "gradients and optimiser steps: the rounding of forward and backward pass")
GRADIENT_FLOAT32 = Tolerance(
    1e-4, "only tensors whose float64 gradient is above 1e-7; where the largest of a window decides, the nearest image"
)
GRADIENT_FLOOR = Tolerance(
    1e-7, "absolute: a bias before a one-channel-per-group GroupNorm has zero true gradient, and rounding for a value"
)
OPTIMISER_FLOAT64 = Tolerance(1e-10, "twenty steps against core's Adam fed with the twin's own gradients")
RANKS_FLOAT64 = Tolerance(
    1e-11,
    "another order of sums, twenty steps: seen 2e-14, and 4e-12 for biases of true gradient 0, which Adam moves by "
    "rounding over its eps",
)
RESUMED_FLOAT64 = Tolerance(1e-8, "trained on in the other framework, against the uninterrupted run")
AUTOCAST_BF16 = Tolerance(2e-2, "the loss under bf16 against float32: bfloat16 keeps 8 bits, 4e-3 an operation")
GREY_LEVELS = Tolerance(1, "in grey levels of 255, absolute: a value on the edge of two may round either way")

# Metrics against torch-fidelity and pytorch-fid on the same features, relative to the peer's number.
METRIC_PEER = Tolerance(1e-11, "the same formula in another order of sums, in float64 on both sides: seen 1.9e-13")
METRIC_PEER_GAUSSIAN = Tolerance(
    1e-8, "the peer subtracts means of kernels near 1, whose rounding is 1e-16 of a difference of 1e-7: seen 9.3e-10"
)
METRIC_PEER_SHARE = Tolerance(1.2e-7, "the peer takes the mean of a share in float32: seen 3.2e-8; counts are equal")
METRIC_PEER_SINGULAR = Tolerance(
    1e-6, "the peers take roots of eigenvalues that rounding made 1e-17 instead of 0: seen 1.2e-7, the error theirs"
)

# Feature extractors.
RESIZE_FLOAT32 = Tolerance(2e-6, "two float32 products of two terms each, against TensorFlow 1's kernel: seen 4e-7")
RESIZE_PILLOW = Tolerance(5e-6, "two float32 products, against pillow, which rounds between the two: seen 6e-7")
BATCH_SIZE_FLOAT32 = Tolerance(1e-6, "features at another batch size: kernels sum in another order, seen 2e-7")
INCEPTION_FLOAT32 = Tolerance(5e-6, "94 convolutions, every tap: seen 8e-7")
INCEPTION_FLOAT64 = Tolerance(2e-14, "the same in float64: seen 2e-15")
DISTANCE_FLOAT32 = Tolerance(1e-5, "a distance is a difference of larger numbers: seen 7.5e-7, of KID")
NETWORK_BF16 = Tolerance(6e-2, "a network, or a few rows of a sampler, in bf16: 4e-3 an operation; seen 3.8e-2")
