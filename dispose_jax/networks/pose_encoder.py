"""Skeleton pictures to features that join the U-Net after its input convolution: MimicMotion's
PoseNet and MusePose's PoseGuider."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from dispose_jax.networks.layers import PixelEncoder, conv, spread

Array = jax.Array

# Called with skeletons (..., h, w, 3) in 0..1, not -1..1. It starts from a ControlNet's encoder of
# pose pictures, hence the architecture, but for the last convolution, which starts at zero.
PoseGuider = PixelEncoder


def _he_normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal with deviation sqrt(2 / (k k in)): how PoseNet was initialised."""
    return jax.random.normal(key, shape, dtype) * math.sqrt(2 / math.prod(shape[:-1]))


class PoseNet(nn.Module):
    """Eight convolutions that halve the picture three times, a projection that starts at zero, a
    learned scale.

    widths: channels of the four resolutions. Even sides halve exactly.
    """

    features: int
    widths: tuple[int, ...] = (16, 32, 64, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, skeletons: Array) -> Array:
        """skeletons (..., h, w, 3) in -1..1 -> (..., h/8, w/8, features)."""
        first, second, third, last = self.widths
        plan = [  # (features, kernel, stride); the even indices leave room for the released SiLUs
            (3, 3, 1),
            (first, 4, 2),
            (first, 3, 1),
            (second, 4, 2),
            (second, 3, 1),
            (third, 4, 2),
            (third, 3, 1),
            (last, 3, 1),
        ]
        x = skeletons.astype(self.dtype)
        for i, (features, kernel, stride) in enumerate(plan):
            layer = conv(
                features,
                kernel,
                stride,
                padding=1,
                name=f"conv_layers_{2 * i}",
                dtype=self.dtype,
                kernel_init=_he_normal,
            )
            x = nn.silu(layer(x))
        x = conv(self.features, 1, name="final_proj", dtype=self.dtype, kernel_init=zeros)(x)
        scale = self.param("output_scale", nn.initializers.constant(2.0), (1,))
        return x * spread(scale, x)
