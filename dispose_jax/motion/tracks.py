"""Keypoint trajectories as impulses: motion vectors and where they sit (host code, float64).

Two kinds (DisPose section 4.1): steps from each frame to the next (P_s, eq. 3), which become the
sparse field, and steps from the reference to each frame (P_d, eq. 4), which guide the dense field.
Only person 0 moves anything.
"""

from __future__ import annotations

import numpy as np

from dispose_jax.types import Impulses, Pose

Size = tuple[int, int]  # height, width

MISSING_JOINTS = ("released", "drop")


def positions(pose: Pose, size: Size) -> np.ndarray:
    """Joints in pixels (f, 18, 2) float64, moved inside the picture; (0, 0) where missing."""
    height, width = size
    seen = pose.visible[:, 0, :, None]
    xy = np.where(seen, pose.body[:, 0], 0)  # missing joints may hold anything
    return np.clip(xy * np.array([width, height]), 0, [width - 1, height - 1])


def steps(pose: Pose, size: Size, missing_joints: str) -> Impulses:
    """Displacement of each joint from frame n - 1 to n, at its pixel in frame n - 1: P_s, paper
    eq. 3.

    missing_joints "released": only the start must be seen; where the end is missing, the vector
    leads to the corner (0, 0), as the original writes it. "drop": both ends must be seen.
    """
    _check(missing_joints)
    points, seen = positions(pose, size), pose.visible[:, 0]
    valid = seen[:-1] if missing_joints == "released" else seen[:-1] & seen[1:]
    return _impulses(points[:-1], points[1:] - points[:-1], valid, size)


def from_reference(pose: Pose, size: Size, side: int, missing_joints: str) -> Impulses:
    """Displacement of each joint from the reference to frame n, at its reference pixel: P_d, paper
    eq. 4.

    Pixels and vectors are those of a square of `side` that the picture of `size` is squeezed into,
    CMP's input. missing_joints "released": visibility is ignored, as in the original; a missing
    joint counts as one at the corner (0, 0). "drop": only joints seen in the reference and in frame
    n.
    """
    _check(missing_joints)
    height, width = size
    points, seen = positions(pose, size), pose.visible[:, 0]
    if size != (side, side):
        points = points / np.array([width, height]) * side
    valid = np.ones_like(seen[1:]) if missing_joints == "released" else seen[:1] & seen[1:]
    start = np.broadcast_to(points[:1], points[1:].shape)
    return _impulses(start, points[1:] - points[:1], valid, (side, side))


def _impulses(start: np.ndarray, vectors: np.ndarray, valid: np.ndarray, size: Size) -> Impulses:
    """Impulses of frames 1.. after an empty frame 0; on a shared pixel the last joint wins."""
    height, width = size
    pixels = np.clip(np.trunc(start), 0, [width - 1, height - 1]).astype(np.int32)
    flat = pixels[..., 1] * width + pixels[..., 0]  # (f - 1, 18)
    same = (flat[:, :, None] == flat[:, None, :]) & valid[:, None, :]
    overwritten = np.triu(same, 1).any(-1)  # by a later joint
    empty = lambda x: np.concatenate([np.zeros_like(x[:1]), x])
    return Impulses(empty(pixels), empty(vectors), empty(valid & ~overwritten))


def _check(missing_joints: str) -> None:
    if missing_joints not in MISSING_JOINTS:
        raise ValueError(
            f"quirks.missing_joints is {missing_joints!r}; it must be one of {MISSING_JOINTS}"
        )
