"""CLIP's vision and text transformers, and the preparation of their inputs.

The vision tower (ViT-H/14 in SVD) gives the one-token context of the denoiser; the text tower
(ViT-L/14's, in SD1.5) the 77 tokens that diffusion features are read with. Names are the released
ones (`transformers`).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dispose_jax.networks.layers import dense, quick_gelu
from dispose_jax.networks.norms import layer_norm
from dispose_jax.ops import filters, resize
from dispose_jax.ops.attention import attention

Array = jax.Array

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures CLIP was trained on, red first
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_ACTIVATIONS = {"gelu": lambda x: nn.gelu(x, approximate=False), "quick_gelu": quick_gelu}
_small_normal = nn.initializers.normal(0.02)


def clip_pixels(images: Array, size: int = 224, method: str = "blur") -> Array:
    """What the vision tower reads: images (..., h, w, 3) in -1..1 -> (..., size, size, 3) float32.

    Made square, then normalised with CLIP's mean and deviation. method: "blur" stretches to a
    square, blurred first where that shrinks; cubic overshoot is not clipped (diffusers' SVD
    pipeline, whose resize also keeps the corner pixels' centres). "stretch" does with Pillow's
    bicubic filter (MusePose's sampling). "crop" scales the short side so and cuts out the middle
    (its training, by transformers' image processor).
    """
    x = jnp.asarray(images, jnp.float32)
    h, w = images.shape[-3:-1]
    if method == "blur":
        x = resize.apply_matrices(x, *(_shrink_matrix(size, length) for length in (h, w)))
    elif method == "stretch":
        x = resize.bicubic_antialiased(x, (size, size), -1, 1)
    elif method == "crop":
        rows, columns = (int(size * side / min(h, w)) for side in (h, w))
        top, left = (rows - size) // 2, (columns - size) // 2
        x = resize.bicubic_antialiased(x, (rows, columns), -1, 1)
        x = x[..., top : top + size, left : left + size, :]
    else:
        raise ValueError(f"CLIP pixels by {method!r}: expected 'blur', 'stretch' or 'crop'")
    return ((x + 1) / 2 - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)


def _shrink_matrix(out: int, length: int) -> np.ndarray:
    """Gaussian blur, then cubic interpolation of one axis: (out, length)."""
    sigma = max((length / out - 1) / 2, 0.001)  # enlarging: an impulse, the axis stays as it is
    kernel = int(max(4 * sigma, 3)) | 1
    blur = filters.filter_matrix(filters.gaussian(kernel, sigma), length)
    return resize.cubic_matrix(resize.aligned(out, length), length) @ blur


class VisionTransformer(nn.Module):
    """Picture -> embedding: a pre-norm transformer over patches and a class token, projected.

    activation: "gelu" (exact, ViT-H) or "quick_gelu" (OpenAI's ViT-L and ViT-B).
    """

    width: int
    layers: int
    heads: int
    hidden: int
    projection: int
    patch: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """pixels (b, h, w, 3) normalised by `clip_pixels` -> embeddings (b, projection) float32.

        h and w are those the position embedding was made for (224).
        """
        x = VisionModel(
            self.width,
            self.layers,
            self.heads,
            self.hidden,
            self.patch,
            self.activation,
            self.dtype,
            name="vision_model",
        )(pixels)
        x = dense(self.projection, use_bias=False, name="visual_projection", dtype=self.dtype)(x)
        return x.astype(jnp.float32)


class TextTransformer(nn.Module):
    """Token ids -> one vector per token: a causal pre-norm transformer, no attention mask.

    positions: the longest sequence. Wrapped once more than needed because the released keys are.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """tokens (b, l) int, l <= positions -> (b, l, width) float32, after the final norm."""
        return TextModel(
            self.vocabulary,
            self.width,
            self.layers,
            self.heads,
            self.hidden,
            self.positions,
            self.activation,
            self.dtype,
            name="text_model",
        )(tokens).astype(jnp.float32)


class VisionModel(nn.Module):
    """The vision tower before its projection."""

    width: int
    layers: int
    heads: int
    hidden: int
    patch: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """pixels (b, h, w, 3) -> normed class token (b, width)."""
        x = VisionEmbeddings(self.width, self.patch, self.dtype, name="embeddings")(pixels)
        x = layer_norm(name="pre_layrnorm", dtype=self.dtype)(x)  # spelt so in every release
        x = Transformer(
            self.layers,
            self.heads,
            self.hidden,
            self.activation,
            causal=False,
            dtype=self.dtype,
            name="encoder",
        )(x)
        return layer_norm(name="post_layernorm", dtype=self.dtype)(x[:, 0])


class TextModel(nn.Module):
    """The text tower."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """tokens (b, l) int -> (b, l, width)."""
        x = TextEmbeddings(
            self.vocabulary, self.width, self.positions, self.dtype, name="embeddings"
        )(tokens)
        x = Transformer(
            self.layers,
            self.heads,
            self.hidden,
            self.activation,
            causal=True,
            dtype=self.dtype,
            name="encoder",
        )(x)
        return layer_norm(name="final_layer_norm", dtype=self.dtype)(x)


class VisionEmbeddings(nn.Module):
    """Patches as tokens after a learned class token, plus learned positions."""

    width: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """pixels (b, h, w, 3) -> (b, 1 + h/patch * w/patch, width)."""
        size = (self.patch, self.patch)
        x = nn.Conv(
            self.width,
            size,
            strides=size,
            padding="VALID",
            use_bias=False,
            kernel_init=_small_normal,
            dtype=self.dtype,
            name="patch_embedding",
        )(pixels)
        b, rows, columns, width = x.shape
        x = x.reshape(b, rows * columns, width)
        first = self.param("class_embedding", _small_normal, (width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (b, 1, width)), x], axis=1)
        length = x.shape[1]
        positions = _embedding(length, width, "position_embedding")
        return x + positions(jnp.arange(length)).astype(x.dtype)


class TextEmbeddings(nn.Module):
    """Token vectors plus learned positions."""

    vocabulary: int
    width: int
    positions: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """tokens (b, l) int -> (b, l, width)."""
        x = _embedding(self.vocabulary, self.width, "token_embedding")(tokens).astype(self.dtype)
        positions = _embedding(self.positions, self.width, "position_embedding")
        return x + positions(jnp.arange(tokens.shape[1])).astype(self.dtype)


class Transformer(nn.Module):
    """Pre-norm transformer layers."""

    layers: int
    heads: int
    hidden: int
    activation: str
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, l, c) -> the same shape."""
        for i in range(self.layers):
            x = TransformerLayer(
                self.heads,
                self.hidden,
                self.activation,
                self.causal,
                self.dtype,
                name=f"layers_{i}",
            )(x)
        return x


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each after a norm and with a residual."""

    heads: int
    hidden: int
    activation: str
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, l, c) -> the same shape."""
        y = layer_norm(name="layer_norm1", dtype=self.dtype)(x)
        x = x + ClipSelfAttention(self.heads, self.causal, self.dtype, name="self_attn")(y)
        y = layer_norm(name="layer_norm2", dtype=self.dtype)(x)
        return x + Perceptron(self.hidden, self.activation, self.dtype, name="mlp")(y)


class ClipSelfAttention(nn.Module):
    """Multi-head attention with biases on all four projections."""

    heads: int
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, l, c) -> the same shape; c divisible by heads."""
        b, length, c = x.shape
        split = (b, length, self.heads, c // self.heads)
        q, k, v = (
            dense(c, name=name, dtype=self.dtype)(x).reshape(split)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        x = attention(q, k, v, causal=self.causal).reshape(b, length, c)
        return dense(c, name="out_proj", dtype=self.dtype)(x)


class Perceptron(nn.Module):
    """Two linear layers."""

    hidden: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, l, c) -> the same shape."""
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"CLIP activation {self.activation!r}: expected one of {sorted(_ACTIVATIONS)}"
            )
        y = _ACTIVATIONS[self.activation](dense(self.hidden, name="fc1", dtype=self.dtype)(x))
        return dense(x.shape[-1], name="fc2", dtype=self.dtype)(y)


def _embedding(rows: int, width: int, name: str) -> nn.Embed:
    """A table whose rows are read in its own type, to be cast when they are read: so the gradient
    of a row that is read often, as that of the prompt's padding is, is summed in that type."""
    return nn.Embed(rows, width, embedding_init=_small_normal, dtype=None, name=name)
