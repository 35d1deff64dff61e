"""The place in one picture whose diffusion features are most like those at a point of another.

Paper, Figure 7: joints and other points of the reference are found again in other pictures by their
features alone, which is what point guidance rests on.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.ops import gather

Array = jax.Array


class Match(NamedTuple):
    """Where a point was found. xy in fractions of the picture; map (h, w) cosines of the cells."""

    xy: tuple[float, float]
    similarity: float
    map: np.ndarray


def find(source: Array, point: tuple[float, float], target: Array, fine: int = 16) -> Match:
    """The best match of a point of the source's picture in the target's.

    source (h, w, d) and target (h', w', d) are features of `dift.features`; point x, y in fractions
    of the source's picture. The best cell is refined around it to a fine-th of a cell, features
    between cells' centres being interpolated. Raises ValueError for a point outside 0..1.
    """
    if not all(0 <= value <= 1 for value in point):
        raise ValueError(f"point {point}: expected fractions of the picture, 0 to 1")
    wanted = _unit(gather.bilinear(source, _cells(np.array([point]), source.shape[:2]))[0])
    cosines = np.asarray(_unit(target) @ wanted)
    row, column = np.unravel_index(cosines.argmax(), cosines.shape)
    offsets = np.arange(-fine, fine + 1, dtype=np.float32) / fine
    y, x = np.meshgrid(row + offsets, column + offsets, indexing="ij")
    around = np.stack([x, y], -1).reshape(-1, 2)
    close = np.asarray(_unit(gather.bilinear(target, jnp.asarray(around))) @ wanted)
    best = int(close.argmax())
    h, w = target.shape[:2]
    place = np.clip((around[best] + 0.5) / (w, h), 0, 1)
    return Match((float(place[0]), float(place[1])), float(close[best]), cosines)


def _cells(points: np.ndarray, size: tuple[int, int]) -> Array:
    """Fractions (k, 2) -> positions between the centres of cells, x, y."""
    h, w = size
    return jnp.asarray(points * (w, h) - 0.5, jnp.float32)


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
