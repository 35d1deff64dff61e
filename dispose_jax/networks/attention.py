"""Multi-head attention and the transformer of picture models.

Cross-attention to a single token is a constant: the softmax over one key is 1, so every query gets
the same vector, whatever it is. That path skips norm, queries and keys; `one_token_values` computes
the vectors once per clip, and `apply` takes them as the read-only collection "cross".

Reference attention (Animate Anyone: Hu et al. 2023): every transformer block of one U-Net sees, in
its self-attention, the tokens that the same block of another has for a reference picture. The
collection "reference" carries them: blocks write it where it is mutable and read it where it is
given, and do neither otherwise. Names are the released ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.by_tokens import by_tokens
from dispose_jax.networks.layers import FeedForward, dense, spread
from dispose_jax.networks.norms import GroupNorm, layer_norm
from dispose_jax.ops import attention as ops

Array = jax.Array


class ReferenceTokens(NamedTuple):
    """Tokens that may be seen besides a block's own, and which rows see them."""

    tokens: Array  # (b, m, c)
    read: Array  # (b,) bool


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values without bias, heads are contiguous channels.

    between_frames: x and context (b, f, s, c) alike, each position attending over its frames.
    """

    heads: int
    between_frames: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array | None,
        context: Array,
        features: int | None = None,
        *,
        reference: ReferenceTokens | None = None,
    ) -> Array:
        """x (b, n, c), context (b, m, d) -> (b, n, c).

        x None means "the same for any query", valid for one token of context: -> (b, features).
        reference: more context for the rows that read it; each of its rows serves b / len(tokens)
        adjacent rows of x, whose keys and values are made once.
        """
        features = x.shape[-1] if x is not None else features
        project = lambda name: dense(features, name=name, dtype=self.dtype, use_bias=False)
        if x is None:
            if self.has_variable("cross", "value"):
                return self.get_variable("cross", "value").astype(self.dtype)
            out = project("to_v")(context[:, 0])
        else:
            split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)  # b n heads c/heads
            to_k, to_v = project("to_k"), project("to_v")
            q, k, v, lengths = project("to_q")(x), to_k(context), to_v(context), None
            if reference is not None:
                rows = len(x) // len(reference.tokens)
                tokens = reference.tokens.astype(self.dtype)
                k = jnp.concatenate([k, _repeated(to_k(tokens), rows)], axis=1)
                v = jnp.concatenate([v, _repeated(to_v(tokens), rows)], axis=1)
                read = jnp.repeat(reference.read, rows)
                lengths = context.shape[1] + tokens.shape[1] * read
            if self.between_frames:
                out = ops.between_frames(split(q), split(k), split(v)).reshape(x.shape)
            else:
                out = ops.attention(split(q), split(k), split(v), lengths=lengths).reshape(x.shape)
        return dense(features, name="to_out_0", dtype=self.dtype)(out)


def _repeated(x: Array, times: int) -> Array:
    """Every row of (b, ..) so many times in succession; its gradients are summed in float32."""
    return jnp.repeat(x.astype(jnp.float32), times, axis=0).astype(x.dtype)


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


def reference_tokens(collection: Mapping) -> dict:
    """What a pass that wrote the reference leaves: nested {block: {"tokens": (b, f s, c)}}.

    collection: "reference" of the variables that `apply(..., mutable="reference")` returns; f s are
    the positions of all frames of the pass, one reference picture is one frame.
    """
    is_written = lambda leaf: isinstance(leaf, tuple)  # Flax keeps a tuple, an entry per call
    return jax.tree.map(lambda leaf: leaf[-1], dict(collection), is_leaf=is_written)


def reference_variables(tokens: Mapping, read: Array) -> dict:
    """The collection "reference" of a pass that reads it, to be given to `apply`.

    tokens: of `reference_tokens`, leaves (b, m, c), a row for each clip of the pass; read (b,)
    bool: rows where it is False attend to their own tokens alone.
    """
    if "tokens" in tokens:
        return {"tokens": tokens["tokens"], "read": read}
    return {name: reference_variables(child, read) for name, child in tokens.items()}


class TransformerBlock(nn.Module):
    """Self-attention over positions, cross-attention to the context, feed-forward
    (`BasicTransformerBlock`).

    Self-attention takes in the reference's tokens where there are some (see the file's head).
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """x (b, f, s, c) with frames attending to themselves only, context (b, l, d) -> the shape
        of x."""
        b, f, s, c = x.shape
        norm = lambda name: layer_norm(name=name, dtype=self.dtype)
        y = norm("norm1")(x)
        reference = self._reference(y)
        y = y.reshape(b * f, s, c)  # frames are batch rows here
        y = Attention(self.heads, dtype=self.dtype, name="attn1")(y, y, reference=reference)
        x = x + y.reshape(x.shape)
        attn2 = Attention(self.heads, dtype=self.dtype, name="attn2")
        if is_constant(self, context):
            x = x + spread(attn2(None, context, c)[:, None, None], x)
        else:
            y = norm("norm2")(x).reshape(b, f * s, c)
            x = x + attn2(y, context).reshape(x.shape)
        layer = lambda norm, ff, x: x + ff(norm(x))
        return by_tokens(self, layer, (norm("norm3"), FeedForward(self.dtype, name="ff")), x)

    def _reference(self, x: Array) -> ReferenceTokens | None:
        """Write x (b, f, s, c) as tokens, or read those of this block."""
        b, f, s, c = x.shape
        if self.is_initializing():
            return None
        if self.is_mutable_collection("reference"):
            self.sow("reference", "tokens", x.reshape(b, f * s, c))
            return None
        if not self.has_variable("reference", "tokens"):
            return None
        tokens = self.get_variable("reference", "tokens")
        if len(tokens) != b:
            raise ValueError(
                f"reference tokens of {len(tokens)} clips for a batch of {b}: give each its own"
            )
        return ReferenceTokens(tokens, self.get_variable("reference", "read"))


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
