"""The autoencoder between pictures and latents: one encoder, a picture and a temporal decoder.

SD1.5 has the picture decoder, SVD the temporal one; the encoder is the same. Latents here are the
network's own: the factor 0.18215 between them and what is diffused belongs to the model. Names are
the released ones (`AutoencoderKL`, `AutoencoderKLTemporalDecoder`).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.layers import conv, dense, temporal_conv
from dispose_jax.networks.norms import GroupNorm
from dispose_jax.networks.piecewise import PiecewiseResnetBlock, by_frame, is_large
from dispose_jax.networks.resnet import (
    Downsample,
    ResnetBlock,
    SpatioTemporalResnetBlock,
    Upsample,
)
from dispose_jax.ops.attention import attention

Array = jax.Array

_EPSILON = 1e-6  # every norm of both autoencoders but the temporal blocks'
_TEMPORAL_EPSILON = 1e-5


class VAE(nn.Module):
    """Pictures <-> latents, one grid halving per width but the last.

    temporal: the SVD decoder, whose blocks also look along the frames they are given together; it
    comes without the SD1.5 decoder's `post_quant_conv`. Only what a method uses gets parameters:
    initialised through `encode` there is no decoder (diffusion features need the encoder only).
    """

    widths: tuple[int, ...]
    latent_channels: int
    layers: int
    groups: int
    temporal: bool
    dtype: DTypeLike = jnp.float32

    def setup(self):
        parts = (self.widths, self.layers, self.groups)
        self.encoder = PictureEncoder(*parts, 2 * self.latent_channels, self.dtype)
        self.quant_conv = conv(2 * self.latent_channels, 1, dtype=self.dtype)
        self.decoder = PictureDecoder(*parts, self.temporal, self.dtype)
        if not self.temporal:
            self.post_quant_conv = conv(self.latent_channels, 1, dtype=self.dtype)

    def encode(self, images: Array) -> tuple[Array, Array]:
        """images (..., h, w, 3) in -1..1 -> mean, log variance of the latents (..., h/8, w/8, c).

        The 8 is for four widths; sides are multiples of it. Both results are float32, the log
        variance is clipped to -30..20, as released.
        """
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Array, in_pieces: bool = False) -> Array:
        """latents (b, f, h/8, w/8, c) -> images (b, f, h, w, 3) float32, -1..1 but for overshoot.

        The temporal decoder takes its f frames as one clip: norms and convolutions run over all of
        them, so the result depends on how a longer video was cut (released: 8 frames at a time,
        without overlap). in_pieces: clips whose arrays take gigabytes go through it bit by bit,
        with the same result; not for gradients, which would hold more than of the whole.
        """
        if not self.temporal:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents, in_pieces).astype(jnp.float32)

    def __call__(self, images: Array) -> Array:
        """images (b, f, h, w, 3) -> their reconstruction from the mean latents, the same shape."""
        return self.decode(self.encode(images)[0])


class PictureEncoder(nn.Module):
    """Picture -> latent moments before the last 1 x 1 convolution."""

    widths: tuple[int, ...]
    layers: int
    groups: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., h, w, 3) -> (..., h/8, w/8, features) with four widths."""
        x = conv(self.widths[0], name="conv_in", dtype=self.dtype)(x)
        for i, width in enumerate(self.widths):
            is_last = i == len(self.widths) - 1
            x = PictureDownBlock(
                width,
                self.layers,
                self.groups,
                downsample=not is_last,
                dtype=self.dtype,
                name=f"down_blocks_{i}",
            )(x)
        x = PictureMidBlock(
            self.widths[-1], self.groups, temporal=False, dtype=self.dtype, name="mid_block"
        )(x)
        norm = GroupNorm(_EPSILON, self.groups, dtype=self.dtype, name="conv_norm_out")
        return conv(self.features, name="conv_out", dtype=self.dtype)(nn.silu(norm(x)))


class PictureDecoder(nn.Module):
    """Latent -> picture; with `temporal` residual blocks that mix the frames of a clip."""

    widths: tuple[int, ...]
    layers: int
    groups: int
    temporal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, in_pieces: bool) -> Array:
        """x (b, f, h/8, w/8, c) -> (b, f, h, w, 3) with four widths; in_pieces: see VAE.decode."""
        x = conv(self.widths[-1], name="conv_in", dtype=self.dtype)(x)
        x = PictureMidBlock(
            self.widths[-1], self.groups, self.temporal, self.dtype, name="mid_block"
        )(x)
        enlarge = None
        for i, width in enumerate(reversed(self.widths)):
            x, enlarge = PictureUpBlock(
                width,
                self.layers + 1,
                self.groups,
                self.temporal,
                upsample=i < len(self.widths) - 1,
                dtype=self.dtype,
                name=f"up_blocks_{i}",
            )(x, enlarge, in_pieces and self.temporal)

        def last(self: PictureDecoder, x: Array) -> Array:
            norm = GroupNorm(_EPSILON, self.groups, dtype=self.dtype, name="conv_norm_out")
            return conv(3, name="conv_out", dtype=self.dtype)(nn.silu(norm(x)))

        if in_pieces and self.temporal and is_large(*x.shape[1:], dtype=self.dtype):
            x = by_frame(last, self, x, *x.shape[2:4], 3)
        else:
            x = last(self, x)
        if self.temporal:
            b, f, h, w, c = x.shape
            flat = x.reshape(b, f, h * w, c)  # positions are one axis for the temporal convolution
            x = temporal_conv(c, name="time_conv_out", dtype=self.dtype)(flat).reshape(x.shape)
        return x


class PictureDownBlock(nn.Module):
    """Residual blocks, then half the grid."""

    features: int
    layers: int
    groups: int
    downsample: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., h, w, c) -> (..., h/2, w/2, features), or h, w without downsampling."""
        for i in range(self.layers):
            x = ResnetBlock(self.features, _EPSILON, self.groups, self.dtype, name=f"resnets_{i}")(
                x
            )
        if not self.downsample:
            return x
        return Downsample(
            self.features, right_bottom=True, dtype=self.dtype, name="downsamplers_0"
        )(x)


class PictureUpBlock(nn.Module):
    """The last block's upsampling, then residual blocks.

    Its own upsampling is left to the block after it: of a large clip, one frame at a time is
    enlarged and goes through the next layers, so that the result never exists for all frames.
    """

    features: int
    layers: int
    groups: int
    temporal: bool
    upsample: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, enlarge: Upsample | None, in_pieces: bool
    ) -> tuple[Array, Upsample | None]:
        """x (b, f, h, w, c) -> ((b, f, 2h, 2w, features) or, where enlarge is None, h, w; the
        upsampling that comes next, None if there is none)."""
        for i in range(self.layers):
            f, h, w, c = x.shape[1:]
            cells = f * h * w * (1 if enlarge is None else 4)
            if in_pieces and is_large(cells, max(c, self.features), dtype=self.dtype):
                x = PiecewiseResnetBlock(
                    self.features,
                    epsilon=_EPSILON,
                    temporal_epsilon=_TEMPORAL_EPSILON,
                    groups=self.groups,
                    enlarge=enlarge,
                    dtype=self.dtype,
                    name=f"resnets_{i}",
                )(x)
            else:
                x = x if enlarge is None else enlarge(x)
                x = _resnet(self, self.features, f"resnets_{i}")(x)
            enlarge = None
        if not self.upsample:
            return x, None
        return x, Upsample(self.features, dtype=self.dtype, name="upsamplers_0")


class PictureMidBlock(nn.Module):
    """Residual block, attention within each picture, residual block."""

    features: int
    groups: int
    temporal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., h, w, features), (b, f, h, w, features) if temporal -> the same shape."""
        x = _resnet(self, self.features, "resnets_0")(x)
        x = PictureAttention(self.groups, self.dtype, name="attentions_0")(x)
        return _resnet(self, self.features, "resnets_1")(x)


class PictureAttention(nn.Module):
    """Attention among all positions of a picture, one head over all channels.

    Unlike the U-Nets' it has biases on q, k, v, its own norm and its own residual. The 9216
    positions of a 576 x 1024 picture go through in blocks of queries, one picture at a time
    (`ops.attention`).
    """

    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., h, w, c) -> the same shape."""
        *_, h, w, c = x.shape
        y = GroupNorm(_EPSILON, self.groups, dtype=self.dtype, name="group_norm")(x)
        tokens = y.reshape(-1, h * w, 1, c)  # pictures, positions, one head
        q, k, v = (
            dense(c, name=name, dtype=self.dtype)(tokens) for name in ("to_q", "to_k", "to_v")
        )
        y = dense(c, name="to_out_0", dtype=self.dtype)(attention(q, k, v))
        return x + y.reshape(x.shape)


def _resnet(block: PictureUpBlock | PictureMidBlock, features: int, name: str) -> nn.Module:
    """The residual block of a picture or of a clip, made inside `block`."""
    if not block.temporal:
        return ResnetBlock(features, _EPSILON, block.groups, block.dtype, name=name)
    return SpatioTemporalResnetBlock(
        features,
        epsilon=_EPSILON,
        temporal_epsilon=_TEMPORAL_EPSILON,
        switched=True,
        groups=block.groups,
        dtype=block.dtype,
        name=name,
    )


def sample_latents(mean: Array, logvar: Array, noise: Array) -> Array:
    """A draw from the encoder's Gaussian: mean + exp(logvar / 2) noise, noise standard normal."""
    return mean + jnp.exp(0.5 * logvar) * noise


def draw_latents(posterior: Array, key: Array) -> Array:
    """A draw from means and log variances side by side, (..., 2 c) -> (..., c) float32."""
    mean, logvar = jnp.split(posterior.astype(jnp.float32), 2, axis=-1)
    return sample_latents(mean, logvar, jax.random.normal(key, mean.shape))
