"""Where the points of each level are written; parity with the original is in tests/parity."""

import jax
import numpy as np
import pytest

from dispose_jax.networks.point_encoder import PointEncoder, PointMLP

FEATURES = np.random.default_rng(0).normal(size=(1, 3, 5)).astype(np.float32)
CELLS = np.array([[[[0, 0], [4, 1], [5, 1]]]])  # column, row on the 1/16 grid of one frame
VISIBLE = np.array([[[True, True, False]]])
SIZE = (48, 112)  # of the picture: 3 x 7 cells of 16 pixels, 6 x 14 latents, 2 x 4 cells of 32


def maps(levels: str, strides: tuple[int, ...]) -> tuple[list, dict]:
    encoder = PointEncoder((6,) * len(strides), 4, strides, levels)
    arguments = FEATURES, CELLS, VISIBLE
    params = encoder.init(jax.random.key(0), *arguments, size=SIZE)["params"]
    return [np.asarray(m) for m in encoder.apply({"params": params}, *arguments, size=SIZE)], params


def embedded(params: dict, level: int) -> np.ndarray:
    """What a level's MLP makes of the features."""
    mlp = PointMLP(6, 4)
    return np.asarray(mlp.apply({"params": params[f"levels_{level}"]}, FEATURES[0]))


def test_each_level_has_the_points_on_its_own_grid():
    (fine, coarse), params = maps("paper", (16, 32))
    expected = np.zeros((3, 7, 6), np.float32)
    expected[0, 0], expected[1, 4] = embedded(params, 0)[:2]
    np.testing.assert_allclose(fine[0, 0], expected, atol=1e-6)
    expected = np.zeros((2, 4, 6), np.float32)  # an odd side is rounded up, as by the U-Net
    expected[0, 0], expected[0, 2] = embedded(params, 1)[:2]
    np.testing.assert_allclose(coarse[0, 0], expected, atol=1e-6)


def test_the_finest_map_has_each_cell_as_four_latents():
    (finest, fine), params = maps("finest", (8, 16))
    expected = np.zeros((6, 14, 6), np.float32)
    expected[0:2, 0:2], expected[2:4, 8:10] = embedded(params, 0)[:2, None, None]
    np.testing.assert_allclose(finest[0, 0], expected, atol=1e-6)
    assert fine.shape == (1, 1, 3, 7, 6)


def test_latents_that_no_whole_cell_covers_go_on_with_the_last_one():
    cells = np.array([[[[5, 0], [0, 2], [0, 0]]]])
    encoder = PointEncoder((6,), 4, (8,), "finest")
    arguments = FEATURES, cells, VISIBLE
    size = 48, 104
    params = encoder.init(jax.random.key(0), *arguments, size=size)["params"]
    (finest,) = encoder.apply({"params": params}, *arguments, size=size)
    np.testing.assert_array_equal(finest[0, 0, 0, 12], finest[0, 0, 0, 11])  # 13 columns
    assert np.abs(finest[0, 0, 0, 12]).max() > 0 == np.abs(finest[0, 0, 0, 9]).max()


def test_unknown_levels_are_named():
    with pytest.raises(ValueError, match="'coarse': expected 'released' or 'paper' or 'finest'"):
        maps("coarse", (16,))
