"""Keypoint correspondence: features of the reference at its keypoints, carried to the target poses.

The embeddings are written onto a grid (the correspondence map, paper eq. 6), pass a small MLP per
U-Net level and are brought to the level's grid (eq. 7). The MLP acts on single cells, so it runs on
the 18 points, not the grid.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from dispose_jax.networks.layers import dense, torch_bias, torch_kernel
from dispose_jax.ops import gather, resize

Array = jax.Array

_GRID = 16  # pixels per cell of the correspondence map
LEVELS = ("released", "paper", "finest")


class PointMLP(nn.Module):
    """Embedding of a point to the channels of one level."""

    features: int
    width: int
    zero_start: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., d) -> (..., features)."""
        bias = torch_bias(x.shape[-1])
        x = nn.silu(dense(self.width, name="mlp_0", dtype=self.dtype, bias_init=bias)(x))
        return dense(
            self.features,
            name="mlp_2",
            dtype=self.dtype,
            kernel_init=zeros if self.zero_start else torch_kernel,
            bias_init=zeros if self.zero_start else torch_bias(self.width),
        )(x)


class PointEncoder(nn.Module):
    """Point features for the grid after every level of the encoder: paper eq. 6 and 7.

    channels and strides (pixels per cell) are per level. levels: "released" makes one map at 1/16
    and resizes the result, by which few points reach the coarse levels; "paper" has the order of
    eq. 7, where the map has the level's size before its MLP: points are written onto each level's
    own grid; "finest" has one map more, before those of the levels, for the grid of the latents
    itself, where each cell of 1/16 is four cells. zero_start: the MLPs end in zero, for points that
    enter the frozen U-Net itself.
    """

    channels: tuple[int, ...]
    width: int = 128
    strides: tuple[int, ...] = (16, 32, 64, 64)
    levels: str = "released"
    zero_start: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Array, cells: Array, visible: Array, size: tuple[int, int]
    ) -> tuple[Array, ...]:
        """One map per stride, (b, f, h/stride, w/stride, channels), rounded up.

        features (b, k, d) of the reference's keypoints; cells (b, f, k, 2) int column, row on the
        1/16 grid; visible (b, f, k) bool; size (h, w) in pixels. A visible point without a feature
        still counts: it carries the MLP's response to zero, as released. Raises ValueError for
        unknown levels.
        """
        if self.levels not in LEVELS:
            expected = " or ".join(map(repr, LEVELS))
            raise ValueError(f"point_levels is {self.levels!r}: expected {expected}")
        fine = (size[0] // _GRID, size[1] // _GRID)
        maps = []
        for i, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            mlp = PointMLP(channels, self.width, self.zero_start, self.dtype, name=f"levels_{i}")
            target = (-(-size[0] // stride), -(-size[1] // stride))  # as the encoder rounds
            finest = self.levels == "finest" and i == 0
            own = self.levels != "released" and not finest
            places = cells * _GRID // stride if own else cells
            if own:  # sizes that do not divide by the stride: the last cell takes what is beyond
                places = jnp.minimum(places, jnp.array([target[1] - 1, target[0] - 1]))
            means, keep = gather.cell_mean(features.astype(jnp.float32), places, visible)
            grid, occupied = gather.scatter(mlp(means), places, keep, target if own else fine)
            if finest:
                grid = enlarged(grid, target, _GRID // stride)
            elif not own:
                grid = resize.bilinear(grid, target)
                mask = resize.nearest(occupied[..., None].astype(grid.dtype), target)
                grid = grid * mask
            maps.append(grid.astype(self.dtype))
        return tuple(maps)


def enlarged(grid: Array, size: tuple[int, int], times: int) -> Array:
    """Every cell of (b, f, h, w, c) as times x times cells, up to the size; a last row or column
    that is too short goes on."""
    rows, columns = (
        jnp.minimum(jnp.arange(length) // times, have - 1)
        for length, have in zip(size, grid.shape[2:4])
    )
    return grid[:, :, rows][:, :, :, columns]
