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
    hand: float  # wrist to the tip of the middle finger


class Stance(NamedTuple):
    """How a figure stands; pairs are right, left."""

    pelvis: tuple[float, float]  # hips' middle
    lean: float  # torso from upright, to the left of the figure positive
    shrug: float  # shoulder line from level, its left shoulder down positive
    nod: tuple[float, float]  # shift of the face features in the head, fractions of its half width
    arms: tuple[tuple[float, float], tuple[float, float]]  # upper arm, forearm
    ankles: tuple[tuple[float, float], tuple[float, float]]
    spread: float = 1.0  # fingers: 0 closed, 1 open


def keypoints(body: Body, stance: Stance) -> dict[str, np.ndarray]:
    """body (18, 2), face (70, 2), hands (2, 21, 2) left then right, in the OpenPose layout."""
    joints = np.zeros((18, 2))
    pelvis = np.array(stance.pelvis)
    up = np.array([np.sin(stance.lean), -np.cos(stance.lean)])
    across = np.array([np.cos(stance.shrug), np.sin(stance.shrug)])
    neck = pelvis + body.torso * up
    nose = neck + body.neck * up
    hands = np.zeros((2, 21, 2))
    for side, (shoulder, hip), (upper, fore), ankle, row in (
        (RIGHT, (2, 8), stance.arms[0], stance.ankles[0], 1),
        (LEFT, (5, 11), stance.arms[1], stance.ankles[1], 0),
    ):
        joints[shoulder] = neck + side * body.shoulders * across
        joints[shoulder + 1] = joints[shoulder] + body.upper_arm * _direction(upper, side)
        joints[shoulder + 2] = joints[shoulder + 1] + body.forearm * _direction(fore, side)
        joints[hip] = pelvis + (side * body.hips, 0.0)
        joints[hip + 2] = ankle
        joints[hip + 1] = _knee(joints[hip], joints[hip + 2], body.thigh, body.shin, side)
        hands[row] = _hand(joints[shoulder + 2], fore, side, body.hand, stance.spread)
    shift = np.array(stance.nod) * body.head
    joints[0], joints[1] = nose + shift, neck
    side_axis = np.array([-up[1], up[0]])  # from the figure's right to its left
    for side, eye, ear in ((RIGHT, 14, 16), (LEFT, 15, 17)):
        joints[eye] = nose + shift + body.head * (0.42 * side * side_axis + 0.30 * up)
        joints[ear] = nose + 0.3 * shift + body.head * (1.0 * side * side_axis + 0.12 * up)
    face = nose + shift + body.head * (_face()[:, :1] * side_axis - _face()[:, 1:] * up)
    return {"body": joints, "face": face, "hands": hands}


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


def _hand(wrist: np.ndarray, angle: float, side: int, size: float, spread: float) -> np.ndarray:
    """Wrist and five fingers of four points, (21, 2); the thumb is on the body's side."""
    points = [np.asarray(wrist)]
    # Turn from the forearm, length of the knuckle, length of the finger; thumb to little finger.
    fingers = (
        (-0.75, 0.22, 0.42),
        (-0.26, 0.5, 0.46),
        (-0.05, 0.5, 0.5),
        (0.15, 0.48, 0.45),
        (0.34, 0.45, 0.36),
    )
    for turn, knuckle, length in fingers:
        root = wrist + size * knuckle * _direction(angle + turn * (0.7 + 0.3 * spread), side)
        way = _direction(angle + turn * (0.25 + 0.9 * spread), side)
        points += [root + size * length * share * way for share in (0.0, 0.4, 0.72, 1.0)]
    return np.array(points)


def _face() -> np.ndarray:
    """The 68 face points and two pupils from the nose, (70, 2) x, y in half widths of the face."""
    turn = np.linspace(0, np.pi, 17)
    jaw = np.stack([-np.cos(turn), 0.95 * np.sin(turn) ** 0.9 - 0.05], -1)
    brow = np.stack([np.linspace(-0.68, -0.18, 5), [-0.5, -0.6, -0.63, -0.6, -0.53]], -1)
    bridge = np.stack([np.zeros(4), [-0.3, -0.2, -0.1, 0.0]], -1)
    nostrils = np.stack([np.linspace(-0.15, 0.15, 5), [0.07, 0.1, 0.12, 0.1, 0.07]], -1)
    eye_x = np.array([-0.16, -0.08, 0.08, 0.16, 0.08, -0.08])
    eye = np.stack([eye_x - 0.42, np.array([0, -0.08, -0.08, 0, 0.06, 0.06]) - 0.30], -1)
    mirror = np.array([-1.0, 1.0])
    left_eye = (eye * mirror)[[3, 2, 1, 0, 5, 4]]
    around = np.pi - np.arange(12) * np.pi / 6
    lips = np.stack([0.30 * np.cos(around), 0.42 - 0.12 * np.sin(around)], -1)
    around = np.pi - np.arange(8) * np.pi / 4
    mouth = np.stack([0.20 * np.cos(around), 0.42 - 0.04 * np.sin(around)], -1)
    pupils = np.array([[-0.42, -0.30], [0.42, -0.30]])
    parts = [jaw, brow, (brow * mirror)[::-1], bridge, nostrils, eye, left_eye, lips, mouth, pupils]
    return np.concatenate(parts)
