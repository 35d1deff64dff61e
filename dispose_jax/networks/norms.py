"""Normalisation layers with PyTorch's numerics, on channels-last arrays.

Statistics are float32 whatever the compute type. Parameter names are those of the released
checkpoints.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from dispose_jax.networks.layers import Given

Array = jax.Array


class LayerNorm(Given, nn.LayerNorm):
    """Flax's own, with parameters that are taken as they are; see `layer_norm`."""


def layer_norm(*, name: str, dtype: DTypeLike = jnp.float32) -> LayerNorm:
    """Layer normalisation over the last axis, (..., c) -> the same shape, with the epsilon of every
    released network, 1e-5 (Flax's own default is 1e-6)."""
    return LayerNorm(epsilon=1e-5, dtype=dtype, name=name, use_fast_variance=False)


class GroupNorm(Given, nn.Module):
    """Group normalisation over all axes between the leading ones and the channels.

    over: number of axes before the channels that share statistics: 2 for one picture (h, w), 3 for
    a clip (f, h, w). The mean is subtracted before squaring: the one-pass form loses digits in
    float32.
    """

    epsilon: float
    groups: int = 32
    over: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, moments: tuple[Array, Array] | None = None) -> Array:
        """x (..., c) -> the same shape; c divisible by groups.

        moments: means and variances, shaped as `group_mean` gives them, of a larger array that x is
        a piece of (see piecewise.py); None: x's own.
        """
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} norm groups")
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", zeros, (channels,))
        mean, variance = moments or group_moments(x, self.groups, self.over)
        rstd = jax.lax.rsqrt(variance + self.epsilon)
        centred = x.astype(jnp.float32) - mean
        return (centred * (rstd * scale.astype(jnp.float32)) + bias).astype(self.dtype)


def group_moments(x: Array, groups: int, over: int) -> tuple[Array, Array]:
    """Means and variances, float32, of what `group_mean` takes the means of."""
    wide = x.astype(jnp.float32)
    mean = group_mean(wide, groups, over)
    return mean, group_mean(jnp.square(wide - mean), groups, over)


def group_mean(x: Array, groups: int, over: int) -> Array:
    """Means over `over` axes before the channels and over each group of channels.

    x (..., c) -> x's shape with 1 for those axes, every channel having its group's mean.
    """
    mean = x.mean(tuple(range(x.ndim - 1 - over, x.ndim - 1)), keepdims=True)
    grouped = mean.reshape(*mean.shape[:-1], groups, -1).mean(-1, keepdims=True)
    wide = jnp.broadcast_to(grouped, (*grouped.shape[:-1], x.shape[-1] // groups))
    return wide.reshape(mean.shape)


class BatchNorm(Given, nn.Module):
    """Batch normalisation with stored averages: the networks that have it are frozen.

    The averages are ordinary parameters (`mean`, `var`), so that a network is one tree.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., c) -> the same shape."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape).astype(jnp.float32)
        bias = self.param("bias", zeros, shape)
        mean = self.param("mean", zeros, shape)
        var = self.param("var", nn.initializers.ones, shape).astype(jnp.float32)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(self.dtype)
