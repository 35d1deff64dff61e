"""An articulated figure in the plane: body sizes and joint angles -> the keypoints of a pose file.

Lengths and positions are in pixels, y down, angles in radians. An angle of a limb is measured from
hanging straight down, outwards positive: a quarter turn is horizontal, half a turn straight up.
"Right" is the figure's own right, which is on the left of the picture, as it faces the viewer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RIGHT, LEFT = -1, 1  # sign of x


class Body(NamedTuple):
    """Sizes of a figure, pixels."""

    torso: float  # hips' middle to neck
    neck: float  # neck to nose
    shoulders: float  # half of the width between them
    hips: float  # half
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    head: float  # half width of the face


class Stance(NamedTuple):
    """How a figure stands; pairs are right, left."""

    pelvis: tuple[float, float]  # hips' middle
    lean: float  # torso from upright, to the left of the figure positive
    shrug: float  # shoulder line from level, its left shoulder down positive
    nod: tuple[float, float]  # shift of the face features in the head, fractions of its half width
    arms: tuple[tuple[float, float], tuple[float, float]]  # upper arm, forearm
    ankles: tuple[tuple[float, float], tuple[float, float]]


def keypoints(body: Body, stance: Stance) -> np.ndarray:
    """The joints in OpenPose's order, (18, 2)."""
    joints = np.zeros((18, 2))
    pelvis = np.array(stance.pelvis)
    up = np.array([np.sin(stance.lean), -np.cos(stance.lean)])
    across = np.array([np.cos(stance.shrug), np.sin(stance.shrug)])
    neck = pelvis + body.torso * up
    nose = neck + body.neck * up
    for side, (shoulder, hip), (upper, fore), ankle in (
        (RIGHT, (2, 8), stance.arms[0], stance.ankles[0]),
        (LEFT, (5, 11), stance.arms[1], stance.ankles[1]),
    ):
        joints[shoulder] = neck + side * body.shoulders * across
        joints[shoulder + 1] = joints[shoulder] + body.upper_arm * _direction(upper, side)
        joints[shoulder + 2] = joints[shoulder + 1] + body.forearm * _direction(fore, side)
        joints[hip] = pelvis + (side * body.hips, 0.0)
        joints[hip + 2] = ankle
        joints[hip + 1] = _knee(joints[hip], joints[hip + 2], body.thigh, body.shin, side)
    shift = np.array(stance.nod) * body.head
    joints[0], joints[1] = nose + shift, neck
    side_axis = np.array([-up[1], up[0]])  # from the figure's right to its left
    for side, eye, ear in ((RIGHT, 14, 16), (LEFT, 15, 17)):
        joints[eye] = nose + shift + body.head * (0.42 * side * side_axis + 0.30 * up)
        joints[ear] = nose + 0.3 * shift + body.head * (1.0 * side * side_axis + 0.12 * up)
    return joints


def _direction(angle: float, side: int) -> np.ndarray:
    """Unit vector of a limb."""
    return np.array([side * np.sin(angle), np.cos(angle)])


def _knee(hip: np.ndarray, ankle: np.ndarray, thigh: float, shin: float, side: int) -> np.ndarray:
    """Where thigh and shin meet, outwards; a leg too short for its ankle is drawn out straight."""
    span = ankle - hip
    distance = np.hypot(*span)
    along = (distance**2 + thigh**2 - shin**2) / (2 * distance)
    if along >= thigh:
        return hip + span * thigh / (thigh + shin)
    axis = span / distance
    outwards = side * np.array([axis[1], -axis[0]])
    return hip + along * axis + np.sqrt(thigh**2 - along**2) * outwards
