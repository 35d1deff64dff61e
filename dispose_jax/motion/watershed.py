"""Guidance points of a flow: where CMP is told the motion during training (host code).

A regular grid, and the points farthest from motion edges, which lie in the middle of what moves as
one: the "watershed" sampling of Zhan et al. 2019 (CMP), which DisPose trains with (section 4.1,
appendix A). Points are integer x, y; randomness is the caller's generator.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import spatial

from dispose_jax.ops import resize
from dispose_jax.types import Impulses

_COARSE = 400  # pixels: twice as long a side is sampled on every second pixel
_LEAST_EDGE = 0.01  # pixels per pixel: flows that change less have no edges by rounding alone
_EDGE = 0.1  # of the strongest edge


def guide_points(
    flow: np.ndarray,
    *,
    kernel: int,
    bg_ratio: float,
    max_points: int | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Grid and watershed points of a flow (h, w, 2) in pixels: (g, 2) int32 x, y, each once. Paper
    appendix A; Zhan et al. 2019.

    kernel: side of the neighbourhood that a watershed point dominates, odd (15 in DisPose's
    training, 41 in CMP's own). bg_ratio: share of pixels that are grid points. max_points: a random
    choice of so many if there are more; None: all. Raises ValueError for values that mean nothing.
    """
    _check(flow, kernel, bg_ratio, max_points)
    height, width = flow.shape[:2]
    coarse = max(1, max(height, width) // _COARSE)
    points = peaks(edge_distance(motion_edges(flow[::coarse, ::coarse])), kernel)
    points = drop_ties(without_border(points, flow[::coarse, ::coarse].shape[:2]), kernel, rng)
    points = np.concatenate([grid((height, width), bg_ratio), points * coarse])
    points = np.unique(points, axis=0)  # where a grid point is a watershed point too
    if max_points is not None and len(points) > max_points:
        points = points[rng.permutation(len(points))[:max_points]]
    return points.astype(np.int32)


def guides(
    flows: np.ndarray,
    *,
    side: int,
    kernel: int,
    bg_ratio: float,
    max_points: int,
    rng: np.random.Generator,
) -> Impulses:
    """Guidance vectors of a clip in CMP's square of `side`: (f, max_points, ..), frame 0 empty. In
    training they take the place of the joints' P_d: paper section 4.1, appendix D, figure 14c.

    flows (f, h, w, 2) in pixels from the reference to every frame, frame 0 zero. All frames are
    told at the points of the last one, as in MOFA-Video's training. Where there are fewer points
    than max_points, the rest is not valid. Raises ValueError for values that mean nothing.
    """
    if flows.ndim != 4 or len(flows) < 2:
        raise ValueError(
            f"flows of shape {flows.shape}; expected (frames, height, width, 2), two frames or more"
        )
    if side < 1 or max_points < 1:
        raise ValueError(f"side {side}, max_points {max_points}: both must be 1 or more")
    frames, height, width = flows.shape[:3]
    rows, columns = (resize.nearest_index(side, length) for length in (height, width))
    scale = np.array([side / width, side / height], np.float32)
    squeezed = flows[-1][rows[:, None], columns] * scale
    points = guide_points(
        squeezed, kernel=kernel, bg_ratio=bg_ratio, max_points=max_points, rng=rng
    )
    x, y = points.T
    found = Impulses(
        np.zeros((frames, max_points, 2), np.int32),
        np.zeros((frames, max_points, 2), np.float32),
        np.zeros((frames, max_points), bool),
    )
    found.pixels[1:, : len(points)] = points
    found.vectors[1:, : len(points)] = flows[1:, rows[y], columns[x]] * scale
    found.valid[1:, : len(points)] = True
    return found


def edge_strength(flow: np.ndarray) -> np.ndarray:
    """How fast a flow (h, w, 2) changes: Sobel magnitudes of x and y added, (h, w) float32."""
    strength = np.zeros(flow.shape[:2], np.float32)
    for channel in np.moveaxis(np.asarray(flow, np.float32), -1, 0):
        channel = np.ascontiguousarray(channel)
        along = [
            cv2.Sobel(channel, cv2.CV_32F, *order, ksize=3, borderType=cv2.BORDER_REFLECT)
            for order in ((1, 0), (0, 1))
        ]
        strength += np.sqrt(along[0] ** 2 + along[1] ** 2)
    return strength


def motion_edges(flow: np.ndarray) -> np.ndarray:
    """Where a flow (h, w, 2) breaks: (h, w) bool, stronger than a tenth of the strongest edge."""
    strength = edge_strength(flow)
    return strength / max(strength.max(), _LEAST_EDGE) > _EDGE


def edge_distance(edges: np.ndarray) -> np.ndarray:
    """Euclidean distance to the nearest edge pixel: edges (h, w) bool -> (h, w) float32.

    Zero everywhere if there is no edge: then nothing is farther from one than the rest.
    """
    if not edges.any():
        return np.zeros(edges.shape, np.float32)
    ground = (~edges).astype(np.uint8)
    distance = cv2.distanceTransform(ground, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's roots differ in the last digit, which would decide between points equally far away;
    # the squares are integers.
    return np.sqrt(np.rint(distance * distance))


def peaks(height: np.ndarray, kernel: int) -> np.ndarray:
    """Positive maxima of their kernel x kernel neighbourhood: height (h, w) -> (g, 2) x, y.

    Row by row. The neighbourhood ends at the border; ties keep every point, plateaus too.
    """
    highest = cv2.dilate(height, np.ones((kernel, kernel), np.uint8))
    return np.argwhere((height >= highest) & (height > 0))[:, ::-1]


def without_border(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Those of the points (g, 2) x, y that are not on the outermost pixels of (height, width)."""
    height, width = size
    inside = (points > 0).all(1) & (points < [width - 1, height - 1]).all(1)
    return points[inside]


def drop_ties(points: np.ndarray, kernel: int, rng: np.random.Generator) -> np.ndarray:
    """Of points (g, 2) x, y closer than half a kernel in both axes, a coin drops one.

    Pairs come in the order of the points; a dropped one drops no other. After `peaks` only points
    of equal height are that close.
    """
    apart = (kernel - 1) // 2
    if len(points) < 2 or apart < 1:
        return points
    near = spatial.KDTree(points).query_pairs(apart - 0.5, p=np.inf, output_type="ndarray")
    near = near[np.lexsort((near[:, 1], near[:, 0]))]
    alive = np.ones(len(points), bool)
    for (first, second), coin in zip(near, rng.random(len(near)) < 0.5):
        if alive[first] and alive[second]:
            alive[second if coin else first] = False
    return points[alive]


def grid(size: tuple[int, int], bg_ratio: float) -> np.ndarray:
    """Points of a centred regular grid on (height, width), a share of about bg_ratio of its pixels:
    (g, 2) x, y."""
    stride = int(np.sqrt(1 / bg_ratio))
    rows, columns = (
        np.arange((length - length // stride * stride) // 2, length, stride) for length in size
    )
    return np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)


def _check(flow: np.ndarray, kernel: int, bg_ratio: float, max_points: int | None) -> None:
    """Raise ValueError for a flow or numbers that mean nothing."""
    if flow.ndim != 3 or flow.shape[-1] != 2 or not flow.size:
        raise ValueError(f"a flow of shape {flow.shape}; expected (height, width, 2)")
    if not np.isfinite(flow).all():
        raise ValueError("a flow with values that are not finite has no guidance points")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a neighbourhood of {kernel} pixels has no centre; give an odd number")
    if not 0 < bg_ratio <= 1:
        raise ValueError(f"bg_ratio {bg_ratio}: a share of the pixels, above 0 and at most 1")
    if max_points is not None and max_points < 1:
        raise ValueError(f"max_points {max_points}: must be 1 or more")
