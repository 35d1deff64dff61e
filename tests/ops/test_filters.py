"""The Gaussian matrix against direct sums with mirrored indices and against OpenCV."""

import cv2
import numpy as np
import pytest

from dispose_jax.ops import filters


def test_the_gaussian_sums_to_one_and_falls_as_exp_of_the_square():
    taps = filters.gaussian(199, 20)
    assert taps.shape == (199,) and taps.argmax() == 99
    np.testing.assert_allclose(taps.sum(), 1, rtol=1e-14)
    np.testing.assert_allclose(np.outer(taps, taps).max(), 3.97888e-4, rtol=1e-5)
    np.testing.assert_allclose(taps[99 + 20] / taps[99], np.exp(-0.5), rtol=1e-12)


@pytest.mark.parametrize("kernel, sigma", [(4, 1.0), (0, 1.0), (5, 0.0), (5, float("nan"))])
def test_impossible_gaussians_are_refused(kernel, sigma):
    with pytest.raises(ValueError, match="Gaussian"):
        filters.gaussian(kernel, sigma)


@pytest.mark.parametrize("length", [1, 2, 3, 10, 40])
def test_the_border_mirrors_as_often_as_the_kernel_reaches(length):
    taps = np.random.default_rng(0).random(31)
    x = np.random.default_rng(1).normal(size=length)
    padded = x
    while len(padded) < length + 2 * 15:  # one mirror at a time, never more than numpy can see
        pad = min(len(padded) - 1, 15) if length > 1 else 15
        padded = np.pad(padded, pad, mode="reflect" if length > 1 else "edge")
    extra = (len(padded) - length) // 2 - 15
    padded = padded[extra : len(padded) - extra]
    expected = np.correlate(padded, taps, "valid")
    np.testing.assert_allclose(filters.filter_matrix(taps, length) @ x, expected, atol=1e-12)


def test_blur_equals_opencv_with_a_kernel_larger_than_the_picture():
    x = np.random.default_rng(2).normal(size=(24, 17))
    theirs = cv2.GaussianBlur(x, (41, 9), sigmaX=7, sigmaY=2, borderType=cv2.BORDER_REFLECT_101)
    rows = filters.filter_matrix(filters.gaussian(9, 2.0), 24)
    columns = filters.filter_matrix(filters.gaussian(41, 7.0), 17)
    np.testing.assert_allclose(rows @ x @ columns.T, theirs, atol=1e-12)
