"""Vision transformers with fused projections: DINO over pictures (Caron et al. 2021), VideoMAE V2
over clips (Wang et al. 2023).

CLIP's, which are laid out another way, are in `networks.clip`; the perceptron is shared. Names are
the released ones.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.networks.clip import Perceptron
from dispose_jax.networks.layers import dense
from dispose_jax.ops import resize
from dispose_jax.ops.attention import attention

Array = jax.Array

_small_normal = nn.initializers.normal(0.02)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


class SelfAttention(nn.Module):
    """Multi-head attention, queries, keys and values from one matrix.

    key_bias: DINO has a bias on all three, VideoMAE on queries and values only, kept apart.
    """

    heads: int
    key_bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, l, c) -> the same shape; c divisible by heads."""
        b, length, c = x.shape
        qkv = dense(3 * c, use_bias=self.key_bias, name="qkv")(x)
        if not self.key_bias:
            q_bias, v_bias = (
                self.param(name, nn.initializers.zeros, (c,)) for name in ("q_bias", "v_bias")
            )
            qkv = qkv + jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        q, k, v = jnp.moveaxis(qkv.reshape(b, length, 3, self.heads, c // self.heads), 2, 0)
        x = attention(q, k, v).reshape(b, length, c)
        return dense(c, name="proj")(x)


class Block(nn.Module):
    """Self-attention and a perceptron, each after a norm and with a residual."""

    heads: int
    hidden: int
    key_bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, l, c) -> the same shape."""
        x = x + SelfAttention(self.heads, self.key_bias, name="attn")(_norm("norm1")(x))
        return x + Perceptron(self.hidden, "gelu", name="mlp")(_norm("norm2")(x))


class Patches(nn.Module):
    """Patches as tokens, in order of frames, rows, columns; what does not fill a patch is left
    out."""

    width: int
    patch: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, [f,] h, w, 3) -> (b, [f',] h', w', width), axes divided by the patch's."""
        return nn.Conv(self.width, self.patch, strides=self.patch, padding="VALID", name="proj")(x)


class DINO(nn.Module):
    """ViT-B/16's class token; its defaults are the released sizes."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    patch: int = 16
    grid: int = 14  # of the positions, which are stretched for pictures of another shape

    @nn.compact
    def __call__(self, pictures: Array) -> Array:
        """pictures (b, h, w, 3), ImageNet's mean and deviation taken out -> (b, width)."""
        x = Patches(self.width, (self.patch,) * 2, name="patch_embed")(pictures)
        b, rows, columns, width = x.shape
        x = x.reshape(b, rows * columns, width)
        first = self.param("cls_token", _small_normal, (1, 1, width))
        table = self.param("pos_embed", _small_normal, (1, 1 + self.grid**2, width))
        x = jnp.concatenate([jnp.broadcast_to(first, (b, 1, width)), x], axis=1)
        x = x + stretched_positions(table, self.grid, self.patch, pictures.shape[1:3])
        for i in range(self.layers):
            x = Block(self.heads, self.hidden, key_bias=True, name=f"blocks_{i}")(x)
        return _norm("norm")(x[:, 0])


def stretched_positions(table: Array, grid: int, patch: int, picture: tuple[int, int]) -> Array:
    """DINO's positions (1, 1 + grid * grid, c) for pictures of another size: (1, 1 + rows *
    columns, c), cubic.

    picture: height and width in pixels, of which rows and columns are whole patches. The released
    code adds 0.1 to their numbers against rounding, and that factor also sets where samples are
    taken, even where the numbers are the table's own unless the picture is a square; here alike.
    """
    size = tuple(side // patch for side in picture)
    if size == (grid, grid) and picture[0] == picture[1]:
        return table
    c = table.shape[-1]
    cells = table[0, 1:].reshape(grid, grid, c)
    matrices = []
    for wanted in size:
        factor = np.float32((wanted + 0.1) / grid)
        source = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) / factor - np.float32(0.5)
        matrices.append(resize.cubic_matrix(source, grid))
    cells = resize.apply_matrices(cells, *matrices)
    return jnp.concatenate([table[:, :1], cells.reshape(1, -1, c)], axis=1)


class VideoMAE(nn.Module):
    """VideoMAE V2's ViT-g over 16 frames: mean of the tokens, normed; and the released classifier's
    logits."""

    width: int = 1408
    layers: int = 40
    heads: int = 16
    hidden: int = 6144
    patch: int = 14
    frames_per_patch: int = 2
    classes: int = 174

    @nn.compact
    def __call__(self, clips: Array) -> tuple[Array, Array]:
        """clips (b, f, h, w, 3) in 0..1 -> features (b, width), logits (b, classes)."""
        patch = (self.frames_per_patch, self.patch, self.patch)
        x = Patches(self.width, patch, name="patch_embed")(clips)
        x = x.reshape(x.shape[0], -1, self.width)  # frames, rows, columns are one axis
        x = x + sinusoid_table(x.shape[1], self.width)
        for i in range(self.layers):
            x = Block(self.heads, self.hidden, key_bias=False, name=f"blocks_{i}")(x)
        features = _norm("fc_norm")(x.mean(1))
        return features, dense(self.classes, name="head")(features)


def sinusoid_table(length: int, width: int) -> np.ndarray:
    """VideoMAE's fixed positions (length, width) float32: sines at even channels, cosines at odd,
    of position / 10000^(2 (j // 2) / width)."""
    channel = np.arange(width)
    angle = np.arange(length)[:, None] / np.power(10000, 2 * (channel // 2) / width)
    return np.where(channel % 2, np.cos(angle), np.sin(angle)).astype(np.float32)


class AestheticHead(nn.Module):
    """LAION's linear score of a CLIP L/14 embedding of length one, from about 1 to 10."""

    @nn.compact
    def __call__(self, embeddings: Array) -> Array:
        """embeddings (b, 768) of length one -> scores (b,)."""
        return dense(1, name="linear")(embeddings)[:, 0]
