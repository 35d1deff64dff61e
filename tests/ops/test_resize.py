"""Resizing rules against formulas, constant and linear pictures, and PyTorch if installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dispose_jax.ops import resize


def bicubic_align_corners(x, size):
    """What CLIP's pixels are made with, after a blur."""
    axes = zip(size, x.shape[-3:-1])
    matrices = (resize.cubic_matrix(resize.aligned(*axis), axis[1]) for axis in axes)
    return resize.apply_matrices(x, *matrices)


RESIZES = [
    resize.bilinear,
    resize.bilinear_align_corners,
    bicubic_align_corners,
    resize.area,
    resize.nearest,
]
PAIRS = [(12, 20), (12, 7), (5, 5), (1, 6), (9, 1), (16, 4), (23, 17)]


def _ramp(h, w):
    rows, columns = np.mgrid[:h, :w].astype(np.float32)
    return np.stack([rows, columns, 2 * rows - columns], -1)


@pytest.mark.parametrize("function", RESIZES)
def test_a_constant_picture_stays_constant(function):
    x = np.full((2, 7, 11, 3), 0.625, np.float32)
    for size in [(5, 16), (14, 4), (7, 3)]:
        out = function(jnp.asarray(x), size)
        assert out.shape == (2, *size, 3)
        np.testing.assert_allclose(out, 0.625, atol=1e-6)


def test_nearest_floors_and_does_not_round_at_half_pixels():
    assert resize.nearest_index(5, 7).tolist() == [0, 1, 2, 4, 5]
    # In exact arithmetic pixel 6 of 448 -> 384 would be 7; the float32 product falls just below.
    table = resize.nearest_index(384, 448)
    exact = np.arange(384) * 448 // 384
    assert (table != exact).any() and (np.abs(table - exact) <= 1).all()


def test_nearest_keeps_integers_and_works_on_host_arrays():
    x = np.arange(7 * 4, dtype=np.uint8).reshape(7, 4, 1)
    out = resize.nearest(x, (5, 8))
    assert isinstance(out, np.ndarray) and out.dtype == np.uint8
    assert out[:, 0, 0].tolist() == [0, 4, 8, 16, 20] and out[0, :4, 0].tolist() == [0, 0, 1, 1]


def test_align_corners_keeps_linear_pictures_linear():
    for function in (resize.bilinear_align_corners, bicubic_align_corners):
        out = np.asarray(function(_ramp(9, 13), (17, 25)))[4:-4, 4:-4]
        np.testing.assert_allclose(out[..., 0], np.mgrid[:17, :25][0][4:-4, 4:-4] / 2, atol=1e-5)
        np.testing.assert_allclose(out[..., 1], np.mgrid[:17, :25][1][4:-4, 4:-4] / 2, atol=1e-5)


def test_halving_is_the_mean_of_two_and_quartering_of_the_middle_two():
    x = np.random.default_rng(0).normal(size=(8, 16, 2)).astype(np.float32)
    half = x.reshape(4, 2, 8, 2, 2).mean((1, 3))
    np.testing.assert_allclose(resize.bilinear(x, (4, 8)), half, atol=1e-6)
    np.testing.assert_allclose(resize.area(x, (4, 8)), half, atol=1e-6)
    quarter = x.reshape(2, 4, 4, 4, 2)[:, 1:3, :, 1:3].mean((1, 3))
    np.testing.assert_allclose(resize.bilinear(x, (2, 4)), quarter, atol=1e-6)


def test_an_unchanged_size_returns_the_same_picture():
    x = jnp.asarray(_ramp(6, 8))
    for function in RESIZES:
        np.testing.assert_array_equal(function(x, (6, 8)), x)


def test_bfloat16_pictures_stay_bfloat16():
    x = jnp.asarray(_ramp(6, 8), jnp.bfloat16)
    out = jax.jit(resize.bilinear, static_argnums=1)(x, (12, 5))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(out, np.float32), resize.bilinear(_ramp(6, 8), (12, 5)), atol=0.1
    )


@pytest.mark.parametrize("length, out", PAIRS)
@pytest.mark.parametrize(
    "function, options",
    [
        (resize.bilinear, {"mode": "bilinear", "align_corners": False}),
        (resize.bilinear_align_corners, {"mode": "bilinear", "align_corners": True}),
        (bicubic_align_corners, {"mode": "bicubic", "align_corners": True}),
        (resize.area, {"mode": "area"}),
        (resize.nearest, {"mode": "nearest"}),
    ],
)
@pytest.mark.full
def test_every_rule_equals_pytorch(function, options, length, out):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(2, length, 10, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size=(out, 13), **options
    )
    ours = function(jnp.asarray(x), (out, 13))
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=2e-6)


@pytest.mark.full
def test_the_nearest_table_equals_pytorch_for_the_sizes_of_motion_fields():
    torch = pytest.importorskip("torch")
    for length, out in [(448, 384), (896, 384), (384, 608), (384, 1216), (576, 384), (384, 1024)]:
        theirs = torch.nn.functional.interpolate(
            torch.arange(length, dtype=torch.float32)[None, None], size=out, mode="nearest"
        )
        np.testing.assert_array_equal(resize.nearest_index(out, length), theirs[0, 0].numpy())


@pytest.mark.parametrize("size", [(9, 12), (40, 31), (40, 12), (17, 22), (3, 5)])
def test_antialiased_cubic_is_pillows(size):
    picture = np.random.default_rng(0).integers(0, 256, (17, 22, 3), np.uint8)
    theirs = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
    ours = resize.bicubic_antialiased(picture.astype(np.float32), size, 0, 255)
    # Pillow rounds after each of the two passes. All its releases begin with the columns for these.
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=1.2)
    assert ours.min() >= 0 and ours.max() <= 255


@pytest.mark.parametrize("size", [(9, 12), (40, 31), (40, 12), (17, 22), (3, 5)])
def test_antialiased_linear_is_pillows(size):
    picture = np.random.default_rng(0).random((17, 22)).astype(np.float32)  # not rounded in between
    theirs = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
    ours = resize.bilinear_antialiased(picture[..., None], size)[..., 0]
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-6)


def test_overshoot_is_cut_after_the_axis_that_pillow_begins_with():
    picture = np.random.default_rng(1).integers(0, 2, (17, 22, 1)).astype(np.float32)
    cut = lambda x: np.clip(x, 0, 1)
    along = {
        "rows": lambda x: resize.bicubic_antialiased(x, (9, x.shape[1]), -9, 9),
        "columns": lambda x: resize.bicubic_antialiased(x, (x.shape[0], 31), -9, 9),
    }
    orders = [[along["rows"], along["columns"]], [along["columns"], along["rows"]]]
    both = [cut(second(cut(first(picture)))) for first, second in orders]
    assert np.abs(both[0] - both[1]).max() > 0.01
    ours = resize.bicubic_antialiased(picture, (9, 31), 0, 1)  # fewer rows, more columns
    np.testing.assert_allclose(ours, both[0], atol=1e-5)
