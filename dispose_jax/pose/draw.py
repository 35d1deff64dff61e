"""Skeleton pictures: what PoseNet of MimicMotion was trained to read (host code, OpenCV).

Strokes have fixed pixel widths on a canvas whose short side is 2160 pixels, which is then reduced
without antialiasing; brightness follows the scores. The released code swaps the first and the last
colour channel of the finished picture, so the limbs that OpenPose paints red reach the network
blue.
"""

from __future__ import annotations

import colorsys
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from dispose_jax.types import VISIBLE_SCORE, Pose

CANVAS_SHORT_SIDE = 2160
LIMB_HALF_WIDTH = 4
LIMB_DIMMING = 0.6  # limbs are darker than the joints painted over them
JOINT_RADIUS, HAND_RADIUS, FACE_RADIUS = 4, 4, 3
HAND_LINE_WIDTH = 2

# OpenPose's limbs without its two from shoulder to ear, as 0-based joints; limb i has colour i.
LIMBS = np.array(
    [(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)]
    + [(1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)]
)
COLORS = np.array(
    [(255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)]
    + [(0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)]
    + [(0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)]
)
HAND_EDGES = np.array([(0 if i % 4 == 0 else i, i + 1) for i in range(20)])  # wrist, five fingers
HAND_COLORS = np.array([colorsys.hsv_to_rgb(i / 20, 1.0, 1.0) for i in range(20)])


def draw(pose: Pose, height: int, width: int, *, canvas: int = CANVAS_SHORT_SIDE) -> np.ndarray:
    """Skeletons of everybody in every frame -> (f, height, width, 3) uint8, as the base model
    expects them.

    canvas: short side that is painted on, pixels; a smaller one gives thicker strokes. Points of
    score 0 are not drawn, points outside the picture are cut off. Frames are drawn in threads:
    OpenCV releases the interpreter lock.
    """
    pictures = np.empty((pose.num_frames, height, width, 3), np.uint8)
    ratio = canvas / min(height, width)
    canvas_shape = (int(height * ratio), int(width * ratio), 3)

    def draw_frame(i: int) -> None:
        painted = np.zeros(canvas_shape, np.uint8)
        person_by_person = pose.at(i)  # leaves (p, ...)
        paint_bodies(painted, person_by_person)
        paint_hands(painted, person_by_person)
        paint_faces(painted, person_by_person)
        small = cv2.resize(painted, (width, height), interpolation=cv2.INTER_LINEAR)
        pictures[i] = small[..., ::-1]

    workers = max(1, min(os.cpu_count() or 1, 16, pose.num_frames))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw_frame, range(pose.num_frames)))
    return pictures


def preview(reference: np.ndarray, pose: Pose) -> np.ndarray:
    """The skeletons of a one-frame pose over a dimmed picture, to judge a fit by eye.

    reference (h, w, 3) uint8 RGB. Returns the same shape and type; colours are those of `draw`.
    """
    if pose.num_frames != 1:
        raise ValueError(
            f"a preview shows one frame, the pose has {pose.num_frames}; pick one with .at"
        )
    skeleton = draw(pose, *reference.shape[:2])[0]
    brightest = skeleton.max(axis=-1, keepdims=True)
    # Strokes are one or two pixels wide and partly dark: full brightness wherever there is one.
    stroke = skeleton.astype(int) * 255 // np.maximum(brightest, 1)
    return np.where(brightest > 0, stroke, reference * 0.5).astype(np.uint8)


def paint_bodies(canvas: np.ndarray, pose: Pose) -> None:
    """Paint limbs, then joints, of the people of one frame into canvas (h, w, 3) uint8, in place.

    pose: leaves without frame axis, (p, ...). The order is limb by limb, then person by person.
    """
    xy = _on_canvas(pose.body, canvas)
    start, end = xy[:, LIMBS[:, 0]], xy[:, LIMBS[:, 1]]  # (p, 17, 2)
    start_score, end_score = pose.body_score[:, LIMBS[:, 0]], pose.body_score[:, LIMBS[:, 1]]
    drawn = (start_score >= VISIBLE_SCORE) & (end_score >= VISIBLE_SCORE)
    centre = ((start + end) / 2).astype(int)
    offset = start - end
    half_length = (np.hypot(offset[..., 0], offset[..., 1]) / 2).astype(int)
    angle = np.degrees(np.arctan2(offset[..., 1], offset[..., 0])).astype(int)
    color = _dim(COLORS[:17] * (start_score * end_score)[..., None], LIMB_DIMMING)
    for limb in range(len(LIMBS)):
        for person in np.flatnonzero(drawn[:, limb]):
            at = (person, limb)
            axes = (int(half_length[at]), LIMB_HALF_WIDTH)
            outline = cv2.ellipse2Poly(centre[at].tolist(), axes, int(angle[at]), 0, 360, 1)
            cv2.fillConvexPoly(canvas, outline, color[at].tolist())
    points = xy.astype(int)
    color = _dim(COLORS * pose.body_score[..., None])
    for joint in range(len(COLORS)):
        for person in np.flatnonzero(pose.body_score[:, joint] > VISIBLE_SCORE):
            at = (person, joint)
            cv2.circle(canvas, points[at].tolist(), JOINT_RADIUS, color[at].tolist(), -1)


def paint_hands(canvas: np.ndarray, pose: Pose) -> None:
    """Paint the hands of the people of one frame, all left ones first, in place: finger lines, then
    points."""
    points = _on_canvas(pose.hands, canvas).astype(int)  # (p, 2, 21, 2)
    drawn = (points > 0).all(-1) & (pose.hands_score > 0)
    for side in (0, 1):
        for person in np.flatnonzero(drawn[:, side].any(-1)):
            hand, score, seen = (a[person, side] for a in (points, pose.hands_score, drawn))
            lines = np.flatnonzero(seen[HAND_EDGES].all(-1))
            strength = np.floor(score[HAND_EDGES].prod(-1) * 255)
            color = HAND_COLORS * strength[:, None]
            for i in lines:
                a, b = hand[HAND_EDGES[i]].tolist()
                cv2.line(canvas, a, b, color[i].tolist(), HAND_LINE_WIDTH)
            for point, strength in zip(hand[seen].tolist(), _dim(score[seen] * 255).tolist()):
                cv2.circle(canvas, point, HAND_RADIUS, (0, 0, strength), -1)


def paint_faces(canvas: np.ndarray, pose: Pose) -> None:
    """Paint the face points of the people of one frame in grey, in place."""
    points = _on_canvas(pose.face, canvas).astype(int)  # (p, 68, 2)
    drawn = (points > 0).all(-1) & (pose.face_score > 0)
    grey = _dim(pose.face_score * 255)
    for point, strength in zip(points[drawn].tolist(), grey[drawn].tolist()):
        cv2.circle(canvas, point, FACE_RADIUS, (strength,) * 3, -1)


def _on_canvas(xy: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Fractions (..., 2) -> canvas pixels. Bounded, since a wild fit must not overflow OpenCV's
    integers."""
    return np.clip(xy, -100.0, 100.0) * (canvas.shape[1], canvas.shape[0])


def _dim(color: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """What a canvas holds after painting color (whole, at most 255) and multiplying it by factor,
    truncated."""
    # Nothing is blended, so dimming the colours equals dimming the canvas, 25 MB per frame.
    return (np.minimum(np.floor(color), 255.0) * factor).astype(np.uint8)
