"""What picture networks minimise: the autoencoder, and the picture model that DIFT reads.

These make the small networks of `size=small`; the released ones come from Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dispose_jax.correspondence.dift import Dift, prompt_context
from dispose_jax.diffusion import schedules
from dispose_jax.networks.vae import VAE, sample_latents
from dispose_jax.ops.levels import to_float
from dispose_jax.types import Array, Batch, Params

EDGE_WEIGHT = 0.5  # of the error of neighbouring pixels' differences, against blur


@dataclass(frozen=True)
class AutoencoderLoss:
    """Absolute and square error of reconstructed clips, and a weak pull to a normal posterior.

    figure_weight: of the person's pixels, where the batch knows them; those of the face weigh
    face_weight times as much. decoder_only: the encoder learns nothing, so that whatever was
    trained on its latents stays as good as it is.
    """

    vae: VAE
    kl_weight: float
    figure_weight: float
    face_weight: float
    decoder_only: bool = False

    def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        frames = to_float(batch.frames)
        variables = {"params": params["vae"]}
        mean, logvar = self.vae.apply(variables, frames, method="encode")
        if self.decoder_only:
            mean, logvar = jax.lax.stop_gradient((mean, logvar))
        latents = sample_latents(mean, logvar, jax.random.normal(key, mean.shape))
        error = self.vae.apply(variables, latents, method="decode") - frames
        weight = jnp.ones(frames.shape[:-1])
        if batch.figure is not None:
            weight = jnp.where(batch.figure, self.figure_weight, 1.0)
        if batch.face is not None:
            weight = jnp.where(batch.face, self.face_weight, 1.0) * weight
        weight = (weight / weight.mean())[..., None]
        pixels = (weight * (jnp.abs(error) + 0.5 * jnp.square(error))).mean()
        edges = sum(jnp.abs(jnp.diff(error, axis=axis)).mean() for axis in (-3, -2))
        divergence = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
        value = pixels + EDGE_WEIGHT * edges + self.kl_weight * divergence
        return value, {"pixels": pixels, "divergence": divergence}


def with_unit_power(
    vae: VAE, params: Params, batches: Iterable[Batch], scale: float = 1.0
) -> Params:
    """The same autoencoder whose latent channels, times scale, have a mean square of 1 over some
    batches.

    Each channel's factor moves into the convolutions next to the latents, which changes no picture.
    scale: what latents are multiplied by before they are diffused, `config.model.vae.scale`.
    """
    encode = jax.jit(lambda p, x: vae.apply({"params": p}, to_float(x), method="encode")[0])
    squares = [jnp.square(encode(params, batch.frames)).mean((0, 1, 2, 3)) for batch in batches]
    power = scale * np.sqrt(np.mean(jax.device_get(squares), axis=0))
    flat = dict(traverse_util.flatten_dict(jax.device_get(params)))
    kernel, bias = flat["quant_conv", "kernel"], flat["quant_conv", "bias"]
    # Outputs are means, then log variances.
    divisor = np.concatenate([power, np.ones_like(power)])
    shift = np.concatenate([np.zeros_like(power), 2 * np.log(power)])
    flat["quant_conv", "kernel"] = kernel / divisor
    flat["quant_conv", "bias"] = bias / divisor - shift
    first = ("post_quant_conv", "kernel")  # Stable Diffusion 1.5 has it
    if first not in flat:
        first = ("decoder", "conv_in", "kernel")
    flat[first] = flat[first] * power[:, None]
    return traverse_util.unflatten_dict(flat)


def encoder_of(vae: Params) -> Params:
    """The part of an autoencoder that diffusion features need."""
    return {name: vae[name] for name in ("encoder", "quant_conv")}


@dataclass(frozen=True)
class ImageLoss:
    """Error of the noise that the picture model finds in single frames (Stable Diffusion's)."""

    dift: Dift

    def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        time_key, draw_key, noise_key = jax.random.split(key, 3)
        clean = self.latents(params, to_float(batch.frames), draw_key)
        b, f = clean.shape[:2]
        clean = clean.reshape(b * f, 1, *clean.shape[2:])  # every frame is a picture of its own
        alphas = jnp.asarray(schedules.alphas_cumprod())
        t = jax.random.randint(time_key, (b * f,), 0, len(alphas))
        signal = alphas[t].reshape(-1, 1, 1, 1, 1)
        noise = jax.random.normal(noise_key, clean.shape)
        noised = jnp.sqrt(signal) * clean + jnp.sqrt(1 - signal) * noise
        context = prompt_context(self.dift, params)
        context = jnp.repeat(context, b * f, axis=0)
        found = self.dift.unet.apply({"params": params["dift_unet"]}, noised, t, context)
        return jnp.square(found - noise).mean(), {}

    def latents(self, params: Params, frames: Array, key: Array) -> Array:
        """Latents of the frames as they are diffused; nothing here learns."""
        variables = {"params": params["dift_vae"]}
        mean, logvar = self.dift.vae.apply(variables, frames, method="encode")
        latents = sample_latents(mean, logvar, jax.random.normal(key, mean.shape))
        return jax.lax.stop_gradient(self.dift.latent_scale * latents)
