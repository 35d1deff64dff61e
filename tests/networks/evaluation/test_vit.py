"""DINO's positions for pictures of any shape, against loops over the definition."""

import numpy as np
import pytest

from dispose_jax.networks.evaluation import vit

GRID, PATCH = 14, 16
TABLE = np.random.default_rng(0).normal(size=(1, 1 + GRID**2, 3)).astype(np.float32)


def cubic(distance: float) -> float:
    """Cubic convolution as PyTorch has it (Keys 1981, a = -0.75)."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def resampled(cells: np.ndarray, count: int) -> np.ndarray:
    """The first axis at `count` places, by the factor that the released code gives PyTorch."""
    rows = []
    for i in range(count):
        place = (i + 0.5) * len(cells) / (count + 0.1) - 0.5
        near = range(int(np.floor(place)) - 1, int(np.floor(place)) + 3)
        rows.append(sum(cubic(place - n) * cells[np.clip(n, 0, len(cells) - 1)] for n in near))
    return np.array(rows)


@pytest.mark.parametrize("picture", [(224, 232), (239, 224), (224, 298), (398, 224), (448, 448)])
def test_positions_of_pictures_that_are_no_square_of_the_table_are_stretched(picture):
    rows, columns = (side // PATCH for side in picture)
    cells = TABLE[0, 1:].astype(np.float64).reshape(GRID, GRID, 3)
    expected = resampled(resampled(cells, rows).swapaxes(0, 1), columns).swapaxes(0, 1)
    found = np.asarray(vit.stretched_positions(TABLE, GRID, PATCH, picture))
    assert found.shape == (1, 1 + rows * columns, 3)
    np.testing.assert_array_equal(found[:, 0], TABLE[:, 0])
    np.testing.assert_allclose(found[0, 1:], expected.reshape(-1, 3), atol=1e-5)


@pytest.mark.parametrize("side", [224, 239])
def test_positions_of_a_square_of_the_table_are_the_table(side):
    found = vit.stretched_positions(TABLE, GRID, PATCH, (side, side))
    np.testing.assert_array_equal(found, TABLE)
