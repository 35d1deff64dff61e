"""The hybrid ControlNet: a copy of the U-Net's encoder whose outputs pass zero convolutions (paper
eq. 8).

Motion guidance joins after the input convolution, point features after every level.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros

from dispose_jax.networks.layers import conv
from dispose_jax.networks.unet import Flavour, UNetEncoder, embed_time
from dispose_jax.types import Joining, Residuals

Array = jax.Array


class ControlNet(nn.Module):
    """A U-Net's encoder, with a 1 x 1 convolution for each skip and one for the middle, all of
    which start at zero: the hybrid ControlNet of paper eq. 8."""

    channels: tuple[int, ...]
    heads: tuple[int, ...]
    flavour: Flavour
    layers: int = 2
    added_width: int = 256

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        context: Array,
        *,
        added_time: Array | None = None,
        motion: Array | None = None,
        points: tuple[Array, ...] | None = None,
    ) -> Residuals:
        """x (b, f, h, w, c), t (b,), context (b, l, e), as the U-Net receives them -> Residuals,
        the r of paper eq. 8.

        motion (b, f, h, w, channels[0]), which joins after the input convolution; points: one array
        per level, of the grid after it.
        """
        dtype = self.flavour.dtype
        emb = embed_time(t, added_time, self.channels[0], self.added_width, dtype)
        encoder = UNetEncoder(self.channels, self.heads, self.layers, self.flavour, name="encoder")
        x, skips = encoder(
            x.astype(dtype), emb, context.astype(dtype), joining=Joining(motion, points)
        )
        zero = lambda y, name: conv(y.shape[-1], 1, name=name, dtype=dtype, kernel_init=zeros)(y)
        return Residuals(
            skips=tuple(zero(s, f"controlnet_down_blocks_{i}") for i, s in enumerate(skips)),
            mid=zero(x, "controlnet_mid_block"),
        )


def scale(residuals: Residuals, factor: float) -> Residuals:
    """All residuals times the control scale, in the type that they have."""
    return jax.tree.map(lambda r: (r * jnp.float32(factor)).astype(r.dtype), residuals)


def accumulate(residuals: Residuals, num_levels: int, layers: int = 2) -> Residuals:
    """Residuals as the released U-Net adds them; paper eq. 8 reads as if each were added once.

    Its loop adds all residuals known so far after every down block, so those of the first skips
    count num_levels times and those of the last level once.
    """
    times = [num_levels]  # the input convolution's skip
    for level in range(num_levels):
        last = level == num_levels - 1
        times += [num_levels - level] * (layers if last else layers + 1)
    skips = tuple(r * k for r, k in zip(residuals.skips, times, strict=True))
    return residuals.replace(skips=skips)
