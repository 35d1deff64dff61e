"""Motion field guidance: the sparse and the dense field, encoded and fused (paper section 4.1).

The paper's figure has a zero convolution at every stage; the released code has one per tower, at
its end. This follows the code.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from dispose_jax.networks.layers import PixelEncoder, conv, torch_bias, torch_kernel

Array = jax.Array


class MotionEncoder(nn.Module):
    """One PixelEncoder per field, their sum through a last convolution: motion field guidance as
    the hybrid ControlNet receives it, paper section 4.1.

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
            PixelEncoder(self.features, self.widths, self.dtype, name=field)(flows[field])
            for field in self.fields
        )
        return conv(
            self.features,
            name="conv_final",
            dtype=self.dtype,
            kernel_init=zeros if self.zero_start else torch_kernel,
            bias_init=zeros if self.zero_start else torch_bias(9 * self.features),
        )(x)
