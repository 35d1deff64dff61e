"""What makes a picture model a video model: SVD's spatio-temporal transformer.

Activations stay (b, f, s, c): all but the attention over frames acts on single tokens, so only its
queries, keys and values are transposed. Names are the released ones.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dispose_jax.networks.attention import Attention, TransformerBlock, is_constant
from dispose_jax.networks.layers import (
    FeedForward,
    GroupNorm,
    TimeMLP,
    dense,
    layer_norm,
    sinusoid,
)
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
        # Sequences of a few frames and a batch of all positions: explicit products beat any kernel.
        rows = norm("norm1")(x).transpose(0, 2, 1, 3).reshape(b * s, f, c)
        y = Attention(self.heads, "explicit", self.dtype, name="attn1")(rows, rows)
        x = x + y.reshape(b, s, f, c).transpose(0, 2, 1, 3)
        attn2 = Attention(self.heads, dtype=self.dtype, name="attn2")
        if is_constant(self, context):
            x = x + context_of_positions(attn2(None, context, c), s, self.context_group)
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
            z = TemporalTransformerBlock(
                self.heads, self.context_group, self.dtype, name="temporal_transformer_blocks_0"
            )(y + frames[:, None], context)
            y = AlphaBlender(name="time_mixer")(y, z)
        return x + dense(c, name="proj_out", dtype=self.dtype)(y).reshape(x.shape)
