"""Noise as a base model knows it: levels, what the network sees and is to predict at a level, and
the sampler's step to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.diffusion import prediction, schedules

Array = jax.Array

CLEAN = -1  # the level of Ddim that has no noise
TIMES = {  # its spacings of them
    "trailing": schedules.trailing_times,
    "leading": schedules.leading_times,
    "ays": schedules.ays_times,
}


class Schedule(Protocol):
    """A way from noise to data. A level is one float32 number per clip, high ones are noisy.

    In the methods that take level and arrays, it is broadcastable to them. draws: names of the
    distributions that training may take levels from (`config.train.sigmas`).
    """

    draws: tuple[str, ...]

    def levels(self, steps: int) -> np.ndarray:
        """Where each sampling step starts and where it leads, (steps, 2) float32."""
        ...

    def start(self, noise: Array, levels: np.ndarray) -> Array:
        """Standard normal noise -> the latent at the first level."""
        ...

    def scale_input(self, x: Array, level: Array) -> Array:
        """The latent as the network sees it."""
        ...

    def time(self, level: Array) -> Array:
        """The time that the network is told."""
        ...

    def clean(self, x: Array, output: Array, level: Array) -> Array:
        """The latent without noise, as the network's output at this level tells it."""
        ...

    def step(self, x: Array, output: Array, level: Array, lower: Array) -> Array:
        """The latent at the lower level, from the network's output at this one, as released."""
        ...

    def move(self, x: Array, clean: Array, level: Array, lower: Array) -> Array:
        """The latent at the lower level if this clean one were the truth: `step`, up to float
        reordering, for the network's own estimate."""
        ...

    def sigmas(self, levels: np.ndarray) -> np.ndarray:
        """Noise over signal at levels of any shape, float64: 0 for none, inf for noise alone."""
        ...

    def noised(self, clean: Array, noise: Array, level: Array) -> Array:
        """The latent at a level, in training."""
        ...

    def target(self, clean: Array, noise: Array, level: Array) -> Array:
        """What the network should predict there."""
        ...

    def weight(self, level: Array) -> Array:
        """Of the square error there."""
        ...


def euler_step(x: Array, clean: Array, sigma: Array, lower: Array) -> Array:
    """One Euler step of dx/dsigma = (x - clean) / sigma (Karras et al. 2022, Alg. 1).

    x and clean of one shape, float32. Written as a blend: the difference form cancels at sigma 700.
    """
    return clean + (x - clean) * (lower / sigma)


@dataclass(frozen=True)
class Euler:
    """Euler steps over sigmas with v-prediction: Stable Video Diffusion's sampler.

    spacing: "karras" with rho, as released, or "ays" (schedules.py).
    """

    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0
    spacing: str = "karras"

    draws = ("lognormal", "cosine")

    def levels(self, steps: int) -> np.ndarray:
        ends = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        if self.spacing == "ays":
            sigmas = schedules.ays_sigmas(steps, **ends)
        else:
            sigmas = schedules.karras_sigmas(steps, **ends, rho=self.rho)
        return np.stack([sigmas[:-1], sigmas[1:]], axis=1)

    def start(self, noise: Array, levels: np.ndarray) -> Array:
        # The released scheduler's factor for its "leading" spacing: the data's own variance counts
        # too.
        return noise * np.sqrt(np.square(levels[0, 0]) + 1)

    def scale_input(self, x: Array, level: Array) -> Array:
        return prediction.scale_input(x, level)

    def time(self, level: Array) -> Array:
        return prediction.time_of(level)

    def clean(self, x: Array, output: Array, level: Array) -> Array:
        return prediction.clean_from_v(x, output, level)

    def step(self, x: Array, output: Array, level: Array, lower: Array) -> Array:
        return self.move(x, self.clean(x, output, level), level, lower)

    def move(self, x: Array, clean: Array, level: Array, lower: Array) -> Array:
        return euler_step(x, clean, level, lower)

    def sigmas(self, levels: np.ndarray) -> np.ndarray:
        return np.asarray(levels, np.float64)

    def noised(self, clean: Array, noise: Array, level: Array) -> Array:
        return prediction.add_noise(clean, noise, level)

    def target(self, clean: Array, noise: Array, level: Array) -> Array:
        return prediction.v_target(clean, noise, level)

    def weight(self, level: Array) -> Array:
        return jnp.ones_like(level)  # EDM's weight is in the target, see prediction.v_target


@dataclass(frozen=True)
class Ddim:
    """DDIM without added noise (Song et al. 2021, eta 0) over a thousand times, the levels.

    Defaults are MusePose's: Stable Diffusion's betas brought to zero terminal signal (betas,
    zero_terminal: see schedules.alphas_cumprod), v-prediction, trailing times. prediction: "v" or
    "epsilon"; spacing: "trailing", "leading" or "ays" (schedules.py).
    """

    betas: str = "scaled_linear"
    zero_terminal: bool = True
    prediction: str = "v"
    spacing: str = "trailing"

    draws = ("times",)

    def levels(self, steps: int) -> np.ndarray:
        times = TIMES[self.spacing](steps)
        if self.spacing == "ays":
            lower = np.append(times[1:], CLEAN)
        else:
            # As released: a fixed stride, which is not always the distance to the next time.
            lower = np.maximum(times - 1000 // steps, CLEAN)
        return np.stack([times, lower], axis=1).astype(np.float32)

    def start(self, noise: Array, levels: np.ndarray) -> Array:
        return noise

    def scale_input(self, x: Array, level: Array) -> Array:
        return x

    def time(self, level: Array) -> Array:
        return level

    def clean(self, x: Array, output: Array, level: Array) -> Array:
        return prediction.unmix(x, output, self.alpha(level), self.prediction)[0]

    def step(self, x: Array, output: Array, level: Array, lower: Array) -> Array:
        clean, noise = prediction.unmix(x, output, self.alpha(level), self.prediction)
        return prediction.mix(clean, noise, self.alpha(lower))

    def move(self, x: Array, clean: Array, level: Array, lower: Array) -> Array:
        alpha = self.alpha(level)
        noise = (x - jnp.sqrt(alpha) * clean) * jax.lax.rsqrt(1 - alpha)
        return prediction.mix(clean, noise, self.alpha(lower))

    def sigmas(self, levels: np.ndarray) -> np.ndarray:
        alphas = np.append(self._alphas(), 1.0)[np.asarray(levels, int)].astype(np.float64)
        with np.errstate(divide="ignore"):  # the noisiest level of zero terminal signal
            return np.sqrt((1 - alphas) / alphas)

    def noised(self, clean: Array, noise: Array, level: Array) -> Array:
        return prediction.mix(clean, noise, self.alpha(level))

    def target(self, clean: Array, noise: Array, level: Array) -> Array:
        if self.prediction == "epsilon":
            return noise
        return prediction.velocity(clean, noise, self.alpha(level))

    def weight(self, level: Array) -> Array:
        return prediction.min_snr_weight(self.alpha(level), self.prediction)

    def alpha(self, level: Array) -> Array:
        """Share of the signal's power at times 0..999, all of it at CLEAN."""
        level = jnp.asarray(level)
        known = jnp.asarray(self._alphas())[jnp.maximum(level, 0).astype(jnp.int32)]
        return jnp.where(level < 0, 1.0, known)

    def _alphas(self) -> np.ndarray:
        return schedules.alphas_cumprod(betas=self.betas, zero_terminal=self.zero_terminal)
