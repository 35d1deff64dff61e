"""VBench's scores of one video (Huang et al. 2024), from features or flow: higher is better, 0..1.

Motion smoothness and imaging quality are not here: their networks are not free, VBench itself runs
them (docs/evaluation.md). A copied picture is perfectly consistent and does not flicker, so none of
these means anything without the dynamic degree or the real videos' own scores (host code).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

FLOW_RATE = 8  # frames per second that flow is measured at
FLOW_UPDATES = 20  # of RAFT
_FASTEST = 0.05  # share of the pixels that a pair's motion is the mean of
_MOVING_RADIUS = 6 / 256  # pixels of flow per pixel of the short side
_MOVING_PAIRS = 4 / 16  # of the sampled frames


def flickering(frames: Iterable[np.ndarray]) -> float:
    """Temporal flickering of frames (h, w, 3) uint8: 1 minus the mean difference of neighbours.

    Raises ValueError for fewer than two frames, which have no neighbours.
    """
    return 1 - float(np.mean(differences(frames))) / 255


def differences(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Mean absolute difference of each frame (h, w, 3) uint8 from the next, (f - 1,) in grey
    levels. Frames may be streamed."""
    found = [np.abs(a.astype(np.int16) - b).mean(dtype=np.float64) for a, b in pairwise(frames)]
    if not found:
        raise ValueError("fewer than two frames: flickering is the difference of neighbours")
    return np.array(found)


def consistency(features: np.ndarray) -> np.ndarray:
    """Subject (DINO) or background (CLIP) consistency of every frame but the first, (f - 1,).

    features (f, c) of a video's frames: cosines with the frame before and with the first one,
    negative ones counted as 0, averaged. A set's score is the mean over all frames of all videos.
    """
    z = np.asarray(features, np.float64)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-8)
    before = (z[:-1] * z[1:]).sum(1)
    first = z[1:] @ z[0]
    return (np.maximum(before, 0) + np.maximum(first, 0)) / 2


def flow_interval(fps: float) -> int:
    """Every how-many-th frame flow is measured between."""
    return max(1, round(fps / FLOW_RATE))


def largest_motion(flow: np.ndarray) -> float:
    """Motion of a pair of frames: the mean length of the longest 5 % of flow (h, w, 2) in pixels.

    The flow is that of the padded picture, as released.
    """
    length = np.sort(np.linalg.norm(np.asarray(flow, np.float64), axis=-1).ravel())
    return float(length[-max(1, int(_FASTEST * length.size)) :].mean())


def is_moving(motions: np.ndarray, size: tuple[int, int]) -> bool:
    """Dynamic degree of a video, which is yes or no.

    motions (n - 1,) of `largest_motion` between n sampled frames of size (height, width) pixels.
    """
    fast = int((np.asarray(motions) > _MOVING_RADIUS * min(size)).sum())
    return len(motions) > 0 and fast >= round(_MOVING_PAIRS * (len(motions) + 1))
