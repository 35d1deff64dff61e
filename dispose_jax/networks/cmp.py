"""Conditional motion propagation: guidance vectors at a few points of a picture become a dense
flow.

Zhan et al. 2019 (CVPR), as DisPose uses it: ResNet-50 with dilation, a shallow encoder of the
guidance, a decoder with skips from the picture, and a flow that is the mean of a distribution over
bins. What depends on the picture alone is computed once (`encode_image`), however many guidance
maps follow (`complete`). Names are those of the released checkpoint.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike

from dispose_jax.networks.layers import conv
from dispose_jax.networks.norms import BatchNorm
from dispose_jax.ops import resize

Array = jax.Array

# The norms hold stored averages and so rescale nothing in a network that starts from noise.
_keep_variance = variance_scaling(2, "fan_in", "normal")
_DILATIONS = (1, 1, 2, 4)  # of the four ResNet stages, whose strides are 1, 2, 1, 1
_STRIDES = (1, 2, 1, 1)
_POOLS = (1, 2, 4, 8)  # scales of the decoder below the 1/8 map
_SPARSE_WIDTH = 16  # of the sparse encoder's first convolution


class ImageFeatures(NamedTuple):
    """What CMP knows of a picture (b, h, w, 3)."""

    deep: Array  # (b, h/8, w/8, image_features)
    skip4: Array  # (b, h/4, w/4, decoder_width)
    skip2: Array  # (b, h/2, w/2, decoder_width / 4)


class DilatedBottleneck(nn.Module):
    """1x1, 3x3 (stride and dilation here), 1x1 to four times the width, plus the input."""

    width: int
    stride: int
    dilation: int
    downsample: bool  # project the input to the shape of the output
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, h, w, c) -> (b, h / stride, w / stride, 4 width)."""

        def convolved(x, features, kernel, name, norm, **options):
            x = conv(
                features,
                kernel,
                use_bias=False,
                kernel_init=_keep_variance,
                name=name,
                dtype=self.dtype,
                **options,
            )(x)
            return BatchNorm(name=norm, dtype=self.dtype)(x)

        y = nn.relu(convolved(x, self.width, 1, "conv1", "bn1"))
        spread = {"stride": self.stride, "dilation": self.dilation}
        y = nn.relu(convolved(y, self.width, 3, "conv2", "bn2", **spread))
        y = convolved(y, 4 * self.width, 1, "conv3", "bn3")
        if self.downsample:
            x = convolved(x, 4 * self.width, 1, "downsample_0", "downsample_1", stride=self.stride)
        return nn.relu(x + y)


class ImageEncoder(nn.Module):
    """ResNet whose last two stages are dilated instead of strided."""

    layers: tuple[int, int, int, int]
    features: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, Array, Array]:
        """image (b, h, w, 3) -> maps at 1/8 (features), 1/4 (4 width), 1/2 (width)."""
        x = conv(
            self.width,
            7,
            stride=2,
            use_bias=False,
            kernel_init=_keep_variance,
            name="conv1",
            dtype=self.dtype,
        )(image)
        half = nn.relu(BatchNorm(name="bn1", dtype=self.dtype)(x))
        x = nn.max_pool(half, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        stages = []
        for i, (depth, stride, dilation) in enumerate(zip(self.layers, _STRIDES, _DILATIONS)):
            for j in range(depth):
                # Unlike torchvision's dilated ResNet, the first block of a stage has the full
                # dilation.
                x = DilatedBottleneck(
                    self.width * 2**i,
                    stride if j == 0 else 1,
                    dilation,
                    downsample=j == 0,
                    dtype=self.dtype,
                    name=f"layer{i + 1}_{j}",
                )(x)
            stages.append(x)
        deep = conv(self.features, 1, name="conv5", dtype=self.dtype)(x)
        return deep, stages[0], half


class SparseEncoder(nn.Module):
    """Guidance vectors and their mask to a feature at 1/8."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, h, w, 4): vectors, mask twice -> (b, h/8, w/8, features)."""
        options = {"kernel_init": _keep_variance, "dtype": self.dtype}
        x = conv(_SPARSE_WIDTH, 5, stride=2, name="features_0", **options)(x)
        x = nn.relu(BatchNorm(name="features_1", dtype=self.dtype)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = conv(self.features, 3, name="features_4", **options)(x)
        x = nn.relu(BatchNorm(name="features_5", dtype=self.dtype)(x))
        return nn.avg_pool(x, (2, 2), (2, 2))


class ConvStack(nn.Module):
    """3x3 convolutions, each with norm and ReLU, after a max pooling."""

    widths: tuple[int, ...]
    pool: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, h, w, c) -> (b, h // pool, w // pool, widths[-1])."""
        first = 0  # places in the original's list of layers, where pooling and ReLUs count
        if self.pool > 1:
            x = nn.max_pool(x, (self.pool, self.pool), (self.pool, self.pool))
            first = 1
        for i, width in enumerate(self.widths):
            place = first + 3 * i
            x = conv(width, kernel_init=_keep_variance, name=str(place), dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(name=str(place + 1), dtype=self.dtype)(x))
        return x


class MotionDecoder(nn.Module):
    """Four scales of the 1/8 map, fused, then brought to 1/2 with the picture's skips."""

    width: int
    bins: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        w = self.width
        stack = lambda *widths, pool=1: ConvStack(widths, pool, self.dtype)
        for pool in _POOLS:
            setattr(self, f"decoder{pool}", stack(w, w, w, pool=pool))
        self.fusion8 = stack(2 * w)
        self.skipconv4 = stack(w)
        self.fusion4 = stack(w)
        self.skipconv2 = stack(w // 4)
        self.fusion2 = stack(w // 2)
        self.head = conv(2 * self.bins, 1, dtype=self.dtype)

    def skips(self, quarter: Array, half: Array) -> tuple[Array, Array]:
        """The picture's maps at 1/4 and 1/2, as the decoder wants them."""
        return self.skipconv4(quarter), self.skipconv2(half)

    def __call__(self, x: Array, skip4: Array, skip2: Array) -> Array:
        """x (b, h/8, w/8, c), skips at 1/4 and 1/2 -> logits (b, h/2, w/2, 2 bins)."""
        up = resize.bilinear_align_corners
        scales = [getattr(self, f"decoder{pool}")(x) for pool in _POOLS]
        x = jnp.concatenate([up(scale, x.shape[1:3]) for scale in scales], -1)
        x = self.fusion8(x)
        x = self.fusion4(jnp.concatenate([up(x, skip4.shape[1:3]), skip4], -1))
        x = self.fusion2(jnp.concatenate([up(x, skip2.shape[1:3]), skip2], -1))
        return self.head(x)


class CMP(nn.Module):
    """The whole network. Its sides should be multiples of 64 (the 1/8 map is pooled by 8).

    bins: per axis of the flow, over -fmax..fmax pixels, which no flow can exceed. base_width and
    decoder_width are 64 and 128 in the released network.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    image_features: int = 256
    sparse_features: int = 16
    bins: int = 99
    fmax: float = 50
    base_width: int = 64
    decoder_width: int = 128
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.image_encoder = ImageEncoder(
            self.layers, self.image_features, self.base_width, self.dtype
        )
        self.flow_encoder = SparseEncoder(self.sparse_features, self.dtype)
        self.flow_decoder = MotionDecoder(self.decoder_width, self.bins, self.dtype)

    def encode_image(self, image: Array) -> ImageFeatures:
        """All that depends on the picture alone: image (b, h, w, 3) in -1..1.

        The mean and deviation in the released configuration are not applied: the original never
        does.
        """
        deep, quarter, half = self.image_encoder(image)
        return ImageFeatures(deep, *self.flow_decoder.skips(quarter, half))

    def logits(self, features: ImageFeatures, sparse: Array, mask: Array) -> Array:
        """Scores of the bins, x then y, at half size: (n, h/2, w/2, 2 bins).

        features of n pictures or of one, sparse (n, h, w, 2) vectors in pixels where mask (n, h, w)
        is true or 1, and zero elsewhere.
        """
        n = sparse.shape[0]
        features = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), features)
        mask = jnp.broadcast_to(mask[..., None], sparse.shape)
        guidance = jnp.concatenate([sparse, mask.astype(sparse.dtype)], -1)
        x = jnp.concatenate([features.deep, self.flow_encoder(guidance)], -1)
        return self.flow_decoder(x, features.skip4, features.skip2)

    def complete(self, features: ImageFeatures, sparse: Array, mask: Array) -> Array:
        """Dense flow (n, h, w, 2) float32 in pixels; arguments as for `logits`."""
        flow = expected_flow(self.logits(features, sparse, mask), self.fmax)
        return resize.bilinear_align_corners(flow, sparse.shape[1:3])

    def __call__(self, image: Array, sparse: Array, mask: Array) -> Array:
        """image (b, h, w, 3) in -1..1, sparse (b, h, w, 2), mask (b, h, w) -> flow (b, h, w, 2)."""
        return self.complete(self.encode_image(image), sparse, mask)


def expected_flow(logits: Array, fmax: float) -> Array:
    """Mean of the bins' centres under their softmax: (..., 2 bins) -> (..., 2) float32 in
    pixels."""
    bins = logits.shape[-1] // 2
    step = 2 * fmax / bins
    centres = jnp.arange(bins, dtype=jnp.float32) * step - fmax + step / 2
    logits = logits.astype(jnp.float32).reshape(*logits.shape[:-1], 2, bins)  # x, y apart
    return jnp.sum(jax.nn.softmax(logits, -1) * centres, -1)
