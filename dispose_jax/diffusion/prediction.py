"""From a network's output to the clean latent and back, in the variance-exploding form (sigma =
noise level).

The network sees x / sqrt(sigma^2 + 1) and predicts v; with sigma_data = 1 these are EDM's
coefficients (Karras et al. 2022, table 1), as Stable Video Diffusion uses them.
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
