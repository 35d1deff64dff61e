"""Clips whose arrays take gigabytes, a piece after another: same parameters, same result.

Decoding makes the largest arrays of all: one with 256 channels at full resolution takes 4.5 GiB for
8 frames of 576 x 1024 in float32. Layers of pictures see one frame at a time, layers over frames
some rows of every frame, and only what lies between two such passes is held for the whole clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.layers import GroupNorm, group_mean, temporal_conv
from dispose_jax.networks.resnet import AlphaBlender, ResnetBlock, Upsample

Array = jax.Array

# Bytes of an array from which on it is worth a loop. Below, a device has room for a handful of
# them, and a loop's smaller operations would only leave part of it idle.
_LARGE = 2**30
_PIECES = 16  # of the rows of a clip


def is_large(*shape: int, dtype: DTypeLike) -> bool:
    """Whether an array of one clip is so large that it should go through its layers in pieces."""
    return math.prod(shape) * jnp.dtype(dtype).itemsize >= _LARGE


def one_by_one(step: Callable, module: nn.Module, *arrays: Array) -> Array:
    """step(module, *pieces) for each index of the arrays' first axis in turn, results stacked.

    step may make submodules of `module`, the same ones for every piece, and close over arrays but
    not over modules: those it needs are fields of `module`.
    """
    body = lambda module, _, pieces: (None, step(module, *pieces))
    loop = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    return loop(module, None, arrays)[1]


def by_frame(step: Callable, module: nn.Module, x: Array) -> Array:
    """step(module, frame) for every frame of x (b, f, h, w, c) -> (b, f, *what it gives of a clip).

    A frame is (b, h, w, c): clips stay together, they may lie on several devices. See `one_by_one`.
    """
    return one_by_one(step, module, x.swapaxes(0, 1)).swapaxes(0, 1)


class PiecewiseResnetBlock(nn.Module):
    """`SpatioTemporalResnetBlock` as the decoder has it (merge "switched", no time embedding).

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

        x = by_frame(spatial, self, x)
        b, f, h, w, c = x.shape
        num_pieces = math.gcd(h, _PIECES)
        pieces = x.reshape(b, f, num_pieces, -1, c).transpose(2, 0, 1, 3, 4)
        mixer = AlphaBlender(switched=True, name="time_mixer")
        mixed = _MixedOverFrames(
            self.temporal_epsilon, self.groups, mixer, self.dtype, name="temporal_res_block"
        )(pieces)
        return mixed.transpose(1, 2, 0, 3, 4).reshape(b, f, h, w, c)


class _MixedOverFrames(nn.Module):
    """`TemporalResnetBlock` and the blend of its result with its input, by `mixer`."""

    epsilon: float
    groups: int
    mixer: AlphaBlender
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (n, b, f, s, c), n pieces with some positions of all frames -> the same shape."""
        channels = x.shape[-1]

        def layer(self: _MixedOverFrames, i: int, x: Array, moments: tuple[Array, Array]) -> Array:
            norm = GroupNorm(self.epsilon, self.groups, dtype=self.dtype, name=f"norm{i}")
            conv = temporal_conv(channels, name=f"conv{i}", dtype=self.dtype)
            return conv(nn.silu(norm(x, moments)))

        outer = moments_of_pieces(x, self.groups)
        y = one_by_one(lambda self, x: layer(self, 1, x, outer), self, x)
        inner = moments_of_pieces(y, self.groups)

        def blended(self: _MixedOverFrames, x: Array, y: Array) -> Array:
            return self.mixer(x, x + layer(self, 2, y, inner))

        return one_by_one(blended, self, x, y)


def moments_of_pieces(x: Array, groups: int) -> tuple[Array, Array]:
    """Mean and variance of groups of channels over all pieces of a clip, as GroupNorm takes them.

    x (n, b, f, s, c) -> two float32 arrays (b, 1, 1, c).
    """
    mean = jax.lax.map(lambda x: group_mean(x.astype(jnp.float32), groups, 2), x).mean(0)
    squares = lambda x: group_mean(jnp.square(x.astype(jnp.float32) - mean), groups, 2)
    return mean, jax.lax.map(squares, x).mean(0)
