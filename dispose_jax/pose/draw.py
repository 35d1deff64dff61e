"""Skeleton pictures: what the pose encoders of the base models were trained to read (host code,
OpenCV).

Strokes have pixel widths of a large canvas, which is then reduced. All bases share the limbs and
their colours; what differs between them is a `Style`. The released code of two of them swaps the
first and the last colour channel of the finished picture, so the limbs that OpenPose paints red
reach the network blue.
"""

from __future__ import annotations

import colorsys
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np

from dispose_jax.types import VISIBLE_SCORE, Pose

CANVAS_SHORT_SIDE = 2160
LIMB_DIMMING = 0.6  # limbs are darker than the joints painted over them
JOINT_RADIUS, FACE_RADIUS = 4, 3
STROKE_LENGTHS = (5, 10, 20, 40, 80, 160, 320)  # canvas pixels; a width for each and for longer
BY_LENGTH = (1, 2, 3, 4, 5, 6, 7, 8)
_WORTH_THREADS = 512 * 512  # pixels of a canvas: less is painted before a thread has begun


@dataclass(frozen=True)
class Style:
    """How a base model's skeletons look.

    shaded: colours are multiplied by the scores; else what is visible has full strength and the
    rest is left out. limb_widths: half widths, and hand_widths: widths, of strokes shorter than
    each of STROKE_LENGTHS and of longer ones. people: "all", "first", or "surest", the one of the
    highest mean body score. face: its points are drawn. swapped: red and blue are exchanged at the
    end. video_canvas: when a driving video's poses are drawn on another body, the canvas has that
    video's shape, which makes strokes oval. averaged: the canvas of a picture's own poses is
    reduced by averaging, as the training data was; else bilinearly without antialiasing. hidden:
    body joints that are left out, with the limbs that end there.
    """

    shaded: bool = False
    limb_widths: tuple[int, ...] = (4,) * 8
    hand_widths: tuple[int, ...] = (2,) * 8
    hand_radius: int = 4
    people: str = "all"
    face: bool = True
    swapped: bool = True
    video_canvas: bool = False
    averaged: bool = False
    hidden: tuple[int, ...] = ()


MIMICMOTION = Style(shaded=True)
STYLES = {
    "mimicmotion": MIMICMOTION,
    "musepose": Style(
        limb_widths=BY_LENGTH,
        hand_widths=BY_LENGTH,
        hand_radius=3,
        people="first",
        face=False,
        video_canvas=True,
        averaged=True,
    ),
    "moore": Style(people="surest", swapped=False),  # Moore-AnimateAnyone
}


def style_of(skeleton) -> Style:
    """The style that a `config.skeleton` describes."""
    return replace(STYLES[skeleton.style], hidden=tuple(skeleton.hidden))


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


def draw(
    pose: Pose,
    height: int,
    width: int,
    *,
    canvas: int = CANVAS_SHORT_SIDE,
    style: Style = MIMICMOTION,
    video_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Skeletons of every frame -> (f, height, width, 3) uint8, as the base model expects them.

    canvas: short side that is painted on, pixels; a smaller one gives thicker strokes. video_size
    (width, height): of the driving video whose poses were brought to another body; None for the
    poses of the pictures themselves. A style with video_canvas then paints `canvas` pixels wide in
    that shape. Points of score 0 are not drawn, points outside the picture are cut off. Frames of
    a large canvas are drawn in threads: OpenCV releases the interpreter lock.
    """
    pictures = np.empty((pose.num_frames, height, width, 3), np.uint8)
    canvas_shape = (*canvas_size(style, (height, width), canvas, video_size), 3)
    average = style.averaged and video_size is None
    interpolation = cv2.INTER_AREA if average else cv2.INTER_LINEAR
    pose = _chosen(pose, style)

    def draw_frame(i: int) -> None:
        painted = np.zeros(canvas_shape, np.uint8)
        person_by_person = pose.at(i)  # leaves (p, ...)
        paint_bodies(painted, person_by_person, style)
        paint_hands(painted, person_by_person, style)
        if style.face:
            paint_faces(painted, person_by_person)
        small = cv2.resize(painted, (width, height), interpolation=interpolation)
        pictures[i] = small[..., ::-1] if style.swapped else small

    if canvas_shape[0] * canvas_shape[1] < _WORTH_THREADS:
        for i in range(pose.num_frames):
            draw_frame(i)
        return pictures
    workers = max(1, min(os.cpu_count() or 1, 16, pose.num_frames))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw_frame, range(pose.num_frames)))
    return pictures


def canvas_size(
    style: Style, size: tuple[int, int], canvas: int, video_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Height and width that pictures of size (height, width) are painted at; see `draw`."""
    if style.video_canvas and video_size is not None:
        width, height = video_size
        return int(height * canvas / width), canvas
    ratio = canvas / min(size)
    return int(size[0] * ratio), int(size[1] * ratio)


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


def paint_bodies(canvas: np.ndarray, pose: Pose, style: Style = MIMICMOTION) -> None:
    """Paint limbs, then joints, of the people of one frame into canvas (h, w, 3) uint8, in place.

    pose: leaves without frame axis, (p, ...). The order is limb by limb, then person by person.
    """
    xy = _on_canvas(pose.body, canvas)
    start, end = xy[:, LIMBS[:, 0]], xy[:, LIMBS[:, 1]]  # (p, 17, 2)
    start_score, end_score = pose.body_score[:, LIMBS[:, 0]], pose.body_score[:, LIMBS[:, 1]]
    drawn = (start_score >= VISIBLE_SCORE) & (end_score >= VISIBLE_SCORE)
    centre = ((start + end) / 2).astype(int)
    offset = start - end
    length = np.hypot(offset[..., 0], offset[..., 1])
    half_width = _width(length, style.limb_widths)
    half_length = (length / 2).astype(int)
    angle = np.degrees(np.arctan2(offset[..., 1], offset[..., 0])).astype(int)
    color = _dim(COLORS[:17] * (start_score * end_score)[..., None], LIMB_DIMMING)
    for limb in range(len(LIMBS)):
        for person in np.flatnonzero(drawn[:, limb]):
            at = (person, limb)
            axes = (int(half_length[at]), int(half_width[at]))
            outline = cv2.ellipse2Poly(centre[at].tolist(), axes, int(angle[at]), 0, 360, 1)
            cv2.fillConvexPoly(canvas, outline, color[at].tolist())
    points = xy.astype(int)
    color = _dim(COLORS * pose.body_score[..., None])
    for joint in range(len(COLORS)):
        for person in np.flatnonzero(pose.body_score[:, joint] > VISIBLE_SCORE):
            at = (person, joint)
            cv2.circle(canvas, points[at].tolist(), JOINT_RADIUS, color[at].tolist(), -1)


def paint_hands(canvas: np.ndarray, pose: Pose, style: Style = MIMICMOTION) -> None:
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
            offset = hand[HAND_EDGES[:, 0]] - hand[HAND_EDGES[:, 1]]
            width = _width(np.hypot(offset[:, 0], offset[:, 1]), style.hand_widths)
            for i in lines:
                a, b = hand[HAND_EDGES[i]].tolist()
                cv2.line(canvas, a, b, color[i].tolist(), int(width[i]))
            for point, strength in zip(hand[seen].tolist(), _dim(score[seen] * 255).tolist()):
                cv2.circle(canvas, point, style.hand_radius, (0, 0, strength), -1)


def paint_faces(canvas: np.ndarray, pose: Pose) -> None:
    """Paint the face points of the people of one frame in grey, in place."""
    points = _on_canvas(pose.face, canvas).astype(int)  # (p, 68, 2)
    drawn = (points > 0).all(-1) & (pose.face_score > 0)
    grey = _dim(pose.face_score * 255)
    for point, strength in zip(points[drawn].tolist(), grey[drawn].tolist()):
        cv2.circle(canvas, point, FACE_RADIUS, (strength,) * 3, -1)


def _chosen(pose: Pose, style: Style) -> Pose:
    """The people of a style, with the scores that it draws by."""
    if style.people == "first":
        pose = pose.at((slice(None), slice(0, 1)))
    elif style.people == "surest":
        surest = pose.body_score.mean(-1).argmax(1)  # (f,)
        pose = pose.at((np.arange(pose.num_frames)[:, None], surest[:, None]))
    if style.hidden:
        score = pose.body_score.copy()
        score[..., list(style.hidden)] = 0
        pose = pose.replace(body_score=score)
    if style.shaded:
        return pose
    # The detector of these bases hides body joints of exactly the bound, hands and faces below it.
    seen = lambda score: (score >= VISIBLE_SCORE).astype(np.float64)
    return pose.replace(
        body_score=pose.visible.astype(np.float64),
        hands_score=seen(pose.hands_score),
        face_score=seen(pose.face_score),
    )


def _width(length: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Widths of strokes of lengths in canvas pixels, the same shape."""
    return np.take(widths, np.searchsorted(STROKE_LENGTHS, length, side="right"))


def _on_canvas(xy: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Fractions (..., 2) -> canvas pixels. Bounded, since a wild fit must not overflow OpenCV's
    integers."""
    return np.clip(xy, -100.0, 100.0) * (canvas.shape[1], canvas.shape[0])


def _dim(color: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """What a canvas holds after painting color (whole, at most 255) and multiplying it by factor,
    truncated."""
    # Nothing is blended, so dimming the colours equals dimming the canvas, 25 MB per frame.
    return (np.minimum(np.floor(color), 255.0) * factor).astype(np.uint8)
