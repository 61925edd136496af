"""Every tolerance of the tests and of the ladder, with its reason; raising one needs a line in the changelog.

All are max abs(found - expected) / max abs(expected), as closeness.require_close measures it. "Seen" is the largest
difference measured on CPU over all cases. Must not import a framework or a twin.
"""

EXACT = 0.0
"""Copies, names, noise, checkpoints: nothing is computed."""

# Against NumPy or a peer in float64. A wrong formula shows here, not under float32's noise.
TABLE = 1e-12
"""Rung 1: tables and closed forms, some ten float64 operations each."""
FORWARD_NOISE = 1e-6
"""Rung 3: q_sample, targets and conversions in float32, whose eps is 1.2e-7."""
STATISTICS_SIGMA = 5.0
"""Rung 3: in standard errors of the statistic, not relative; one test in two million fails by chance."""
SAMPLER_FLOAT64 = 1e-10
"""Rung 4: a whole loop amplifies rounding by the network's slope at each row."""
SAMPLER_FLOAT32 = 1e-5
"""Rung 4."""
LAYER_FLOAT64 = 1e-12
"""Rung 5, one layer: sums of at most some hundred terms."""
LAYER_FLOAT32 = 1e-5
"""Rung 5, one layer: convolutions sum in another order, 1.6e-6 each."""
GROUP_NORM_OFFSET_FLOAT32 = {30.0: 5e-6, 300.0: 5e-5, 3000.0: 5e-4}
"""Rung 5, GroupNorm by mean / deviation, which float32's eps is multiplied by: seen 8e-7, 1.4e-5 and 1.3e-4."""
NETWORK_FLOAT64 = 1e-10
"""Rung 5, the whole U-Net."""
NETWORK_FLOAT32 = 1e-4
"""Rung 5, the whole U-Net: some forty convolutions of 1.6e-6."""
LOSS_FLOAT64 = 1e-12
"""Rung 6: the loss and the split of a batch, from equal outputs."""
FINITE_DIFFERENCE = 1e-9
"""Rung 6: slopes by five points 1e-3 apart, whose own error is 1e-12 of the fifth derivative and 1e-13 of rounding."""
GRADIENT_FLOAT64 = 1e-8
"""Rung 6: gradients and optimiser steps between frameworks."""
GRADIENT_FLOAT32 = 1e-4
"""Rung 6, only where max abs of the float64 gradient is above GRADIENT_FLOOR."""
GRADIENT_FLOOR = 1e-7
"""Absolute. Below it a gradient is rounding: a bias before a one-channel-per-group GroupNorm has zero true gradient."""
OPTIMISER_FLOAT64 = 1e-10
"""Rung 6: twenty steps against core's Adam fed with the twin's own gradients."""
RESUMED_FLOAT64 = 1e-8
"""Rung 8: trained on in the other framework, against the uninterrupted run."""
AUTOCAST_BF16 = 2e-2
"""The loss under bf16 against float32: bfloat16 keeps 8 bits, 4e-3 an operation."""
GREY_LEVELS = 1
"""Rung 9: in grey levels of 255, absolute."""
