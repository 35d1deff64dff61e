"""Motion field guidance: the sparse and the dense field, encoded and fused (paper section 4.1).

The paper's figure has a zero convolution at every stage; the released code has one per tower, at
its end. This follows the code.
"""

from __future__ import annotations

from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from dispose_jax.networks.layers import conv, torch_bias, torch_kernel

Array = jax.Array


class FlowEncoder(nn.Module):
    """Picture-sized flow to a latent-sized feature: convolutions that halve the grid three times.

    The last convolution starts at zero, so an untrained encoder outputs zero.
    """

    features: int
    widths: tuple[int, ...] = (16, 32, 96, 256)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, flow: Array) -> Array:
        """flow (..., 8h, 8w, 2) in pixels -> (..., h, w, features)."""

        def layer(x: Array, features: int, stride: int, name: str) -> Array:
            bias = torch_bias(9 * x.shape[-1])
            return conv(features, stride=stride, name=name, dtype=self.dtype, bias_init=bias)(x)

        x = nn.silu(layer(flow.astype(self.dtype), self.widths[0], 1, "conv_in"))
        for i, (narrow, wide) in enumerate(pairwise(self.widths)):
            x = nn.silu(layer(x, narrow, 1, f"blocks_{2 * i}"))
            x = nn.silu(layer(x, wide, 2, f"blocks_{2 * i + 1}"))
        return conv(self.features, name="conv_out", dtype=self.dtype, kernel_init=zeros)(x)


class MotionEncoder(nn.Module):
    """One FlowEncoder per field, their sum through a last convolution.

    fields: which of "sparse", "dense" exist (an ablation of the paper drops either). zero_start:
    the last convolution starts at zero too, for signals that enter the frozen U-Net itself.
    """

    features: int
    fields: tuple[str, ...] = ("sparse", "dense")
    widths: tuple[int, ...] = (16, 32, 96, 256)
    zero_start: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, sparse_flow: Array, dense_flow: Array) -> Array:
        """Both flows (b, f, 8h, 8w, 2) in pixels, frame 0 zero -> (b, f, h, w, features).

        The biases make the response to the zero frame non-zero, as released.
        """
        flows = {"sparse": sparse_flow, "dense": dense_flow}
        x = sum(
            FlowEncoder(self.features, self.widths, self.dtype, name=field)(flows[field])
            for field in self.fields
        )
        return conv(
            self.features,
            name="conv_final",
            dtype=self.dtype,
            kernel_init=zeros if self.zero_start else torch_kernel,
            bias_init=zeros if self.zero_start else torch_bias(9 * self.features),
        )(x)
