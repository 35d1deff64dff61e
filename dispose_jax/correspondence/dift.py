"""Diffusion features of the reference picture (DIFT: Tang et al. 2023; paper section 4.2).

The picture's latent is noised to one fixed time and shown to Stable Diffusion's U-Net with a fixed
prompt; what an up block gives, averaged over several draws of the noise, describes every point by
what it is rather than by how it looks. Reading the features at keypoints is keypoints.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from dispose_jax.diffusion import schedules
from dispose_jax.networks.clip import TextTransformer
from dispose_jax.networks.unet import UNet
from dispose_jax.networks.vae import VAE, sample_latents
from dispose_jax.types import Array, Params

START, END, LENGTH = 49406, 49407, 77  # of CLIP's vocabulary, and the tokens of every prompt

# The words of the two prompts of the released pipeline, so that no tokenizer is needed for them.
KNOWN_PROMPTS = {"photo of a human": (1125, 539, 320, 2751), "": ()}

NETWORKS = ("dift_vae", "dift_unet", "dift_text_encoder")  # names of those that features need


@dataclass(frozen=True)
class Dift:
    """The networks and numbers that features are read with; defaults are those of the release.

    params of every function here: a dict of NETWORKS, of "dift_vae" without its decoder. Raises
    ValueError for numbers that do not fit each other.
    """

    vae: VAE
    unet: UNet
    text_encoder: TextTransformer
    tokens: tuple[int, ...]  # of the prompt, from token_ids
    timestep: int = 261  # of 1000: how far the latent is noised
    up_block: int = 1  # whose output is read, after its upsampling: 1 gives 1/16 of the picture
    ensemble: int = 8  # draws of the noise
    chunk: int = 8  # draws in memory at a time
    latent_scale: float = 0.18215

    def __post_init__(self):
        if self.chunk < 1 or self.ensemble < 1 or self.ensemble % self.chunk:
            raise ValueError(
                f"dift: {self.ensemble} draws do not divide into chunks of {self.chunk}; "
                "choose a chunk that divides the ensemble"
            )
        if max(self.tokens) >= self.text_encoder.vocabulary:
            raise ValueError(
                f"dift: token {max(self.tokens)} is beyond the text encoder's vocabulary of "
                f"{self.text_encoder.vocabulary}; give tokens below it"
            )
        if not 0 <= self.timestep < len(schedules.alphas_cumprod()):
            raise ValueError(
                f"dift: timestep {self.timestep} is not a training step; choose one in 0..999"
            )
        if not 0 <= self.up_block < len(self.unet.channels):
            raise ValueError(
                f"dift: up block {self.up_block} does not exist; "
                f"the U-Net has {len(self.unet.channels)}, counted from 0"
            )

    @property
    def features(self) -> int:
        """Channels of what is read: 1280 of Stable Diffusion 1.5."""
        return self.unet.channels[::-1][self.up_block]

    def latent_size(self, image: Array) -> tuple[int, int]:
        """Rows and columns of the latents of a picture (h, w, 3)."""
        factor = 2 ** (len(self.vae.widths) - 1)
        return image.shape[0] // factor, image.shape[1] // factor


@jax.named_scope("DIFT")
def features(dift: Dift, params: Params, image: Array, key: Array) -> Array:
    """Features of a picture: image (h, w, 3) float in -1..1 -> (h/16, w/16, channels) float32.

    1/16 and 1280 channels with up block 1 of Stable Diffusion 1.5; h, w multiples of 64. The
    original draws from an unseeded generator, here the key decides.
    """
    shape = (2, dift.ensemble, *dift.latent_size(image), dift.vae.latent_channels)
    posterior_noise, noise = jax.random.normal(key, shape)
    noised = noised_latents(dift, params, image, posterior_noise, noise)
    return read(dift, params, noised, prompt_context(dift, params))


def prompt_context(dift: Dift, params: Params) -> Array:
    """The prompt's vectors, (1, l, d)."""
    tokens = jnp.asarray(dift.tokens, jnp.int32)[None]
    return dift.text_encoder.apply({"params": params["dift_text_encoder"]}, tokens)


def noised_latents(
    dift: Dift, params: Params, image: Array, posterior_noise: Array, noise: Array
) -> Array:
    """Draws of the picture's latent at the noise level of dift.timestep.

    image (h, w, 3) in -1..1; both noises standard normal (ensemble, h/8, w/8, c), the first for the
    draw from the autoencoder's posterior -> (ensemble, h/8, w/8, c) float32.
    """
    mean, logvar = dift.vae.apply({"params": params["dift_vae"]}, image, method="encode")
    latents = dift.latent_scale * sample_latents(mean, logvar, posterior_noise)
    signal = schedules.alphas_cumprod()[dift.timestep]
    return jnp.sqrt(signal) * latents + jnp.sqrt(1 - signal) * noise


def read(dift: Dift, params: Params, noised: Array, context: Array) -> Array:
    """The up block's output, averaged over the draws, float32.

    noised (ensemble, h/8, w/8, c), context (1, l, d) -> (h/16, w/16, channels) with up block 1.
    """
    time = jnp.full((1,), dift.timestep)

    def one_chunk(part: Array) -> Array:
        # To a picture model frames are independent pictures, so draws run as frames of one clip.
        output = dift.unet.apply(
            {"params": params["dift_unet"]}, part[None], time, context, stop_after_up=dift.up_block
        )
        return output[0].astype(jnp.float32).mean(0)

    if dift.chunk == dift.ensemble:
        return one_chunk(noised)
    parts = noised.reshape(-1, dift.chunk, *noised.shape[1:])  # chunks, draws, h, w, c
    return jax.lax.map(one_chunk, parts).mean(0)


def token_ids(prompt: str, tokenizer: str | Path | None = None) -> tuple[int, ...]:
    """Token ids of a prompt, padded to 77 with the end token as Stable Diffusion does (host code).

    tokenizer: the `tokenizer` folder of a Stable Diffusion 1.5 download, needed for any prompt but
    the released two. Raises ValueError if it is missing or the prompt is too long.
    """
    words = KNOWN_PROMPTS.get(prompt)
    if words is None:
        words = _tokenize(prompt, tokenizer)
    if len(words) > LENGTH - 2:
        raise ValueError(
            f"dift: prompt of {len(words)} tokens, at most {LENGTH - 2} fit: {prompt!r}"
        )
    return (START, *words, *(END,) * (LENGTH - 1 - len(words)))


def _tokenize(prompt: str, folder: str | Path | None) -> tuple[int, ...]:
    """Ids of the words alone, from CLIP's own tokenizer."""
    if folder is None or not (Path(folder) / "vocab.json").is_file():
        raise ValueError(
            f"dift: prompt {prompt!r} needs CLIP's tokenizer, and there is no vocab.json in "
            f"{folder}; give the tokenizer folder of Stable Diffusion 1.5, or use one of the "
            f"prompts {sorted(KNOWN_PROMPTS)}"
        )
    try:
        from transformers import CLIPTokenizer
    except ImportError:
        raise ValueError(
            f"dift: prompt {prompt!r} needs the package transformers: pip install transformers, "
            f"or use one of {sorted(KNOWN_PROMPTS)}"
        ) from None
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    return tuple(tokenizer(prompt, add_special_tokens=False).input_ids)
