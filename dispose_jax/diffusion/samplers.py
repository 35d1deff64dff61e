"""Samplers: noise levels, what the network sees at a level, and the step to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from dispose_jax.diffusion import prediction, schedules

Array = jax.Array


class Schedule(Protocol):
    """A way from noise to data; levels are decreasing numbers, the last one is "clean"."""

    def levels(self, steps: int) -> np.ndarray:
        """Noise levels, (steps + 1,) float32."""
        ...

    def start(self, noise: Array, levels: np.ndarray) -> Array:
        """Standard normal noise -> the latent at levels[0]."""
        ...

    def scale_input(self, x: Array, level: Array) -> Array:
        """The latent as the network sees it."""
        ...

    def time(self, level: Array) -> Array:
        """The time that the network is told."""
        ...

    def step(self, x: Array, output: Array, level: Array, lower: Array) -> Array:
        """The latent at the lower level, from the network's output at this one."""
        ...


def euler_step(x: Array, clean: Array, sigma: Array, lower: Array) -> Array:
    """One Euler step of dx/dsigma = (x - clean) / sigma (Karras et al. 2022, Alg. 1).

    x and clean of one shape, float32. Written as a blend: the difference form cancels at sigma 700.
    """
    return clean + (x - clean) * (lower / sigma)


@dataclass(frozen=True)
class Euler:
    """Euler steps over Karras sigmas with v-prediction: Stable Video Diffusion's sampler."""

    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0

    def levels(self, steps: int) -> np.ndarray:
        return schedules.karras_sigmas(
            steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho
        )

    def start(self, noise: Array, levels: np.ndarray) -> Array:
        # The released scheduler's factor for its "leading" spacing: the data's own variance counts
        # too.
        return noise * np.sqrt(np.square(levels[0]) + 1)

    def scale_input(self, x: Array, level: Array) -> Array:
        return prediction.scale_input(x, level)

    def time(self, level: Array) -> Array:
        return prediction.time_of(level)

    def step(self, x: Array, output: Array, level: Array, lower: Array) -> Array:
        return euler_step(x, prediction.clean_from_v(x, output, level), level, lower)
