"""Clips whose arrays take gigabytes, a piece after another: same parameters, same result.

Decoding makes the largest arrays of all: one with 256 channels at full resolution takes 4.5 GiB for
8 frames of 576 x 1024 in float32. Layers of pictures see one frame at a time, layers over frames
some rows of every frame, and only what lies between two such passes is held for the whole clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.layers import temporal_conv
from dispose_jax.networks.norms import GroupNorm, group_mean
from dispose_jax.networks.resnet import AlphaBlender, ResnetBlock, Upsample

Array = jax.Array

# Bytes of an array from which on it is worth a loop. Below, a device has room for a handful of
# them, and a loop's smaller operations would only leave part of it idle.
_LARGE = 2**30
_PIECES = 16  # of the rows of a clip


def is_large(*shape: int, dtype: DTypeLike) -> bool:
    """Whether an array of one clip is so large that it should go through its layers in pieces."""
    return math.prod(shape) * jnp.dtype(dtype).itemsize >= _LARGE


def in_turn(
    step: Callable, module: nn.Module, into: Array, *arrays: Array, axis: int, size: int = 1
) -> Array:
    """step(module, old, *pieces) for each `size` indices of an axis in turn, written over `into`.

    old and pieces are parts of `into` and the arrays; what step gives takes old's place, so that no
    more than these arrays exist. step may make submodules of `module`, the same ones for every
    piece, and close over arrays but not over modules: those it needs are fields of `module`.
    """
    piece = lambda x, i: jax.lax.dynamic_slice_in_dim(x, i * size, size, axis)

    def body(module: nn.Module, into: Array, i: Array) -> tuple[Array, None]:
        new = step(module, *(piece(x, i) for x in (into, *arrays)))
        return jax.lax.dynamic_update_slice_in_dim(into, new, i * size, axis), None

    loop = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    return loop(module, into, jnp.arange(into.shape[axis] // size))[0]


def blank(x: Array, *shape: int) -> Array:
    """An array (b, *shape) to be written over, of x's type; x (b, ..).

    Made of x's first value: a constant would not have to wait for x, and compilers make constants
    of all loops of a program at once, gigabytes that nothing needs yet.
    """
    first = x.reshape(len(x), -1)[:, 0]
    return jnp.broadcast_to(first.reshape(-1, *[1] * len(shape)), (len(x), *shape))


def by_frame(step: Callable, module: nn.Module, x: Array, *shape: int) -> Array:
    """step(module, frame) for every frame of x (b, f, h, w, c) -> (b, f, *shape).

    A frame is (b, 1, h, w, c) and step gives (b, 1, *shape): clips stay together, they may lie on
    several devices. See `in_turn`.
    """
    alone = lambda module, _, frame: step(module, frame)
    return in_turn(alone, module, blank(x, x.shape[1], *shape), x, axis=1)


class PiecewiseResnetBlock(nn.Module):
    """`SpatioTemporalResnetBlock` as the decoder has it (`switched`, no time embedding).

    enlarge: another module's upsampling, applied to each frame before; None for none.
    """

    features: int
    epsilon: float
    temporal_epsilon: float
    groups: int
    enlarge: Upsample | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> (b, f, h, w, features), or (b, f, 2h, 2w, features) if enlarged."""

        def spatial(self: PiecewiseResnetBlock, x: Array) -> Array:
            x = x if self.enlarge is None else self.enlarge(x)
            return ResnetBlock(
                self.features, self.epsilon, self.groups, self.dtype, name="spatial_res_block"
            )(x)

        scale = 1 if self.enlarge is None else 2
        x = by_frame(spatial, self, x, scale * x.shape[2], scale * x.shape[3], self.features)
        mixer = AlphaBlender(switched=True, name="time_mixer")
        return _MixedOverFrames(
            self.temporal_epsilon, self.groups, mixer, self.dtype, name="temporal_res_block"
        )(x)


class _MixedOverFrames(nn.Module):
    """`TemporalResnetBlock` and the blend of its result with its input, by `mixer`."""

    epsilon: float
    groups: int
    mixer: AlphaBlender
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> the same shape, some rows of every frame at a time."""
        height, channels = x.shape[2], x.shape[-1]
        rows = height // math.gcd(height, _PIECES)
        by_rows = partial(in_turn, axis=2, size=rows)

        def layer(self: _MixedOverFrames, i: int, x: Array, moments: tuple[Array, Array]) -> Array:
            norm = GroupNorm(self.epsilon, self.groups, dtype=self.dtype, name=f"norm{i}")
            conv = temporal_conv(channels, name=f"conv{i}", dtype=self.dtype)
            flat = x.reshape(*x.shape[:2], -1, channels)  # b f positions c
            return conv(nn.silu(norm(flat, moments))).reshape(x.shape)

        outer = moments_of_rows(x, rows, self.groups)
        y = by_rows(lambda self, _, x: layer(self, 1, x, outer), self, blank(x, *x.shape[1:]), x)
        inner = moments_of_rows(y, rows, self.groups)

        def blended(self: _MixedOverFrames, y: Array, x: Array) -> Array:
            return self.mixer(x, x + layer(self, 2, y, inner))

        return by_rows(blended, self, y, x)


def moments_of_rows(x: Array, rows: int, groups: int) -> tuple[Array, Array]:
    """Mean and variance of groups of channels over a clip, as GroupNorm takes them, `rows` rows at
    a time.

    x (b, f, h, w, c) -> two float32 arrays (b, 1, 1, c).
    """

    def mean_of(function: Callable) -> Array:
        def piece(i: Array) -> Array:
            part = jax.lax.dynamic_slice_in_dim(x, i * rows, rows, 2)
            flat = part.reshape(*part.shape[:2], -1, part.shape[-1])  # b f positions c
            return group_mean(function(flat.astype(jnp.float32)), groups, 2)

        return jax.lax.map(piece, jnp.arange(x.shape[2] // rows)).mean(0)

    mean = mean_of(lambda part: part)
    return mean, mean_of(lambda part: jnp.square(part - mean))
