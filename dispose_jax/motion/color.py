"""Flow as a picture: direction is hue, length is saturation (host code).

The colour wheel of the Middlebury flow benchmark (Baker et al. 2007), as DisPose and CMP draw it.
"""

from __future__ import annotations

import numpy as np

_UNKNOWN = 1e7  # pixels; longer components mark places without flow
# Hues of each segment, the channel at full strength, the channel that changes, and whether it
# rises.
_SEGMENTS = (
    (15, 0, 1, True),  # red to yellow
    (6, 1, 0, False),  # yellow to green
    (4, 1, 2, True),  # green to cyan
    (11, 2, 1, False),  # cyan to blue
    (13, 2, 0, True),  # blue to magenta
    (6, 0, 2, False),  # magenta to red
)


def wheel() -> np.ndarray:
    """The hues around the circle: (55, 3) float64, RGB 0..255."""
    segments = []
    for length, full, changing, rises in _SEGMENTS:
        ramp = np.floor(255 * np.arange(length) / length)
        colors = np.zeros((length, 3))
        colors[:, full] = 255
        colors[:, changing] = ramp if rises else 255 - ramp
        segments.append(colors)
    return np.concatenate(segments)


def picture(flow: np.ndarray, *, least: float = 0.0) -> np.ndarray:
    """Colours of a flow (..., h, w, 2) -> (..., h, w, 3) uint8 RGB; zero flow is white.

    Each picture is normalised by its longest vector, or by `least` (pixels) if that is longer: 0 in
    DisPose, 5 in CMP. Vectors with a component beyond 1e7 or not a number are unknown: black.
    """
    flow = np.asarray(flow)
    # Squares of half precision overflow from 256 pixels on; whole numbers have no lengths.
    flow = flow.astype(np.promote_types(flow.dtype, np.float32), copy=False)
    pictures = flow.reshape(-1, *flow.shape[-3:])
    colors = [_picture(x, y, least) for x, y in np.moveaxis(pictures, -1, 1)]
    return np.stack(colors).reshape(*flow.shape[:-1], 3)


def _picture(x: np.ndarray, y: np.ndarray, least: float) -> np.ndarray:
    """One picture, (h, w) each -> (h, w, 3) uint8; one at a time stays in the cache."""
    unknown = ~((np.abs(x) <= _UNKNOWN) & (np.abs(y) <= _UNKNOWN))
    x, y = np.where(unknown, 0, x), np.where(unknown, 0, y)
    longest = max(np.sqrt(x * x + y * y).max(), least) + np.finfo(np.float64).eps
    # In the flow's own precision if it is single or double, as the original: the longest vector
    # lies on the rim, where the formula changes, and more digits would put it on the other side.
    x, y = x / x.dtype.type(longest), y / y.dtype.type(longest)
    radius = np.sqrt(x * x + y * y)
    hues = wheel().astype(x.dtype) / 255
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(hues) - 1)
    left = place.astype(np.int64)
    fraction = place - left
    picture = np.empty((*x.shape, 3), np.uint8)
    for channel, (low, high) in enumerate(zip(hues.T, np.roll(hues, -1, 0).T)):
        color = low[left]
        color += fraction * (high[left] - color)
        color = np.where(radius <= 1, 1 - radius * (1 - color), 0.75 * color)
        picture[..., channel] = np.where(unknown, 0, 255 * color)  # truncated
    return picture
