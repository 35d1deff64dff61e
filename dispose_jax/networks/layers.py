"""Small layers with PyTorch's numerics: explicit padding, epsilons and initial distributions.

Everything here works on channels-last arrays with any number of leading axes. Parameter names are
those of the released checkpoints. Norms are in norms.py.
"""

from __future__ import annotations

import math
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, variance_scaling, zeros
from jax.typing import DTypeLike

Array = jax.Array
Shape = tuple[int, ...]

# PyTorch's default for convolutions and linear layers: uniform within 1 / sqrt(fan_in).
torch_kernel = variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default bias: uniform within 1 / sqrt(fan_in), the inputs of one output value."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Given:
    """For a Flax module: a parameter that is there, in the shape it should have, is taken as it is.

    Flax traces its initialiser for its shape each time, two thirds of what tracing a network takes.
    """

    @nn.nowrap
    def param(self, name: str, init_fn: Initializer, shape: Shape, *dtype) -> Array:
        if self.has_variable("params", name):
            given = self.get_variable("params", name)
            if given.shape == tuple(shape):
                return given
        return super().param(name, init_fn, shape, *dtype)  # says what is wrong with the shape


def spread(values: Array, like: Array) -> Array:
    """Values (...) broadcast to the shape of another array, which may have more and longer axes,
    in its type; their gradient is summed in float32.

    What is the same at many positions gets the sum of their gradients, of millions for a bias next
    to pictures. A sum in bfloat16, which is that of a plain broadcast, loses its digits.
    """
    return jnp.broadcast_to(values.astype(jnp.float32), like.shape).astype(like.dtype)


def product(x: Array, kernel: Array) -> Array:
    """x (..., in) times a kernel (in, out), which is cast to x's type -> (..., out) in it; the
    gradient of a kernel of another type is made in float32.

    Devices that share a batch out add their parts of that gradient in the type in which each makes
    its own: of a plain product in bfloat16 every part and every sum would be rounded to it.
    """
    if kernel.dtype == x.dtype:
        return _plain_product(x, kernel)
    return _product_of_cast(x, kernel)


def _plain_product(x: Array, kernel: Array) -> Array:
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


@jax.custom_vjp
def _product_of_cast(x: Array, kernel: Array) -> Array:
    return _plain_product(x, kernel.astype(x.dtype))


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product_of_cast(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Gradients of x, in its type, and of the kernel, made in float32."""
    x, kernel = kept
    axes = tuple(range(x.ndim - 1))
    of_x = jax.lax.dot_general(gradient, kernel.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())))
    of_kernel = jax.lax.dot_general(
        x, gradient, ((axes, axes), ((), ())), preferred_element_type=jnp.float32
    )
    return of_x, of_kernel.astype(kernel.dtype)


_product_of_cast.defvjp(_forward, _backward)


class Conv(Given, nn.Module):
    """Convolution over the two axes before the channels; see `conv` and `temporal_conv`."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    use_bias: bool = True
    kernel_init: Initializer = torch_kernel
    bias_init: Initializer = zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., h, w, in) -> (..., h', w', features)."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-3:]).astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            y = y + spread(bias, y)
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class Dense(Given, nn.Module):
    """Linear layer on the last axis; see `dense`."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = torch_kernel
    bias_init: Initializer = zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., in) -> (..., features)."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = product(x.astype(self.dtype), kernel)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            y = y + spread(bias, y)
        return y


def conv(
    features: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    name: str | None = None,
    dtype: DTypeLike = jnp.float32,
    padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None,
    dilation: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = torch_kernel,
    bias_init: Initializer = zeros,
) -> Conv:
    """2-D convolution, (..., h, w, in) -> (..., h', w', features).

    padding: zeros on each side; default (kernel - 1) / 2 like the originals ("SAME" would pad one
    side only where the stride is 2).
    """
    if padding is None:
        padding = dilation * (kernel - 1) // 2
    sides = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    return Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=sides,
        dilation=(dilation, dilation),
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        name=name,
    )


def temporal_conv(features: int, *, name: str, dtype: DTypeLike = jnp.float32) -> Conv:
    """Convolution over three frames, (b, f, s, in) -> (b, f, s, features), s any flattened
    positions.

    A (3, 1) convolution on (frames, positions) is several times faster than the equal 3-D one.
    """
    return Conv(
        features,
        (3, 1),
        padding=((1, 1), (0, 0)),
        kernel_init=torch_kernel,
        dtype=dtype,
        name=name,
    )


def dense(
    features: int,
    *,
    name: str | None = None,
    dtype: DTypeLike = jnp.float32,
    use_bias: bool = True,
    kernel_init: Initializer = torch_kernel,
    bias_init: Initializer = zeros,
) -> Dense:
    """Linear layer on the last axis."""
    return Dense(
        features,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        name=name,
    )


class PixelEncoder(nn.Module):
    """Picture-sized map to a latent-sized feature: convolutions that halve the grid three times.

    The last convolution starts at zero, so an untrained encoder outputs zero. Source: diffusers'
    `ControlNetConditioningEmbedding`.
    """

    features: int
    widths: tuple[int, ...] = (16, 32, 96, 256)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., 8h, 8w, c) -> (..., h, w, features)."""

        def layer(x: Array, features: int, stride: int, name: str) -> Array:
            bias = torch_bias(9 * x.shape[-1])
            return conv(features, stride=stride, name=name, dtype=self.dtype, bias_init=bias)(x)

        x = nn.silu(layer(x.astype(self.dtype), self.widths[0], 1, "conv_in"))
        for i, (narrow, wide) in enumerate(pairwise(self.widths)):
            x = nn.silu(layer(x, narrow, 1, f"blocks_{2 * i}"))
            x = nn.silu(layer(x, wide, 2, f"blocks_{2 * i + 1}"))
        return conv(self.features, name="conv_out", dtype=self.dtype, kernel_init=zeros)(x)


def sinusoid(t: Array, width: int) -> Array:
    """Cosines then sines of t at frequencies 10000^(-i / (width/2)), i = 0.. (frequency shift 0).

    t (...) any real numbers -> (..., width) float32; width even. Source: diffusers' `Timesteps`
    with flip_sin_to_cos and no frequency shift.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeMLP(nn.Module):
    """Two linear layers with SiLU between: how sinusoids enter a network (`TimestepEmbedding`)."""

    width: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., c) -> (..., features)."""
        x = nn.silu(dense(self.width, name="linear_1", dtype=self.dtype)(x))
        return dense(self.features, name="linear_2", dtype=self.dtype)(x)


class GEGLU(nn.Module):
    """One linear layer to twice the width; the first half is gated by the exact GELU of the
    second."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., c) -> (..., width)."""
        value, gate = jnp.split(dense(2 * self.width, name="proj", dtype=self.dtype)(x), 2, axis=-1)
        return value * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """Gated feed-forward layer of every transformer block, hidden width four times the channels."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., c) -> the same shape."""
        channels = x.shape[-1]
        x = GEGLU(4 * channels, self.dtype, name="net_0")(x)
        return dense(channels, name="net_2", dtype=self.dtype)(x)


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x): the activation of OpenAI's CLIP text encoder."""
    return x * jax.nn.sigmoid(1.702 * x)
