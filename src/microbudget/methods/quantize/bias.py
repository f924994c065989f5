"""Bias correction: the shift of the mean by quantization is removed.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def corrected_bias(b: Array, W: Array, W_q: Array, mean: Array, mean_q: Array) -> Array:
    """b + W E[x] - W_q E[x'], so that the layer's mean output is the float layer's. Empirical form.

    b: (outputs,), W and W_q: (outputs, K), mean and mean_q: (K,), the float and the quantized model's mean input.
    """
    return b + W @ mean - W_q @ mean_q
