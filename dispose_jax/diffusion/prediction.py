"""From a network's output to the clean latent and back.

Variance-exploding form (sigma = noise level): the network sees x / sqrt(sigma^2 + 1) and predicts
v; with sigma_data = 1 these are EDM's coefficients (Karras et al. 2022, table 1), as Stable Video
Diffusion uses them. Variance-preserving form (alpha = share of the signal's power): the network
sees x itself and predicts v or the noise, as Stable Diffusion and its descendants do.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def scale_input(x: Array, sigma: Array) -> Array:
    """What the network sees: unit variance. x of any shape, sigma broadcastable to it."""
    return x * jax.lax.rsqrt(jnp.square(sigma) + 1)


def time_of(sigma: Array) -> Array:
    """The time that the network is told: a quarter of the logarithm of sigma."""
    return 0.25 * jnp.log(sigma)


def clean_from_v(x: Array, v: Array, sigma: Array) -> Array:
    """The clean latent that a v-prediction stands for; x is the noised latent, not the scaled
    one."""
    power = jnp.square(sigma) + 1
    return x / power - v * (sigma * jax.lax.rsqrt(power))


def add_noise(clean: Array, noise: Array, sigma: Array) -> Array:
    """The noised latent: clean, noise of one shape, sigma broadcastable to it."""
    return clean + sigma * noise


def v_target(clean: Array, noise: Array, sigma: Array) -> Array:
    """What the network should have predicted from clean + sigma noise, in the same shape.

    Its plain mean square error is EDM's weighted error of the clean latent: the weight
    (1 + sigma^2) / sigma^2 and the network's coefficient cancel (Karras et al. 2022, eq. 8).
    """
    return (noise - sigma * clean) * jax.lax.rsqrt(jnp.square(sigma) + 1)


def mix(clean: Array, noise: Array, alpha: Array) -> Array:
    """The noised latent of the variance-preserving form; alpha 0..1, broadcastable."""
    return jnp.sqrt(alpha) * clean + jnp.sqrt(1 - alpha) * noise


def velocity(clean: Array, noise: Array, alpha: Array) -> Array:
    """v of the variance-preserving form (Salimans and Ho 2022): what turns `mix` further."""
    return jnp.sqrt(alpha) * noise - jnp.sqrt(1 - alpha) * clean


def unmix(x: Array, output: Array, alpha: Array, kind: str) -> tuple[Array, Array]:
    """(clean, noise) that a network's output stands for; kind: "v" or "epsilon"."""
    signal, rest = jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
    if kind == "epsilon":
        return (x - rest * output) / signal, output
    return signal * x - rest * output, signal * output + rest * x


def min_snr_weight(alpha: Array, kind: str, gamma: float = 5.0) -> Array:
    """Weight of the square error, at most 1 (Hang et al. 2023): min(snr, gamma) / snr.

    For v the ratio counts one more, as MusePose trains: else no weight would be left at alpha 0.
    """
    snr = alpha / (1 - alpha) + (kind == "v")
    return jnp.minimum(snr, gamma) / snr
