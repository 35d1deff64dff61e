"""Noise levels: of samplers (Karras sigmas, Stable Diffusion's alphas) and of training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Noise levels of ten steps that minimise a bound on the error of stochastic solvers (Sabour et al.
# 2024, "Align Your Steps", table 3).
AYS_VIDEO = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
# The same for Stable Diffusion 1.5, as the nearest times of its betas (diffusers' AysSchedules).
AYS_TIMES = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)


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


def ays_sigmas(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 700.0) -> np.ndarray:
    """Noise levels of a sampler for Stable Video Diffusion, (steps + 1,) float32, decreasing, the
    last one 0.

    Along the published ten steps, log-linearly between them and only from sigma_max to sigma_min,
    which are cut to 0.002..700; the smallest level gives way to 0, as the authors do it. Raises
    ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"sample.steps is {steps}: at least one step is needed")
    rising = np.log(AYS_VIDEO[::-1])
    ends = np.interp(np.log([sigma_max, sigma_min]), rising, np.arange(len(rising)))
    sigmas = np.exp(np.interp(np.linspace(*ends, steps + 1), np.arange(len(rising)), rising))
    sigmas[-1] = 0
    return sigmas.astype(np.float32)


def ays_times(steps: int) -> np.ndarray:
    """Times of a sampler for Stable Diffusion 1.5, (steps,) int64, decreasing.

    Along the noise levels of the published ten steps, log-linearly between them, each as the
    nearest time of the model's own betas. Raises ValueError unless 1 <= steps <= 73, beyond which
    the last ones fall together.
    """
    _check_steps(steps, 73)
    alphas = alphas_cumprod().astype(np.float64)
    levels = np.log((1 - alphas) / alphas) / 2  # log sigma of times 0..999, rising
    places = np.linspace(0, len(AYS_TIMES) - 1, steps + 1)[:-1]
    wanted = np.interp(places, np.arange(len(AYS_TIMES)), levels[np.array(AYS_TIMES)])
    return np.round(np.interp(wanted, levels, np.arange(len(levels)))).astype(np.int64)


def alphas_cumprod(
    num_steps: int = 1000,
    start: float = 0.00085,
    end: float = 0.012,
    *,
    betas: str = "scaled_linear",
    zero_terminal: bool = False,
) -> np.ndarray:
    """Remaining signal power after each training step, (num_steps,) float32, decreasing.

    betas: from start to end evenly ("linear") or evenly in their square roots ("scaled_linear",
    Stable Diffusion). zero_terminal: shift and scale the signal's amplitude so that none is left
    after the last step and the first step stays (Lin et al. 2024, alg. 1). In float64, so that the
    product of a thousand factors keeps its digits. Raises ValueError for other betas.
    """
    if betas not in ("linear", "scaled_linear"):
        raise ValueError(f"betas are {betas!r}: expected 'linear' or 'scaled_linear'")
    power = 2 if betas == "scaled_linear" else 1
    steps = np.linspace(start ** (1 / power), end ** (1 / power), num_steps, dtype=np.float64)
    alphas = np.cumprod(1 - steps**power)
    if zero_terminal:
        amplitude = np.sqrt(alphas)
        first, last = amplitude[0], amplitude[-1]
        alphas = np.square((amplitude - last) * first / (first - last))
    return alphas.astype(np.float32)


def trailing_times(steps: int, num_steps: int = 1000) -> np.ndarray:
    """Times of a sampler, (steps,) int64, decreasing, the first one the last training step.

    Source: diffusers' "trailing" spacing. Raises ValueError unless 1 <= steps <= num_steps.
    """
    _check_steps(steps, num_steps)
    return np.round(np.arange(num_steps, 0, -num_steps / steps)).astype(np.int64)[:steps] - 1


def leading_times(steps: int, num_steps: int = 1000, offset: int = 1) -> np.ndarray:
    """Times of a sampler, (steps,) int64, decreasing by num_steps // steps to the offset.

    Source: diffusers' "leading" spacing. Raises ValueError unless 1 <= steps <= num_steps.
    """
    _check_steps(steps, num_steps)
    return np.arange(steps, dtype=np.int64)[::-1] * (num_steps // steps) + offset


def _check_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise ValueError(f"sample.steps is {steps}: expected 1 to {most}")


def lognormal_sigmas(key: Array, count: int, *, mean: float, std: float) -> Array:
    """Noise levels for training, (count,) float32: exp of a normal variable.

    mean 0.7 and std 1.6 are SVD's values for fine-tuning at high resolution (SVD_Xtend uses them).
    """
    return jnp.exp(mean + std * jax.random.normal(key, (count,)))


def cosine_sigmas(key: Array, count: int, *, sigma_data: float = 0.5) -> Array:
    """Noise levels for training, (count,) float32 in 0.002..700, one from each of count equal
    shares of the schedule, so that a batch covers it.

    The cosine schedule with its resolution shift interpolated between sides of 32 at the noisy end
    and 64 at the clean one (Hoogeboom et al. 2023), as MOFA-Video and ControlNeXt train.
    """
    clean, noisy = (-2 * np.log(sigma / sigma_data) for sigma in (0.002, 700.0))
    t = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count

    def shifted(side: int) -> Array:
        shift = 2 * np.log(side / 64)
        low, high = (np.arctan(np.exp(-(end - shift) / 2)) for end in (noisy, clean))
        return -2 * jnp.log(jnp.tan(low + t * (high - low))) + shift

    logsnr = (1 - t) * shifted(32) + t * shifted(64)
    return sigma_data * jnp.exp(-logsnr / 2)


def uniform_times(key: Array, count: int, num_steps: int = 1000) -> Array:
    """Times for training, (count,) float32: whole numbers below num_steps, equally likely."""
    return jax.random.randint(key, (count,), 0, num_steps).astype(jnp.float32)
