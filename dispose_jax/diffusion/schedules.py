"""Noise levels: Karras sigmas (SVD) and variance-preserving alphas (Stable Diffusion)."""

from __future__ import annotations

import numpy as np


def karras_sigmas(
    steps: int, *, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0
) -> np.ndarray:
    """Noise levels of a sampler, (steps + 1,) float32, decreasing, the last one 0.

    Evenly spaced in sigma^(1/rho), computed in float64 (Karras et al. 2022, eq. 5). Raises
    ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"sample.steps is {steps}: at least one step is needed")
    ramp = np.linspace(0, 1, steps, dtype=np.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return np.append(sigmas, 0.0).astype(np.float32)


def alphas_cumprod(num_steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    """Remaining signal power after each training step, (num_steps,) float32, "scaled linear" betas.

    Source: Stable Diffusion's DDPM schedule, in float64 so that the product of a thousand factors
    keeps its digits.
    """
    betas = np.linspace(start**0.5, end**0.5, num_steps, dtype=np.float64) ** 2
    return np.cumprod(1 - betas).astype(np.float32)
