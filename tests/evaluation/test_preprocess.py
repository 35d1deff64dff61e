"""What evaluation networks are given: against the published loaders written again with Pillow."""

import math

import numpy as np
import pytest
from PIL import Image

from dispose_jax.evaluation import preprocess


def loaded(frame: np.ndarray, side: int, stretch) -> np.ndarray:
    """VideoGPT's rule: scale the short side, round the other one up, cut out the middle."""
    h, w = frame.shape[:2]
    scale = side / min(h, w)
    size = (side, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), side)
    x = np.stack([stretch(channel, size) for channel in np.moveaxis(frame, -1, 0)], -1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return x[top : top + side, left : left + side]


def antialiased(channel: np.ndarray, size) -> np.ndarray:
    picture = Image.fromarray(channel.astype(np.float32) / 255)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def sampled(channel: np.ndarray, size) -> np.ndarray:
    """Bilinear at half-pixel centres, without antialias."""
    x = channel.astype(np.float64)
    for axis, out in enumerate(size):
        length = x.shape[axis]
        source = np.maximum((np.arange(out) + 0.5) * length / out - 0.5, 0)
        left = np.minimum(source.astype(int), length - 1)
        right = np.minimum(left + 1, length - 1)
        weight = np.expand_dims(source - left, 1 - axis)
        x = (1 - weight) * x.take(left, axis) + weight * x.take(right, axis)
    return x


@pytest.mark.parametrize("size", [(100, 100), (50, 70), (70, 50), (300, 260)])
def test_the_common_fvd_cuts_out_the_middle(size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = 2 * loaded(frame, 224, sampled) / 255 - 1
    np.testing.assert_allclose(preprocess.i3d_common(frame[None])[0], expected, atol=1e-4)


@pytest.mark.parametrize("size", [(400, 560), (560, 300), (120, 200), (300, 300)])
def test_cd_fvd_sees_the_middle_of_a_video(size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    square = np.floor(255 * loaded(frame, 256, antialiased).astype(np.float64))
    columns = [sampled(channel, (224, 224)) for channel in np.moveaxis(square, -1, 0)]
    error = np.abs(np.asarray(preprocess.cd_fvd(frame[None])[0]) - np.stack(columns, -1) / 255)
    # A level that is whole up to rounding may be one lower.
    assert error.max() < 1.01 / 255 and np.mean(error > 1e-4) < 1e-3
