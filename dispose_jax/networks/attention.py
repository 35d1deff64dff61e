"""Multi-head attention and the transformer of picture models.

Cross-attention to a single token is a constant: the softmax over one key is 1, so every query gets
the same vector, whatever it is. That path skips norm, queries and keys; `one_token_values` computes
the vectors once per clip, and `apply` takes them as the read-only collection "cross". Names are the
released ones.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.layers import FeedForward, GroupNorm, dense, layer_norm
from dispose_jax.ops import attention as ops

Array = jax.Array


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values without bias, heads are contiguous channels.

    implementation: a name of `ops.attention`.
    """

    heads: int
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array | None, context: Array, features: int | None = None) -> Array:
        """x (b, n, c), context (b, m, d) -> (b, n, c).

        x None means "the same for any query", valid for one token of context: -> (b, features).
        """
        features = x.shape[-1] if x is not None else features
        project = lambda name: dense(features, name=name, dtype=self.dtype, use_bias=False)
        if x is None:
            if self.has_variable("cross", "value"):
                return self.get_variable("cross", "value").astype(self.dtype)
            out = project("to_v")(context[:, 0])
        else:
            split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)  # b n heads c/heads
            q, k, v = project("to_q")(x), project("to_k")(context), project("to_v")(context)
            out = ops.attention(
                split(q), split(k), split(v), implementation=self.implementation
            ).reshape(x.shape)
        return dense(features, name="to_out_0", dtype=self.dtype)(out)


def one_token_values(params: dict, context: Array, dtype: DTypeLike) -> dict:
    """The constant output of every one-token cross-attention of a network: the collection "cross".

    params: the network's parameters; context (b, 1, d). Returns a dict with the modules' nesting
    and leaves (b, c). Exact: the same two products as in the network, with operands of type dtype.
    """
    values = {}
    for name, child in params.items():
        if name == "attn2":
            v = context[:, 0].astype(dtype) @ child["to_v"]["kernel"].astype(dtype)
            out = child["to_out_0"]
            values[name] = {"value": v @ out["kernel"].astype(dtype) + out["bias"].astype(dtype)}
        elif isinstance(child, dict):
            if inner := one_token_values(child, context, dtype):
                values[name] = inner
    return values


def is_constant(module: nn.Module, context: Array) -> bool:
    """Whether cross-attention to this context is the same for every query (not while making
    parameters)."""
    return context.shape[1] == 1 and not module.is_initializing()


class TransformerBlock(nn.Module):
    """Self-attention over positions, cross-attention to the context, feed-forward
    (`BasicTransformerBlock`)."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """x (b, f, s, c) with frames attending to themselves only, context (b, l, d) -> the shape
        of x."""
        b, f, s, c = x.shape
        norm = lambda name: layer_norm(name=name, dtype=self.dtype)
        y = norm("norm1")(x).reshape(b * f, s, c)  # frames are batch rows here
        y = Attention(self.heads, dtype=self.dtype, name="attn1")(y, y)
        x = x + y.reshape(x.shape)
        attn2 = Attention(self.heads, dtype=self.dtype, name="attn2")
        if is_constant(self, context):
            x = x + attn2(None, context, c)[:, None, None]
        else:
            y = norm("norm2")(x).reshape(b, f * s, c)
            x = x + attn2(y, context).reshape(x.shape)
        return x + FeedForward(self.dtype, name="ff")(norm("norm3")(x))


class SpatialTransformer(nn.Module):
    """Norm, projection, one transformer block, projection back, residual (`Transformer2DModel`).

    The released projections are 1 x 1 convolutions, which are linear layers on channels.
    """

    heads: int
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """x (b, f, h, w, c), context (b, l, d) -> the shape of x."""
        b, f, h, w, c = x.shape
        y = GroupNorm(1e-6, self.groups, dtype=self.dtype, name="norm")(x)
        y = dense(c, name="proj_in", dtype=self.dtype)(y.reshape(b, f, h * w, c))
        y = TransformerBlock(self.heads, self.dtype, name="transformer_blocks_0")(y, context)
        return x + dense(c, name="proj_out", dtype=self.dtype)(y).reshape(x.shape)
