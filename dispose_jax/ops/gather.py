"""Reading maps at points and writing points onto maps: gather, bilinear samples, scatter-mean.

Device code with fixed shapes: the number of points never changes, a boolean says which of them
count. Points are given as column, row (x, y); positions in pixels have the centre of the first
pixel at 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def at_points(features: Array, points: Array) -> Array:
    """Values at integer points.

    features (..., h, w, c), points (..., k, 2) column, row -> (..., k, c).
    Leading axes are equal; points outside are moved to the nearest pixel.
    """
    *lead, h, w, c = features.shape
    col, row = jnp.clip(points[..., 0], 0, w - 1), jnp.clip(points[..., 1], 0, h - 1)
    flat = features.reshape(*lead, h * w, c)
    return jnp.take_along_axis(flat, (row * w + col)[..., None], axis=-2)


def bilinear(features: Array, points: Array) -> Array:
    """Values between pixels.

    features (..., h, w, c), points (..., k, 2) x, y in pixels -> (..., k, c).
    Outside the outermost pixel centres the edge continues. Leading axes are equal.
    """
    h, w = features.shape[-3:-1]
    points = jnp.clip(points, 0, jnp.array([w - 1, h - 1], points.dtype))
    corner = jnp.floor(points)
    x, y = jnp.moveaxis((points - corner).astype(features.dtype), -1, 0)[..., None]  # (..., k, 1)
    corner = corner.astype(jnp.int32)
    right, down = jnp.array([1, 0]), jnp.array([0, 1])
    upper = (1 - x) * at_points(features, corner) + x * at_points(features, corner + right)
    corner = corner + down
    lower = (1 - x) * at_points(features, corner) + x * at_points(features, corner + right)
    return (1 - y) * upper + y * lower


def cell_mean(features: Array, cells: Array, valid: Array) -> tuple[Array, Array]:
    """Average the features of points that share a cell (paper eq. 6).

    features (b, k, c) per clip, cells (b, f, k, 2) integer column, row, valid (b, f, k) bool.
    Returns means (b, f, k, c), for every valid point the mean over the valid points of its cell,
    and keep (b, f, k) bool: the first valid point of each cell. The kept points lie in distinct
    cells, so that whatever is computed from their means can be written with `scatter`, without any
    full-size map before.
    """
    k = features.shape[1]
    together = (cells[..., :, None, :] == cells[..., None, :, :]).all(-1)
    together &= valid[..., :, None] & valid[..., None, :]  # (b, f, k, k)
    count = jnp.maximum(together.sum(-1), 1)
    total = jnp.einsum(
        "bfij,bjc->bfic",
        together.astype(features.dtype),
        features,
        precision=jax.lax.Precision.HIGHEST,
    )
    earlier = jnp.tri(k, k=-1, dtype=bool)  # [i, j]: j before i
    keep = valid & ~(together & earlier).any(-1)
    return total / count[..., None].astype(features.dtype), keep


def scatter(values: Array, cells: Array, keep: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Write points onto a map that is zero elsewhere.

    values (b, f, k, c), cells (b, f, k, 2) integer column, row inside the map, keep (b, f, k) bool,
    size (h, w). Returns map (b, f, h, w, c) and occupied (b, f, h, w) bool. Kept points that share
    a cell are added.
    """
    b, f, k, c = values.shape
    h, w = size
    index = cells[..., 1] * w + cells[..., 0]
    # One past the end: what falls outside the array is dropped, so no point needs a branch.
    index = jnp.where(keep, index, h * w).reshape(b * f, k)
    rows = jnp.arange(b * f)[:, None]
    grid = jnp.zeros((b * f, h * w, c), values.dtype)
    grid = grid.at[rows, index].add(values.reshape(b * f, k, c), mode="drop")
    occupied = jnp.zeros((b * f, h * w), bool).at[rows, index].set(True, mode="drop")
    return grid.reshape(b, f, h, w, c), occupied.reshape(b, f, h, w)
