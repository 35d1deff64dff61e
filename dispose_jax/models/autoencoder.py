"""What every base does with its autoencoder: functions that a model takes as its methods.

A model that takes them has the fields `vae`, the module, and `latent_scale`: the latents that are
diffused are this times the autoencoder's. models/protocol.py says what each is for.
"""

from __future__ import annotations

import jax.numpy as jnp

from dispose_jax.networks.vae import draw_latents
from dispose_jax.types import Array, Params


def latent_shape(model, height: int, width: int) -> tuple[int, int, int]:
    """(h, w, c) of the latents of a picture of height x width pixels."""
    return height // 8, width // 8, model.vae.latent_channels


def encode(model, params: Params, frames: Array) -> Array:
    """Frames (b, f, h, w, 3) in -1..1 -> mean and log variance side by side, (b, f, h/8, w/8, 2 c)
    float32, of the autoencoder's own latents: not scaled."""
    moments = model.vae.apply({"params": params["vae"]}, frames, method="encode")
    return jnp.concatenate(moments, axis=-1)


def latents(model, posterior: Array, key: Array) -> Array:
    """A draw of the latents that are diffused, (b, f, h/8, w/8, c), from what `encode` gives."""
    return model.latent_scale * draw_latents(posterior, key)


def decode(model, params: Params, latents: Array) -> Array:
    """Diffused latents (b, f, h/8, w/8, c) -> frames (b, f, h, w, 3), about -1..1."""
    variables = {"params": params["vae"]}
    latents = latents / model.latent_scale
    return model.vae.apply(variables, latents, in_pieces=True, method="decode")
