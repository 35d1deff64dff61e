"""What makes a picture model a video model: SVD's spatio-temporal transformer, AnimateDiff's motion
module.

Activations stay (b, f, s, c): all but the attention over frames acts on single tokens. Names are
the released ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from dispose_jax.networks.attention import Attention, TransformerBlock, is_constant
from dispose_jax.networks.by_tokens import by_tokens
from dispose_jax.networks.layers import FeedForward, TimeMLP, dense, sinusoid, spread
from dispose_jax.networks.norms import GroupNorm, layer_norm
from dispose_jax.networks.resnet import AlphaBlender

Array = jax.Array


def context_of_positions(values: Array, positions: int, group: int) -> Array:
    """Which clip's cross-attention vector each position adds: (b, c) -> (b, 1, positions or 1, c).

    The released weights were made with rows of (position, clip) order read as (clip, position):
    within a group of adjacent rows, member g reads at position s the vector of member (g *
    positions + s) mod group. A group of one reads its own. Raises ValueError if the rows do not
    divide into groups.
    """
    b, c = values.shape
    group = min(group, b)
    if b % group:
        raise ValueError(f"{b} batch rows do not divide into context groups of {group}")
    if group == 1:
        return values[:, None, None]
    member = np.arange(group * positions).reshape(group, positions) % group
    grouped = values.reshape(b // group, group, c)[:, member]  # b/group group positions c
    return grouped.reshape(b, 1, positions, c)


class TemporalTransformerBlock(nn.Module):
    """Feed-forward, attention over frames, cross-attention, feed-forward; no mask, no position
    code."""

    heads: int
    context_group: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """x (b, f, s, c), context (b, l, d) -> the shape of x; l is 1 if context_group is not."""
        b, f, s, c = x.shape
        norm = lambda name: layer_norm(name=name, dtype=self.dtype)
        x = x + FeedForward(self.dtype, name="ff_in")(norm("norm_in")(x))
        y = norm("norm1")(x)
        attn1 = Attention(self.heads, between_frames=True, dtype=self.dtype, name="attn1")
        x = x + attn1(y, y)
        attn2 = Attention(self.heads, dtype=self.dtype, name="attn2")
        if is_constant(self, context):
            values = context_of_positions(attn2(None, context, c), s, self.context_group)
            x = x + spread(values, x)
        elif self.context_group == 1 or self.is_initializing():
            y = norm("norm2")(x).reshape(b, f * s, c)
            x = x + attn2(y, context).reshape(x.shape)
        else:
            raise ValueError(
                f"context_group {self.context_group} is defined for one context token, "
                f"got {context.shape[1]}; use time_context_order='per_clip'"
            )
        return x + FeedForward(self.dtype, name="ff")(norm("norm3")(x))


class SpatioTemporalTransformer(nn.Module):
    """A spatial block, then a temporal block on its result plus a frame embedding, blended.

    Source: diffusers' `TransformerSpatioTemporalModel`. context_group: see `context_of_positions`.
    """

    heads: int
    groups: int = 32
    context_group: int = 1
    spatial_only: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """x (b, f, h, w, c), context (b, l, d) -> the shape of x."""
        b, f, h, w, c = x.shape
        y = GroupNorm(1e-6, self.groups, dtype=self.dtype, name="norm")(x)
        y = dense(c, name="proj_in", dtype=self.dtype)(y.reshape(b, f, h * w, c))
        y = TransformerBlock(self.heads, self.dtype, name="transformer_blocks_0")(y, context)
        if not self.spatial_only:
            frames = sinusoid(jnp.arange(f), c).astype(self.dtype)  # index within this window
            frames = TimeMLP(4 * c, c, self.dtype, name="time_pos_embed")(frames)
            block = TemporalTransformerBlock(
                self.heads, self.context_group, self.dtype, name="temporal_transformer_blocks_0"
            )
            blend = AlphaBlender(name="time_mixer")

            def layer(block, blend, y: Array, shift: Array, context: Array) -> Array:
                return blend(y, block(y + spread(shift, y), context))

            # Which context a position reads repeats with the group, which divides every block.
            y = by_tokens(self, layer, (block, blend), y, frames[:, None], context)
        return x + dense(c, name="proj_out", dtype=self.dtype)(y).reshape(x.shape)


class MotionSizes(NamedTuple):
    """Of all motion modules of a network; the defaults are those of every release.

    groups: of their first norm, whatever the rest of the network has. positions: frames at most.
    """

    heads: int = 8
    groups: int = 32
    positions: int = 128


def position_code(positions: int, channels: int) -> np.ndarray:
    """The sinusoids that tell motion modules the frame's index, (1, positions, channels) float32.

    Channel 2 i is the sine, 2 i + 1 the cosine of index * 10000^(-2 i / channels); channels even.
    Checkpoints hold it as `pos_encoder.pe`, once for each attention.
    """
    frequencies = np.exp(np.arange(0, channels, 2) * (-math.log(10000) / channels))
    angles = np.arange(positions)[:, None] * frequencies
    code = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # positions channels/2 2
    return code.reshape(1, positions, channels).astype(np.float32)


class MotionBlock(nn.Module):
    """Two attentions over frames that are told the frames' order, and a feed-forward layer.

    Neither the context nor the time enters. positions: see MotionSizes.
    """

    heads: int
    positions: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, s, c) -> the shape of x; f <= positions."""
        f, c = x.shape[1], x.shape[3]
        norm = lambda name: layer_norm(name=name, dtype=self.dtype)
        code = jnp.asarray(position_code(self.positions, c)[:, :f, None], self.dtype)
        for i in range(2):
            y = norm(f"norms_{i}")(x) + code
            block = Attention(
                self.heads, between_frames=True, dtype=self.dtype, name=f"attention_blocks_{i}"
            )
            x = x + block(y, y)
        return x + FeedForward(self.dtype, name="ff")(norm("ff_norm")(x))


class MotionModule(nn.Module):
    """Norm, projection, one MotionBlock, projection back, residual (AnimateDiff: Guo et al. 2023).

    The last projection starts at zero, so that an untrained module leaves the pictures as they are.
    Fields: see MotionSizes.
    """

    heads: int
    groups: int
    positions: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> the shape of x; frame 0 has position 0. Raises ValueError if there
        are more frames than positions."""
        b, f, h, w, c = x.shape
        if f > self.positions:
            raise ValueError(
                f"{f} frames at once, but the motion modules know {self.positions} positions: "
                "use shorter windows or clips"
            )
        y = GroupNorm(1e-6, self.groups, dtype=self.dtype, name="norm")(x)
        y = dense(c, name="proj_in", dtype=self.dtype)(y.reshape(b, f, h * w, c))
        block = MotionBlock(self.heads, self.positions, self.dtype, name="transformer_blocks_0")
        y = by_tokens(self, lambda block, y: block(y), (block,), y)
        y = dense(c, name="proj_out", dtype=self.dtype, kernel_init=zeros)(y)
        return x + y.reshape(x.shape)


def split_motion(params: Mapping) -> tuple[dict, dict]:
    """A denoiser's parameters, any leaves -> (the picture model's, the motion modules'), nested as
    they were."""
    picture, motion = {}, {}
    for name, child in params.items():
        if name.startswith("motion_modules_"):
            motion[name] = child
        elif isinstance(child, Mapping):
            inner = split_motion(child)
            for part, values in zip((picture, motion), inner):
                if values:
                    part[name] = values
        else:
            picture[name] = child
    return picture, motion
