"""Residual blocks: of pictures, of clips, and their blend; and the layers that halve or double a
grid.

Activations are (b, f, h, w, c) throughout; a picture model sees its frames as independent. Norm
statistics of the temporal block run over frames, height and width together. Names are the released
ones.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.by_tokens import by_tokens
from dispose_jax.networks.layers import Given, conv, dense, spread, temporal_conv
from dispose_jax.networks.norms import GroupNorm, group_moments

Array = jax.Array


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions with norms, the time embedding between them (`ResnetBlock2D`)."""

    features: int
    epsilon: float
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        """x (b, ..., h, w, c), emb (b, d) or None (then no embedding layer) -> (b, ..., h, w,
        features)."""
        y = nn.silu(GroupNorm(self.epsilon, self.groups, dtype=self.dtype, name="norm1")(x))
        y = conv(self.features, name="conv1", dtype=self.dtype)(y)
        if emb is not None:
            shift = dense(self.features, name="time_emb_proj", dtype=self.dtype)(nn.silu(emb))
            y = y + spread(jnp.expand_dims(shift, tuple(range(1, x.ndim - 1))), y)
        y = nn.silu(GroupNorm(self.epsilon, self.groups, dtype=self.dtype, name="norm2")(y))
        y = conv(self.features, name="conv2", dtype=self.dtype)(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, name="conv_shortcut", dtype=self.dtype)(x)
        return x + y


class TemporalResnetBlock(nn.Module):
    """The same block over frames: (3, 1, 1) convolutions, norms over the whole clip."""

    epsilon: float
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        """x (b, f, s, c), emb (b, d) or None -> the same shape as x."""
        y = self._layer(1, x)
        if emb is not None:
            shift = dense(x.shape[-1], name="time_emb_proj", dtype=self.dtype)(nn.silu(emb))
            y = y + spread(shift[:, None, None], y)
        return x + self._layer(2, y)

    def _layer(self, i: int, x: Array) -> Array:
        """Norm, activation, convolution number i; only the norm's moments join positions. (At once,
        a TPU's compiler brings the clip into another order for the convolution, in float32.)"""
        norm = GroupNorm(self.epsilon, self.groups, 2, self.dtype, name=f"norm{i}")
        conv = temporal_conv(x.shape[-1], name=f"conv{i}", dtype=self.dtype)
        layer = lambda norm, conv, x, moments: conv(nn.silu(norm(x, moments)))
        moments = group_moments(x, self.groups, 2)
        return by_tokens(self, layer, (norm, conv), x.astype(self.dtype), moments)


class AlphaBlender(Given, nn.Module):
    """Learned blend of the spatial and the temporal result, a = sigmoid(mix_factor).

    The U-Net and ControlNet keep a of the spatial part; the VAE decoder (`switched`) 1 - a, as
    released.
    """

    switched: bool = False

    @nn.compact
    def __call__(self, spatial: Array, temporal: Array) -> Array:
        """Two arrays of one shape -> that shape."""
        start = nn.initializers.constant(0.0 if self.switched else 0.5)
        a = jax.nn.sigmoid(self.param("mix_factor", start, (1,)).astype(jnp.float32))
        a = 1 - a if self.switched else a
        # In float32: weights rounded to bfloat16 would not add up to 1.
        mixed = a * spatial.astype(jnp.float32) + (1 - a) * temporal.astype(jnp.float32)
        return mixed.astype(spatial.dtype)


class SpatioTemporalResnetBlock(nn.Module):
    """A picture block, then a clip block on its result, blended (`SpatioTemporalResBlock`).

    switched: see AlphaBlender. spatial_only returns the picture block's result (the released
    `image_only_indicator`).
    """

    features: int
    epsilon: float
    temporal_epsilon: float
    switched: bool = False
    groups: int = 32
    spatial_only: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        """x (b, f, h, w, c), emb (b, d) or None -> (b, f, h, w, features)."""
        x = ResnetBlock(
            self.features, self.epsilon, self.groups, self.dtype, name="spatial_res_block"
        )(x, emb)
        if self.spatial_only:
            return x
        b, f, h, w, c = x.shape
        flat = x.reshape(b, f, h * w, c)  # positions are one axis for the temporal convolution
        y = TemporalResnetBlock(
            self.temporal_epsilon, self.groups, self.dtype, name="temporal_res_block"
        )(flat, emb)
        mixed = AlphaBlender(self.switched, name="time_mixer")(flat, y)
        return mixed.reshape(b, f, h, w, c)


class Downsample(nn.Module):
    """Halve the grid with a strided convolution.

    The U-Nets pad both sides; the VAE encoders pad right and bottom only (`right_bottom`), as
    released.
    """

    features: int
    right_bottom: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., h, w, c) -> (..., h/2, w/2, features)."""
        padding = ((0, 1), (0, 1)) if self.right_bottom else 1
        return conv(self.features, stride=2, padding=padding, name="conv", dtype=self.dtype)(x)


class Upsample(nn.Module):
    """Repeat every cell to the wanted grid, then a convolution."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int] | None = None) -> Array:
        """x (..., h, w, c) -> (..., *size, features); size defaults to (2h, 2w), smaller ones
        crop."""
        h, w = x.shape[-3:-1]
        x = jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
        if size is not None and size != (2 * h, 2 * w):
            # Nearest neighbours of a size of 2h - 1 are those of 2h without the last row.
            x = x[..., : size[0], : size[1], :]
        return conv(self.features, name="conv", dtype=self.dtype)(x)
