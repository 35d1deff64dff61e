"""RAFT's array functions against direct computation; the network as a whole is in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.models import networks
from dispose_jax.models.network import Network
from dispose_jax.networks import raft
from dispose_jax.networks.raft import RAFT

SMALL = RAFT(widths=(8, 12, 16), features=20, hidden=16)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_correlations_are_products_of_features_averaged_over_more_and_more_cells():
    first, second = random(2, 16, 18, 5), random(2, 16, 18, 5, seed=1)
    levels = raft.pyramid(first, second)
    assert [level.shape[3:] for level in levels] == [(16, 18), (8, 9), (4, 4), (2, 2)]
    mean = second[1, 4:8, 8:12].mean((0, 1))  # of 4 x 4 cells: level 2, row 1, column 2
    expected = first[1, 3, 7] @ mean / np.sqrt(5)
    assert float(levels[2][1, 3, 7, 1, 2]) == pytest.approx(expected, rel=1e-5)


def test_a_lookup_reads_all_levels_around_the_point_x_first():
    first, second = random(1, 16, 16, 4), random(1, 16, 16, 4, seed=1)
    levels = [np.asarray(level) for level in raft.pyramid(first, second)]
    points = random(1, 16, 16, 2, seed=2) * 6 + 8
    points[0, 2, 3], points[0, 4, 5] = [5, 11], [-30, 60]  # on a cell, and far outside
    found = np.asarray(raft.lookup(tuple(levels), points)).reshape(16, 16, 4, 9, 9)

    def bilinear(picture, x, y):  # cells outside are zero
        total = 0.0
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                    total += picture[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
        return total

    for row, column in ((2, 3), (4, 5), (9, 12), (15, 0)):
        x, y = points[0, row, column]
        for i, level in enumerate(levels):
            for dx, dy in ((-4, 0), (3, -2), (0, 4), (0, 0)):
                expected = bilinear(level[0, row, column], x / 2**i + dx, y / 2**i + dy)
                ours = found[row, column, i, dx + 4, dy + 4]
                assert ours == pytest.approx(expected, abs=1e-5)
    assert found[4, 5].any() == 0


def test_a_pixel_takes_the_flow_of_the_cell_that_its_scores_choose():
    flow = random(2, 3, 5, 2)
    scores = np.zeros((2, 3, 5, 9, 8, 8), np.float32)
    scores[..., 4, :, :] = 100  # its own cell
    scores[..., 4, 2, 7], scores[..., 3, 2, 7] = 0, 100  # but one pixel: the cell to the left
    fine = np.asarray(raft.upsample(flow, scores.reshape(2, 3, 5, 576)))
    expected = 8 * flow.repeat(8, 1).repeat(8, 2)
    expected[:, 2::8, 15::8] = 8 * flow[:, :, :-1]
    expected[:, 2::8, 7] = 0  # left of the first cell there is none
    np.testing.assert_allclose(fine, expected, atol=1e-5)


def test_instance_norm_knows_neither_size_nor_mean_of_a_channel():
    x = random(2, 6, 7, 3)
    np.testing.assert_allclose(
        raft.instance_norm(x * np.float32([1, 7, 40]) + 3), raft.instance_norm(x), atol=2e-4
    )
    assert np.asarray(raft.instance_norm(x)).std((1, 2)) == pytest.approx(1, abs=1e-3)


@pytest.mark.full
def test_more_updates_continue_from_fewer():
    images = np.tanh(random(2, 128, 136, 3))
    init = lambda key: SMALL.init(key, images[:1], images[1:], updates=1)
    network = Network(SMALL, init, np.float32)
    params = {"params": networks.random({"raft": network}, seed=0)["raft"]}

    @jax.jit  # one program compiles sooner than a hundred operations
    def both(params, first, second):
        reference = SMALL.apply(params, first, method=RAFT.encode_reference)
        levels = SMALL.apply(params, reference, second, method=RAFT.correlate)
        state = raft.RecurrentState(reference.hidden, jnp.zeros((1, 16, 17, 2)))
        for _ in range(2):
            state = SMALL.apply(params, state, reference.context, levels, method=RAFT.update)
        one_by_one = SMALL.apply(params, state, method=RAFT.upsample)
        return one_by_one, SMALL.apply(params, first, second, updates=2)

    one_by_one, at_once = map(np.asarray, both(params, images[:1], images[1:]))
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-4 * np.abs(one_by_one).max())
    assert np.abs(at_once).max() > 1e-3


@pytest.mark.parametrize("size", [(128, 132), (120, 256)])
def test_sizes_that_do_not_fit_are_refused(size):
    picture = jnp.zeros((1, *size, 3))
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels; both sides must be mult"):
        jax.eval_shape(SMALL.init, jax.random.key(0), picture, picture)
