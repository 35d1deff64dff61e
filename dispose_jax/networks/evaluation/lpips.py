"""LPIPS v0.1: a distance of pictures in the features of a classifier (Zhang et al. 2018).

A trunk (AlexNet or VGG16, torchvision's names) and five learned heads (the names of the package
`lpips`) are two networks, since they are published in two files.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dispose_jax.networks.evaluation.layers import max_pool
from dispose_jax.networks.layers import conv, dense

Array = jax.Array

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Layer(NamedTuple):
    """A convolution with its ReLU, and what surrounds it. index: its number in torchvision."""

    index: int
    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool_before: int = 0  # size of a max pool of stride 2
    is_tap: bool = True  # whether LPIPS compares its output


def _vgg() -> tuple[Layer, ...]:
    """VGG-16's convolutions, numbered as torchvision does."""
    layers, index = [], 0
    for stage, (features, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        for i in range(count):
            pool = 2 if stage > 0 and i == 0 else 0
            layers.append(Layer(index, features, pool_before=pool, is_tap=i == count - 1))
            index += 2  # its ReLU has a number too
        index += 1  # and so has the pool
    return tuple(layers)


TRUNKS = {
    "alex": (
        Layer(0, 64, 11, 4, 2),
        Layer(3, 192, 5, 1, 2, pool_before=3),
        Layer(6, 384, pool_before=3),
        Layer(8, 256),
        Layer(10, 256),
    ),
    "vgg": _vgg(),
}


class Trunk(nn.Module):
    """Pictures to the five maps that are compared. kind: "alex" or "vgg"."""

    kind: str

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        """x (n, h, w, 3) from `scaled` -> five maps (n, h', w', c), finest first."""
        taps = []
        for layer in TRUNKS[self.kind]:
            if size := layer.pool_before:
                x = max_pool(x, (size, size), (2, 2), ((0, 0), (0, 0)))
            x = conv(
                layer.features,
                layer.kernel,
                layer.stride,
                padding=layer.padding,
                name=f"features_{layer.index}",
            )(x)
            x = nn.relu(x)
            if layer.is_tap:
                taps.append(x)
        return tuple(taps)


class Heads(nn.Module):
    """What each channel's difference counts for; published weights are not negative."""

    @nn.compact
    def __call__(self, ours: tuple[Array, ...], theirs: tuple[Array, ...]) -> Array:
        """Maps of a trunk for two sets of n pictures -> (5, n) spatial means, whose sum over the
        maps is the distance."""
        found = []
        for i, (one, other) in enumerate(zip(ours, theirs)):
            # A head is linear and has no bias: the spatial mean may come first.
            difference = jnp.square(_unit(one) - _unit(other)).mean((1, 2))
            found.append(Head(name=f"lin{i}")(difference)[:, 0])
        return jnp.stack(found)


class Head(nn.Module):
    """One linear layer, nested once more than needed because the published keys are."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (n, c) -> (n, 1)."""
        return dense(1, use_bias=False, name="model_1")(x)


def scaled(pictures: Array, *, published_misuse: bool = False) -> Array:
    """Pictures (n, h, w, 3) in 0..255 as a trunk wants them, float32.

    published_misuse: leave them in 0..1 where -1..1 is expected, as DisCo's evaluation does.
    """
    x = pictures.astype(jnp.float32) / 255
    x = x if published_misuse else 2 * x - 1
    return (x - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)


def _unit(x: Array) -> Array:
    """Features of length one."""
    return x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + 1e-10)
