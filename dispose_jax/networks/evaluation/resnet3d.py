"""3D ResNet-50 trained on Kinetics (Hara et al. 2018): the features of FID-VID, which the paper
calls FID-FVD. Names are the released ones.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from dispose_jax.networks.evaluation.layers import Conv3D, conv3d, max_pool
from dispose_jax.networks.layers import dense
from dispose_jax.networks.norms import BatchNorm

Array = jax.Array

_BLOCKS = (3, 4, 6, 3)
_WIDTHS = (64, 128, 256, 512)
_GROWTH = 4  # a block's output is so many times as wide as its inner convolutions


def _conv(features: int, kernel: int, stride: int, name: str) -> Conv3D:
    side = kernel // 2
    return conv3d(features, (kernel,) * 3, (stride,) * 3, [(side, side)] * 3, name=name)


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions plus the input, projected where the shape changes."""

    width: int
    stride: int
    projects: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, f, h, w, c) -> (b, f / stride, h / stride, w / stride, 4 width)."""
        y = nn.relu(BatchNorm(name="bn1")(_conv(self.width, 1, 1, "conv1")(x)))
        y = nn.relu(BatchNorm(name="bn2")(_conv(self.width, 3, self.stride, "conv2")(y)))
        y = BatchNorm(name="bn3")(_conv(_GROWTH * self.width, 1, 1, "conv3")(y))
        if self.projects:
            x = _conv(_GROWTH * self.width, 1, self.stride, "downsample_0")(x)
            x = BatchNorm(name="downsample_1")(x)
        return nn.relu(x + y)


class ResNet3D(nn.Module):
    """Clips of 16 frames to features, and to the logits of the released classifier."""

    classes: int = 400

    @nn.compact
    def __call__(self, clips: Array) -> tuple[Array, Array]:
        """clips (b, 16, 112, 112, 3), grey levels minus their mean -> features (b, 2048), logits
        (b, classes)."""
        x = conv3d(64, (7, 7, 7), (1, 2, 2), [(3, 3)] * 3, name="conv1")(clips)
        x = nn.relu(BatchNorm(name="bn1")(x))
        x = max_pool(x, (3, 3, 3), (2, 2, 2), [(1, 1)] * 3)
        for i, (count, width) in enumerate(zip(_BLOCKS, _WIDTHS)):
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                x = Bottleneck(width, stride, j == 0, name=f"layer{i + 1}_{j}")(x)
        features = x.mean((1, 2, 3))  # (1, 4, 4) cells are left of 16 x 112 x 112
        return features, dense(self.classes, name="fc")(features)
