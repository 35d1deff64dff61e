"""What the evaluation networks share: convolutions over clips, and pooling that is fast on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp

from dispose_jax.networks.layers import torch_kernel

Array = jax.Array
Sides = Sequence[tuple[int, int]]  # what is added before and after each axis


def same_sides(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Sides:
    """TensorFlow's SAME padding of each axis, the odd one after: I3D was made with it."""
    sides = []
    for size, k, s in zip(sizes, kernel, strides):
        total = max(k - (size % s or s), 0)
        sides.append((total // 2, total - total // 2))
    return sides


class Conv3D(nn.Module):
    """Convolution over frames, rows and columns, as one over rows and columns of stacked frames.

    The frames that a kernel sees become channels: on CPUs XLA's convolution of two axes is twice as
    fast as its convolution of three. sides: zeros before and after each axis.
    """

    features: int
    size: tuple[int, int, int]
    strides: tuple[int, int, int]
    sides: Sides
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> (b, f', h', w', features)."""
        b, c, (taps, rows, columns) = x.shape[0], x.shape[-1], self.size
        kernel = self.param("kernel", torch_kernel, (*self.size, c, self.features))
        x = jnp.pad(x, [(0, 0), self.sides[0], (0, 0), (0, 0), (0, 0)])
        stride = self.strides[0]
        count = (x.shape[1] - taps) // stride + 1
        views = [
            jax.lax.slice_in_dim(x, i, i + stride * (count - 1) + 1, stride, axis=1)
            for i in range(taps)
        ]
        x = jnp.concatenate(views, -1)
        x = x.reshape(b * count, *x.shape[2:])  # frames are pictures here
        flat = kernel.transpose(1, 2, 0, 3, 4).reshape(rows, columns, taps * c, self.features)
        x = jax.lax.conv_general_dilated(
            x,
            flat.astype(x.dtype),
            self.strides[1:],
            self.sides[1:],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,))
        return x.reshape(b, count, *x.shape[1:])


def conv3d(
    features: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    sides: Sides,
    *,
    name: str,
    use_bias: bool = False,
) -> Conv3D:
    """A `Conv3D` of any sequences."""
    return Conv3D(
        features, tuple(kernel), tuple(strides), tuple(map(tuple, sides)), use_bias, name=name
    )


def max_pool(x: Array, window: Sequence[int], strides: Sequence[int], sides: Sides) -> Array:
    """Largest value of each window of the axes before the channels, (b, ..., c), padded by zeros.

    For values that are not negative (all here follow a ReLU), where padding by minus infinity gives
    the same. One axis at a time as maxima of shifted views, which XLA vectorises on CPUs; its
    window reduction does not.
    """
    for axis, (size, stride, side) in enumerate(zip(window, strides, sides), start=1):
        if size == 1 and stride == 1:
            continue
        padded = jnp.pad(x, [side if i == axis else (0, 0) for i in range(x.ndim)])
        count = (padded.shape[axis] - size) // stride + 1
        views = [
            jax.lax.slice_in_dim(padded, i, i + stride * (count - 1) + 1, stride, axis)
            for i in range(size)
        ]
        x = reduce(jnp.maximum, views)
    return x
