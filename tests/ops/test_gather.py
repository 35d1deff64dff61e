"""Gather, bilinear samples and scatter-mean against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.ops import gather


def _points(seed, b=2, f=3, k=7, c=5, size=(4, 6)):
    rng = np.random.default_rng(seed)
    h, w = size
    features = rng.normal(size=(b, k, c)).astype(np.float32)
    cells = np.stack([rng.integers(0, w, (b, f, k)), rng.integers(0, h, (b, f, k))], -1)
    cells[:, :, 3] = cells[:, :, 0]
    cells[:, -1, 5] = cells[:, -1, 0]
    valid = rng.random((b, f, k)) > 0.3
    valid[0, 0] = True
    return features, cells.astype(np.int32), valid, size


def scatter_mean(features, cells, valid, size):
    """Features of points on a map, averaged where points share a cell, zero elsewhere."""
    means, keep = gather.cell_mean(features, cells, valid)
    return gather.scatter(means, cells, keep, size)


def _scatter_mean_loop(features, cells, valid, size):
    b, f, k, _ = cells.shape
    grid = np.zeros((b, f, *size, features.shape[-1]))
    count = np.zeros((b, f, *size), int)
    for i in range(b):
        for frame in range(f):
            for point in range(k):
                if valid[i, frame, point]:
                    col, row = cells[i, frame, point]
                    grid[i, frame, row, col] += features[i, point]
                    count[i, frame, row, col] += 1
    return grid / np.maximum(count, 1)[..., None], count > 0


def test_scatter_mean_equals_a_loop_over_points():
    arguments = _points(0)
    grid, occupied = jax.jit(scatter_mean, static_argnums=3)(*arguments)
    expected, cells = _scatter_mean_loop(*arguments)
    np.testing.assert_allclose(grid, expected, atol=1e-6)
    np.testing.assert_array_equal(occupied, cells)


def test_points_that_do_not_count_leave_no_trace():
    features, cells, valid, size = _points(1)
    features[:, 2], valid[:, :, 2] = 1e9, False
    grid, occupied = scatter_mean(features, cells, valid, size)
    expected, filled = _scatter_mean_loop(features, cells, valid, size)
    np.testing.assert_allclose(grid, expected, atol=1e-6)
    np.testing.assert_array_equal(occupied, filled)
    nothing, empty = scatter_mean(features, cells, valid & False, size)
    assert not nothing.any() and not empty.any()


def test_a_function_of_the_cell_means_can_be_scattered_without_a_full_map_before():
    features, cells, valid, size = _points(2)
    means, keep = gather.cell_mean(features, cells, valid)
    sparse, _ = gather.scatter(jnp.tanh(means) + 1, cells, keep, size)
    grid, occupied = scatter_mean(features, cells, valid, size)
    np.testing.assert_allclose(sparse, (jnp.tanh(grid) + 1) * occupied[..., None], atol=1e-6)


def test_gradient_of_scatter_mean_reaches_only_points_that_count():
    features, cells, valid, size = _points(3, f=1)
    valid[:, :, 4] = False
    gradient = jax.grad(lambda x: scatter_mean(x, cells, valid, size)[0].sum())(features)
    assert not gradient[:, 4].any()
    assert (np.asarray(gradient).sum(-1)[valid[:, 0]] > 0).all()


def test_bilinear_samples_of_a_plane_are_exact_inside_and_clamped_outside():
    h, w = 5, 8
    rows, cols = np.mgrid[:h, :w].astype(np.float32)
    plane = np.stack([3 * cols - 2 * rows + 1, cols], -1)
    points = np.array([[0, 0], [6.25, 3.5], [7, 4], [2.5, 0.125], [-3, 2], [9, 11]], np.float32)
    inside = np.clip(points, 0, [w - 1, h - 1])
    expected = np.stack([3 * inside[:, 0] - 2 * inside[:, 1] + 1, inside[:, 0]], -1)
    np.testing.assert_allclose(gather.bilinear(plane, points), expected, atol=1e-5)


def test_gathering_at_integer_points_reads_column_then_row():
    features = np.arange(2 * 3 * 4).reshape(2, 3, 4, 1)
    points = np.array([[[3, 0], [0, 2]], [[1, 1], [9, -1]]])
    expected = [[[3], [8]], [[12 + 5], [12 + 3]]]
    np.testing.assert_array_equal(gather.at_points(features, points), expected)
