"""RAFT-large: optical flow by recurrent lookups in an all-pairs correlation volume.

Teed and Deng 2020 (ECCV), in torchvision's arrangement and with its names, so that its weights fit.
What depends on the first picture alone is computed once (`encode_reference`), however many second
pictures follow (`flow_to`). Flow is in pixels, x then y, from the first picture to the second.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.layers import conv
from dispose_jax.networks.norms import BatchNorm

Array = jax.Array

SMALLEST = 128  # pixels: below, the coarsest correlation level has no extent
_LEVELS = 4  # of the correlation pyramid, each half the one before
_RADIUS = 4  # of the lookup, in cells of its level
_TAPS = 2 * _RADIUS + 1


class FirstPicture(NamedTuple):
    """What RAFT knows of the first picture (b, 8h, 8w, 3)."""

    features: Array  # (b, h, w, features), to be matched
    hidden: Array  # (b, h, w, hidden), where the recurrence starts
    context: Array  # (b, h, w, hidden), what every update sees


class RecurrentState(NamedTuple):
    """What an update changes."""

    hidden: Array  # (b, h, w, hidden)
    flow: Array  # (b, h, w, 2) float32 in cells of 8 pixels


def instance_norm(x: Array) -> Array:
    """Each picture's channels to mean 0 and deviation 1, (b, h, w, c); epsilon 1e-5, no affine."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean((1, 2), keepdims=True)
    variance = jnp.square(centred).mean((1, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)


def _normed(x: Array, norm: str, name: str, place: int, dtype: DTypeLike) -> Array:
    """The norm of an encoder; only "batch" has parameters."""
    if norm == "batch":
        return BatchNorm(name=f"{name}_{place}", dtype=dtype)(x)
    return instance_norm(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions plus the input; with a stride the input is projected."""

    width: int
    stride: int
    norm: str  # "instance" or "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (b, h, w, c) -> (b, h / stride, w / stride, width)."""

        def convolved(x: Array, kernel: int, stride: int, name: str) -> Array:
            x = conv(self.width, kernel, stride, name=f"{name}_0", dtype=self.dtype)(x)
            return _normed(x, self.norm, name, 1, self.dtype)

        y = nn.relu(convolved(x, 3, self.stride, "convnormrelu1"))
        y = nn.relu(convolved(y, 3, 1, "convnormrelu2"))
        if self.stride > 1:
            x = convolved(x, 1, self.stride, "downsample")
        return nn.relu(x + y)


class FeatureEncoder(nn.Module):
    """A picture to a map at 1/8: six residual blocks, two per width."""

    widths: tuple[int, int, int]
    features: int
    norm: str  # "instance" or "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """image (b, 8h, 8w, 3) in -1..1 -> (b, h, w, features)."""
        x = conv(self.widths[0], 7, stride=2, name="convnormrelu_0", dtype=self.dtype)(image)
        x = nn.relu(_normed(x, self.norm, "convnormrelu", 1, self.dtype))
        for i, width in enumerate(self.widths):
            for j in range(2):
                stride = 2 if i > 0 and j == 0 else 1
                block = ResidualBlock(
                    width, stride, self.norm, self.dtype, name=f"layer{i + 1}_{j}"
                )
                x = block(x)
        return conv(self.features, 1, name="conv", dtype=self.dtype)(x)


class LookupEncoder(nn.Module):
    """What the lookup says and the flow it was done at, as one feature."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, correlation: Array, flow: Array) -> Array:
        """correlation (b, h, w, 324), flow (b, h, w, 2) -> (b, h, w, hidden), the flow last."""
        layer = partial(conv, dtype=self.dtype)
        x = nn.relu(layer(2 * self.hidden, 1, name="convcorr1_0")(correlation))
        x = nn.relu(layer(3 * self.hidden // 2, 3, name="convcorr2_0")(x))
        y = nn.relu(layer(self.hidden, 7, name="convflow1_0")(flow))
        y = nn.relu(layer(self.hidden // 2, 3, name="convflow2_0")(y))
        x = nn.relu(layer(self.hidden - 2, 3, name="conv_0")(jnp.concatenate([x, y], -1)))
        return jnp.concatenate([x, flow.astype(x.dtype)], -1)


class ConvGRU(nn.Module):
    """Gated recurrent unit of convolutions along one axis of the map."""

    kernel: tuple[int, int]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array, x: Array) -> Array:
        """hidden (b, h, w, d), x (b, h, w, c) -> the next hidden state."""
        # The kernels are odd, so that "SAME" pads both sides alike.
        gate = partial(nn.Conv, hidden.shape[-1], self.kernel, padding="SAME", dtype=self.dtype)
        both = jnp.concatenate([hidden, x], -1)
        update = nn.sigmoid(gate(name="convz")(both))
        reset = nn.sigmoid(gate(name="convr")(both))
        proposal = nn.tanh(gate(name="convq")(jnp.concatenate([reset * hidden, x], -1)))
        return (1 - update) * hidden + update * proposal


class RecurrentBlock(nn.Module):
    """One GRU along the rows, then one along the columns."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array, x: Array) -> Array:
        """hidden (b, h, w, d), x (b, h, w, c) -> the next hidden state."""
        hidden = ConvGRU((1, 5), self.dtype, name="convgru1")(hidden, x)
        return ConvGRU((5, 1), self.dtype, name="convgru2")(hidden, x)


class FlowHead(nn.Module):
    """The change of the flow that a hidden state proposes."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """hidden (b, h, w, d) -> (b, h, w, 2)."""
        x = nn.relu(conv(self.width, name="conv1", dtype=self.dtype)(hidden))
        return conv(2, name="conv2", dtype=self.dtype)(x)


class UpdateBlock(nn.Module):
    """One step of the recurrence, the lookup apart."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, state: RecurrentState, context: Array, correlation: Array) -> RecurrentState:
        """correlation (b, h, w, 324) was looked up at the state's flow."""
        motion = LookupEncoder(self.hidden, self.dtype, name="motion_encoder")(
            correlation, state.flow
        )
        x = jnp.concatenate([context, motion], -1)
        hidden = RecurrentBlock(self.dtype, name="recurrent_block")(state.hidden, x)
        change = FlowHead(2 * self.hidden, self.dtype, name="flow_head")(hidden)
        return RecurrentState(hidden, state.flow + change.astype(jnp.float32))


class MaskPredictor(nn.Module):
    """Scores of the nine cells that each pixel's flow is mixed from."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """hidden (b, h, w, d) -> (b, h, w, 576)."""
        x = nn.relu(conv(self.width, name="convrelu_0", dtype=self.dtype)(hidden))
        # The factor evens out the gradients between the two heads; released weights contain it.
        return 0.25 * conv(9 * 64, 1, name="conv", dtype=self.dtype)(x)


class RAFT(nn.Module):
    """The whole network; its defaults are the released sizes."""

    widths: tuple[int, int, int] = (64, 96, 128)
    features: int = 256
    hidden: int = 128
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.feature_encoder = FeatureEncoder(self.widths, self.features, "instance", self.dtype)
        self.context_encoder = FeatureEncoder(self.widths, 2 * self.hidden, "batch", self.dtype)
        self.update_block = UpdateBlock(self.hidden, self.dtype)
        self.mask_predictor = MaskPredictor(2 * self.hidden, self.dtype)

    def encode_reference(self, image: Array) -> FirstPicture:
        """All that depends on the first picture alone: image (b, 8h, 8w, 3) in -1..1.

        Raises ValueError if a side is no multiple of 8 or shorter than 128.
        """
        height, width = image.shape[1:3]
        if height % 8 or width % 8 or min(height, width) < SMALLEST:
            raise ValueError(
                f"RAFT was given {height} x {width} pixels; both sides must be multiples of 8 and "
                f"at least {SMALLEST}: resize or pad the pictures"
            )
        hidden, context = jnp.split(self.context_encoder(image), 2, axis=-1)
        return FirstPicture(self.feature_encoder(image), nn.tanh(hidden), nn.relu(context))

    def correlate(self, reference: FirstPicture, image: Array) -> tuple[Array, ...]:
        """The correlation pyramid with a second picture (b, 8h, 8w, 3); see `pyramid`."""
        return pyramid(reference.features, self.feature_encoder(image))

    def update(
        self, state: RecurrentState, context: Array, levels: tuple[Array, ...]
    ) -> RecurrentState:
        """Look up where the flow leads, and correct it."""
        # Each update learns from its own error only.
        state = state._replace(flow=jax.lax.stop_gradient(state.flow))
        correlation = lookup(levels, grid(*state.flow.shape[1:3]) + state.flow)
        return self.update_block(state, context, correlation.astype(self.dtype))

    def upsample(self, state: RecurrentState) -> Array:
        """The state's flow at every pixel: (b, 8h, 8w, 2) float32 in pixels."""
        return upsample(state.flow, self.mask_predictor(state.hidden))

    def flow_to(self, reference: FirstPicture, image: Array, updates: int) -> Array:
        """Flow from the reference to image (b, 8h, 8w, 3): (b, 8h, 8w, 2) float32 in pixels."""
        levels = self.correlate(reference, image)
        flow = jnp.zeros((*reference.hidden.shape[:3], 2), jnp.float32)

        def body(network: RAFT, state: RecurrentState, _):
            return network.update(state, reference.context, levels), None

        scan = nn.scan(
            body, variable_broadcast="params", split_rngs={"params": False}, length=updates
        )
        state, _ = scan(self, RecurrentState(reference.hidden, flow), None)
        return self.upsample(state)

    def __call__(self, first: Array, second: Array, updates: int = 12) -> Array:
        """Pictures (b, h, w, 3) in -1..1 -> flow (b, h, w, 2) float32 in pixels."""
        return self.flow_to(self.encode_reference(first), second, updates)


def grid(height: int, width: int) -> Array:
    """Positions of the cells, (h, w, 2) float32 x, y."""
    x, y = jnp.meshgrid(jnp.arange(width), jnp.arange(height))
    return jnp.stack([x, y], -1).astype(jnp.float32)


def pyramid(first: Array, second: Array) -> tuple[Array, ...]:
    """Products of every feature of one map with every feature of another, at four scales.

    first, second (b, h, w, c) -> per level (b, h, w, h', w') float32: means over 1, 2, 4, 8 cells
    of the second map's axes, an odd last row or column dropped.
    """
    b, h, w, c = first.shape
    level = jnp.einsum("bhwc,byxc->bhwyx", first, second, preferred_element_type=jnp.float32)
    level = level.reshape(b * h * w, h, w, 1) / jnp.sqrt(jnp.float32(c))  # pictures are cells here
    levels = [level]
    for _ in range(_LEVELS - 1):
        levels.append(nn.avg_pool(levels[-1], (2, 2), (2, 2)))
    return tuple(level.reshape(b, h, w, *level.shape[1:3]) for level in levels)


def lookup(levels: tuple[Array, ...], points: Array) -> Array:
    """Correlations around points of the second map, bilinear, zero outside: (b, h, w, 324).

    levels from `pyramid`; points (b, h, w, 2) x, y in cells of the finest. Channels: level, x
    offset, y offset (the released weights want the slower offset to move x).
    """
    offsets = jnp.arange(-_RADIUS, _RADIUS + 1, dtype=jnp.float32)
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def taps(position: Array, length: int) -> Array:
        # Bilinear weights of an axis as a matrix: hats around each position. A matrix product is
        # faster than gathering on accelerators, and cells outside simply have no column.
        distance = (position[..., None] + offsets)[..., None] - jnp.arange(length)
        return jnp.maximum(1 - jnp.abs(distance), 0)  # (b, h, w, 9, length)

    found = []
    for i, level in enumerate(levels):
        x, y = jnp.moveaxis(points / 2**i, -1, 0)
        rows = product("bhwyx,bhwjy->bhwjx", level, taps(y, level.shape[3]))
        window = product("bhwjx,bhwix->bhwij", rows, taps(x, level.shape[4]))
        found.append(window.reshape(*points.shape[:3], _TAPS**2))  # x offset is the slower
    return jnp.concatenate(found, -1)


def upsample(flow: Array, scores: Array) -> Array:
    """Each of a cell's 8 x 8 pixels as a mixture of the flows of the nine cells around.

    flow (b, h, w, 2) in cells, scores (b, h, w, 576): cell above left first, then pixel row, pixel
    column -> (b, 8h, 8w, 2) float32 in pixels. Cells outside count as zero flow.
    """
    b, h, w, _ = flow.shape
    weights = jax.nn.softmax(scores.astype(jnp.float32).reshape(b, h, w, 9, 8, 8), axis=3)
    padded = jnp.pad(8 * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    fine = jnp.einsum(
        "bhwkrs,bhwkc->bhrwsc",
        weights,
        jnp.stack(around, 3),
        precision=jax.lax.Precision.HIGHEST,
    )
    return fine.reshape(b, 8 * h, 8 * w, 2)
