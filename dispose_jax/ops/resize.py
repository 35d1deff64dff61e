"""Resizing with PyTorch's coordinate conventions, the project's only home of it.

Pictures are (..., h, w, c) of any leading axes, sizes are static (height, width). Each axis is one
small matrix or one index table, computed in NumPy while tracing: float32 where PyTorch uses
float32, because a table rounded otherwise picks other pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Size = tuple[int, int]


def half_pixel(out: int, length: int) -> np.ndarray:
    """Source positions for `out` pixels from an axis of `length`, half-pixel rule, (out,) float32.

    0 is the first centre. Negative positions, left of the first centre, become 0 as in PyTorch's
    bilinear rule.
    """
    scale = np.float32(length) / np.float32(out)
    return np.maximum(scale * (np.arange(out, dtype=np.float32) + np.float32(0.5)) - 0.5, 0)


def aligned(out: int, length: int) -> np.ndarray:
    """Source positions with the outermost centres on each other (align_corners), (out,) float32."""
    if out == 1:
        return np.zeros(1, np.float32)
    scale = np.float32(length - 1) / np.float32(out - 1)
    return scale * np.arange(out, dtype=np.float32)


def nearest_index(out: int, length: int) -> np.ndarray:
    """Source pixel of each of `out` pixels, (out,) int: floor(i * scale), all in float32.

    Integer arithmetic differs for some sizes (448 -> 384), the half-pixel rule for most.
    """
    scale = np.float32(length) / np.float32(out)
    index = np.floor(np.arange(out, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, length - 1)


def linear_matrix(source: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation at positions (out,) as a matrix (out, length) float32."""
    left = np.floor(source).astype(np.int64)
    fraction = source - left
    matrix = np.zeros((len(source), length), np.float32)
    rows = np.arange(len(source))
    np.add.at(matrix, (rows, np.minimum(left, length - 1)), 1 - fraction)
    np.add.at(matrix, (rows, np.minimum(left + 1, length - 1)), fraction)
    return matrix


def cubic_matrix(source: np.ndarray, length: int, a: float = -0.75) -> np.ndarray:
    """Cubic convolution at positions (out,) as a matrix (out, length) float32.

    Taps beyond the axis read its edge. a is the slope of the kernel at distance 1: -0.75 in
    PyTorch, -0.5 in jax.image.
    """
    left = np.floor(source).astype(np.int64)
    fraction = source - left
    matrix = np.zeros((len(source), length), np.float32)
    rows = np.arange(len(source))
    for tap in (-1, 0, 1, 2):
        weight = _cubic(np.abs(fraction - tap), a)
        np.add.at(matrix, (rows, np.clip(left + tap, 0, length - 1)), weight)
    return matrix


def antialiased_matrix(out: int, length: int, kernel: Callable, reach: int) -> np.ndarray:
    """Pillow's resampling by a kernel, which is PyTorch's with antialias, (out, length) float32.

    kernel(d) at distances d >= 0, zero from `reach` on. Shrinking widens the kernel. Taps beyond
    the axis do not count; those left are weighted up.
    """
    scale = length / out
    width = max(scale, 1.0)
    centre = (np.arange(out)[:, None] + 0.5) * scale
    pixel = np.arange(length)
    weight = kernel(np.abs(pixel + 0.5 - centre) / width)
    # Pillow rounds where the kernel begins and ends.
    first, end = (np.floor(centre + side * reach * width + 0.5) for side in (-1, 1))
    weight = np.where((pixel >= first) & (pixel < end), weight, 0)
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def rows_first(have: Size, size: Size) -> bool:
    """Whether Pillow filters the rows of a picture before its columns: where many more rows are
    lost, since version 13. Versions before always begin with the columns, which differs by many
    levels where a filter overshoots.

    have, size: (height, width) before and after.
    """
    return have[0] - size[0] > max(0, 2 * (have[1] - size[1]))


def area_matrix(out: int, length: int) -> np.ndarray:
    """Means over windows floor(i n / out) .. ceil((i + 1) n / out), (out, n = length) float32."""
    matrix = np.zeros((out, length), np.float32)
    for i in range(out):
        start, stop = i * length // out, -(-(i + 1) * length // out)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def apply_matrices(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Resample both axes: x (..., h, w, c), rows (H, h), columns (W, w) -> (..., H, W, c).

    Integers become float32; floats keep their type, with full products and float32 sums on every
    device.
    """
    return _apply("...hwc,Hh->...Hwc", _apply("...hwc,Ww->...hWc", x, columns), rows)


def bilinear(x: Array, size: Size) -> Array:
    """Bilinear, half-pixel centres, no antialiasing: (..., h, w, c) -> (..., *size, c)."""
    return _each_axis(x, size, lambda out, n: linear_matrix(half_pixel(out, n), n))


def bilinear_align_corners(x: Array, size: Size) -> Array:
    """Bilinear with the corner pixels' centres kept: (..., h, w, c) -> (..., *size, c)."""
    return _each_axis(x, size, lambda out, n: linear_matrix(aligned(out, n), n))


def bilinear_antialiased(x: Array, size: Size) -> Array:
    """Bilinear with antialiasing, as in Pillow: (..., h, w, c) -> (..., *size, c)."""
    triangle = lambda d: np.maximum(1 - d, 0)
    return _each_axis(x, size, lambda out, n: antialiased_matrix(out, n, triangle, 1))


def bicubic_antialiased(x: Array, size: Size, low: float, high: float) -> Array:
    """Pillow's bicubic resize (a = -0.5): (..., h, w, c) -> (..., *size, c).

    Overshoot is cut to low..high after each axis, where Pillow also rounds to 8 bits, which this
    does not.
    """
    kernel = lambda d: _cubic(d, -0.5)
    rows, columns = (antialiased_matrix(*axis, kernel, 2) for axis in zip(size, x.shape[-3:-1]))
    passes = [("...hwc,Ww->...hWc", columns), ("...hwc,Hh->...Hwc", rows)]
    if rows_first(x.shape[-3:-1], size):
        passes.reverse()
    for subscripts, matrix in passes:
        x = jnp.clip(_apply(subscripts, x, matrix), low, high)
    return x


def area(x: Array, size: Size) -> Array:
    """Adaptive average pooling: (..., h, w, c) -> (..., *size, c)."""
    return _each_axis(x, size, area_matrix)


def nearest(x: Array, size: Size) -> Array:
    """PyTorch's "nearest": (..., h, w, c) -> (..., *size, c), values and type unchanged."""
    rows, columns = (nearest_index(*axis) for axis in zip(size, x.shape[-3:-1]))
    return x[..., rows[:, None], columns, :]


def _apply(subscripts: str, x: Array, matrix: np.ndarray) -> Array:
    """One axis resampled, in the type that `apply_matrices` promises."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    product = jnp.einsum(
        subscripts,
        x.astype(dtype),
        jnp.asarray(matrix, dtype),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return product.astype(dtype)


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    """The kernel of cubic convolution at distances d >= 0; a is its slope at 1."""
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0))


def _each_axis(x: Array, size: Size, matrix) -> Array:
    """Apply matrix(out, length) to rows and columns; a picture of the right size stays itself."""
    if tuple(size) == x.shape[-3:-1]:
        return x
    return apply_matrices(x, *(matrix(*axis) for axis in zip(size, x.shape[-3:-1])))
