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


def conv3d(
    features: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    sides: Sides,
    *,
    name: str,
    use_bias: bool = False,
) -> nn.Conv:
    """Convolution over frames, rows and columns: (b, f, h, w, in) -> (b, f', h', w', features)."""
    return nn.Conv(
        features,
        tuple(kernel),
        strides=tuple(strides),
        padding=tuple(sides),
        use_bias=use_bias,
        kernel_init=torch_kernel,
        name=name,
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
