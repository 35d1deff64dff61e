"""Linear filters as matrices that hold their border rule.

A filter along one axis of fixed length is a matrix, borders included: exact for kernels larger than
the picture, and the response to a few impulses is a few of its columns. NumPy float64, computed
while tracing.
"""

from __future__ import annotations

import numpy as np


def gaussian(kernel: int, sigma: float) -> np.ndarray:
    """Sampled Gaussian of `kernel` taps, centred, sum 1: (kernel,) float64.

    Raises ValueError if kernel is even or not positive, or sigma is not positive.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a Gaussian kernel of {kernel} taps has no centre; give an odd number")
    if not sigma > 0:
        raise ValueError(f"a Gaussian of sigma {sigma} does not exist; give a positive number")
    offsets = np.arange(kernel) - kernel // 2
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    return taps / taps.sum()


def filter_matrix(taps: np.ndarray, length: int) -> np.ndarray:
    """Correlation with an odd number of taps on an axis: y = matrix @ x, (length, length) float64.

    Beyond the border the axis is mirrored without repeating the edge (reflect-101), as often as the
    taps reach. Column i is the response to an impulse at i.
    """
    reach = len(taps) // 2
    position = np.arange(length)[:, None] + np.arange(-reach, reach + 1)  # (length, taps)
    period = max(2 * (length - 1), 1)
    position = position % period
    position = np.minimum(position, period - position) if length > 1 else position
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], position), np.broadcast_to(taps, position.shape))
    return matrix
