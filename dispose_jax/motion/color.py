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
    unknown = ~(np.abs(flow) <= _UNKNOWN).all(-1)
    flow = np.where(unknown[..., None], 0, flow)
    length = np.linalg.norm(flow, axis=-1)
    longest = np.maximum(length.max((-2, -1), keepdims=True), least)
    # The flow's own precision, as in the original: the longest vector lies exactly on the rim,
    # where the formula changes.
    flow = flow / (longest + np.finfo(np.float64).eps).astype(flow.dtype)[..., None]
    radius = np.sqrt(np.square(flow).sum(-1))[..., None]
    hues = wheel() / 255
    angle = np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi
    place = (angle + 1) / 2 * (len(hues) - 1)
    left = np.floor(place).astype(np.int64)
    fraction = (place - left)[..., None]
    color = (1 - fraction) * hues[left] + fraction * hues[(left + 1) % len(hues)]
    color = np.where(radius <= 1, 1 - radius * (1 - color), 0.75 * color)
    return np.where(unknown[..., None], 0, np.floor(255 * color)).astype(np.uint8)
