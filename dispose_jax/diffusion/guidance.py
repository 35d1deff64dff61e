"""Classifier-free guidance with a scale per frame."""

from __future__ import annotations

import jax
import numpy as np

Array = jax.Array


def scales(guidance_scale: float | tuple[float, float], num_frames: int) -> np.ndarray:
    """Guidance of every frame, (f,) float32: one number, or a line from the first to the last
    frame.

    Raises ValueError unless it is a number or a pair.
    """
    ends = np.atleast_1d(np.asarray(guidance_scale, np.float32))
    if ends.shape not in ((1,), (2,)):
        raise ValueError(
            f"sample.guidance_scale is {guidance_scale}: expected a number or a pair over the clip"
        )
    return np.linspace(ends[0], ends[-1], num_frames, dtype=np.float32)


def inside(sigmas: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    """Where guidance is used, bool of the shape of sigmas: above the interval's low end, up to its
    high one (Kynkaanniemi et al. 2024). (0, inf) is everywhere.

    sigmas: noise over signal, inf for noise alone.
    """
    low, high = interval
    return (low < sigmas) & (sigmas <= high)


def combine(unconditional: Array, conditional: Array, scale: Array) -> Array:
    """Move from the unconditional prediction past the conditional one.

    Both (b, f, h, w, c); scale (f,); 1 gives the conditional one.
    """
    return unconditional + scale[:, None, None, None] * (conditional - unconditional)
