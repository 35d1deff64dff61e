"""I3D: the Inception network over clips whose logits FVD is measured in (Carreira and Zisserman
2017; Unterthiner et al. 2018).

Names are those of the PyTorch port that every FVD program loads. The same weights run with two
epsilons in the wild: 1e-3 (the TensorFlow original, DisCo) and 1e-5 (TATS, VideoGPT).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dispose_jax.networks.evaluation.layers import conv3d, max_pool, same_sides
from dispose_jax.networks.norms import BatchNorm

Array = jax.Array

# Widths of the branches: 1x1; 1x1 then 3x3x3; 1x1 then 3x3x3; pool then 1x1.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOL_BEFORE = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def _pool(x: Array, window: Sequence[int], strides: Sequence[int]) -> Array:
    return max_pool(x, window, strides, same_sides(x.shape[1:4], window, strides))


class Unit(nn.Module):
    """Convolution, norm, ReLU."""

    features: int
    kernel: int = 1
    stride: int = 1
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> (b, f', h', w', features), axes divided by the stride."""
        kernel, strides = (self.kernel,) * 3, (self.stride,) * 3
        sides = same_sides(x.shape[1:4], kernel, strides)
        x = conv3d(self.features, kernel, strides, sides, name="conv3d")(x)
        return nn.relu(BatchNorm(self.epsilon, name="bn")(x))


class Mixed(nn.Module):
    """Four branches side by side."""

    widths: tuple[int, int, int, int, int, int]
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> (b, f, h, w, the branches' widths together)."""

        def unit(i: int, kernel: int, name: str) -> Unit:
            return Unit(self.widths[i], kernel, epsilon=self.epsilon, name=name)

        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        branches = [
            unit(0, 1, "b0")(x),
            unit(2, 3, "b1b")(unit(1, 1, "b1a")(x)),
            unit(4, 3, "b2b")(unit(3, 1, "b2a")(x)),
            unit(5, 1, "b3b")(pooled),
        ]
        return jnp.concatenate(branches, -1)


class Logits(nn.Module):
    """The classifier: a 1x1x1 convolution of the released file."""

    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, 1, 1, c) -> (b, f, 1, 1, classes)."""
        return conv3d(
            self.classes, (1, 1, 1), (1, 1, 1), [(0, 0)] * 3, name="conv3d", use_bias=True
        )(x)


class I3D(nn.Module):
    """Clips to the logits of Kinetics' classes.

    pooled_frames: of the average before the classifier, 2 in the original and 1 in DisCo; the same
    for 16 frames.
    """

    classes: int = 400
    epsilon: float = 1e-3
    pooled_frames: int = 1

    @nn.compact
    def __call__(self, clips: Array) -> Array:
        """clips (b, f, 224, 224, 3) in -1..1, f >= 9 -> logits (b, classes)."""

        def unit(features: int, kernel: int, stride: int, name: str) -> Unit:
            return Unit(features, kernel, stride, self.epsilon, name=name)

        x = unit(64, 7, 2, "Conv3d_1a_7x7")(clips)
        x = _pool(x, *_POOL_BEFORE["Conv3d_2b_1x1"])
        x = unit(64, 1, 1, "Conv3d_2b_1x1")(x)
        x = unit(192, 3, 1, "Conv3d_2c_3x3")(x)
        for name, widths in _MIXED.items():
            if name in _POOL_BEFORE:
                x = _pool(x, *_POOL_BEFORE[name])
            x = Mixed(widths, self.epsilon, name=name)(x)
        x = nn.avg_pool(x, (self.pooled_frames, 7, 7), (1, 1, 1))
        x = Logits(self.classes, name="logits")(x)
        return x.mean(1)[:, 0, 0]  # over time; one position is left
