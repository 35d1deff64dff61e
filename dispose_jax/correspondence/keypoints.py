"""Keypoints carry appearance: features of the reference at its joints, and where the joints go.

DisPose section 4.2: the features of the reference at its body joints are written, in every frame,
to the grid cells of that frame's joints. Cells are computed on the host in float64: a float32
product can fall into the next cell.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.ops import gather, resize
from dispose_jax.types import Pose

Array = jax.Array
Size = tuple[int, int]  # height, width

CELL = 16  # pixels per grid cell, each way
_MASK_REACH = 4  # cells around a joint that the local loss covers


def embed(features: Array, reference: Pose, size: Size) -> Array:
    """Features of the reference at its body joints: (h/16, w/16, d) -> (18, d), zero where missing.
    The point embeddings of paper section 4.2.

    reference: Pose of one frame; size (h, w) of the picture in pixels. Positions are host code,
    samples device code.
    """
    return read(features, *places(reference, size, features.shape[:2]))


def places(reference: Pose, size: Size, grid: Size) -> tuple[np.ndarray, np.ndarray]:
    """Where features of a grid (rows, columns) are read for the joints of a one-frame pose (host
    code).

    Returns points (18, 2) float32 column, row and seen (18,) bool.
    """
    height, width = size
    # The original takes (h, w) for (w, h): it resizes the features to w rows and h columns and
    # looks there. Its place is right but rounded to another grid; only the 18 samples are computed
    # here.
    out = np.array([height, width])  # of columns, of rows
    seen = reference.visible[0, 0]
    xy = np.where(seen[:, None], reference.body[0, 0], 0)
    column, row = np.clip(np.trunc(xy * out), 0, out - 1).astype(np.int64).T
    columns = resize.half_pixel(height, grid[1])
    rows = resize.half_pixel(width, grid[0])
    return np.stack([columns[column], rows[row]], -1).astype(np.float32), seen


def read(features: Array, points: Array, seen: Array) -> Array:
    """Features (h/16, w/16, d) at points (18, 2) column, row -> (18, d), zero where not seen."""
    found = gather.bilinear(features, jnp.asarray(points))
    return found * jnp.asarray(seen[:, None], features.dtype)


def cells(pose: Pose, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Where the joints of person 0 are on the 1/16 grid (host code): where the correspondence map
    of paper eq. 6 holds their embeddings.

    size (h, w) in pixels. Returns cells (f, 18, 2) int32 column, row, inside the grid, and visible
    (f, 18) bool: seen and without a negative coordinate. A joint beyond the right or lower border
    counts at the border.
    """
    seen, xy = pose.visible[:, 0], pose.body[:, 0]
    visible = seen & (xy >= 0).all(-1)
    grid = np.array([size[1] // CELL, size[0] // CELL])
    xy = np.where(visible[..., None], xy, 0)
    return np.clip(np.trunc(xy * grid), 0, grid - 1).astype(np.int32), visible


def local_mask(pose: Pose, size: Size) -> np.ndarray:
    """Cells near a joint of person 0, where the local loss counts: (f, h/16, w/16) bool, host code.

    Squares of 8 cells; joints at negative coordinates have theirs too. As in the original the upper
    end is excluded after clipping, so the last row and column are never covered.
    """
    seen = pose.visible[:, 0, :, None]
    xy = np.where(seen, pose.body[:, 0], 0)

    def covered(axis: int, length: int) -> np.ndarray:  # (f, 18, length)
        centre = np.trunc(xy[..., axis, None] * length)
        start, stop = np.clip([centre - _MASK_REACH, centre + _MASK_REACH], 0, length - 1)
        return (np.arange(length) >= start) & (np.arange(length) < stop) & seen

    columns, rows = covered(0, size[1] // CELL), covered(1, size[0] // CELL)
    return (rows[..., :, None] & columns[..., None, :]).any(1)
