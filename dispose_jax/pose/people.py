"""People of a frame, however many, in the padded layout of `Pose` and out of it (host code).

A detector and a pose file both give a list of people per frame, 128 points each: 18 body joints, 21
points of the left hand, 21 of the right one, 68 of the face. Everything else works on `Pose`, whose
frames all have room for the same number of people.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from dispose_jax.types import Pose

NUM_BODY, NUM_HAND, NUM_FACE = 18, 21, 68
NUM_POINTS = NUM_BODY + 2 * NUM_HAND + NUM_FACE

BODY_NAMES = (
    "nose",
    "neck",
    "right shoulder",
    "right elbow",
    "right wrist",
    "left shoulder",
    "left elbow",
    "left wrist",
    "right hip",
    "right knee",
    "right ankle",
    "left hip",
    "left knee",
    "left ankle",
    "right eye",
    "left eye",
    "right ear",
    "left ear",
)


def stack(frames: Sequence[tuple[np.ndarray, np.ndarray]]) -> Pose:
    """One (xy, score) pair per frame -> `Pose`, padded with absent people to the largest count, at
    least one.

    xy (people, 128, 2) as fractions of the picture; score (people, 128). A score below 0, which
    SimCC heads give for points they do not find, becomes 0: absent.
    """
    num_people = max([1, *(len(score) for _, score in frames)])
    xy = np.zeros((len(frames), num_people, NUM_POINTS, 2))
    score = np.zeros((len(frames), num_people, NUM_POINTS))
    for i, (frame_xy, frame_score) in enumerate(frames):
        xy[i, : len(frame_xy)] = frame_xy
        score[i, : len(frame_score)] = np.maximum(frame_score, 0.0)
    body, hands, face = np.split(xy, [NUM_BODY, NUM_POINTS - NUM_FACE], axis=2)
    body_score, hands_score, face_score = np.split(score, [NUM_BODY, NUM_POINTS - NUM_FACE], axis=2)
    hands_shape = (len(frames), num_people, 2, NUM_HAND)  # left, right
    return Pose(
        body=body,
        body_score=body_score,
        hands=hands.reshape(*hands_shape, 2),
        hands_score=hands_score.reshape(hands_shape),
        face=face,
        face_score=face_score,
    )


def flatten(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """`Pose` -> xy (f, p, 128, 2), score (f, p, 128), padding included: `stack` the other way."""
    f, p = pose.body.shape[:2]
    xy = np.concatenate([pose.body, pose.hands.reshape(f, p, -1, 2), pose.face], axis=2)
    score = np.concatenate(
        [pose.body_score, pose.hands_score.reshape(f, p, -1), pose.face_score], axis=2
    )
    return xy, score


def join(first: Pose, second: Pose) -> Pose:
    """The frames of one pose after those of another; the one with fewer people is padded."""
    num_people = max(first.body.shape[1], second.body.shape[1])

    def pad(leaf: np.ndarray) -> np.ndarray:
        missing = num_people - leaf.shape[1]
        return np.pad(leaf, [(0, 0), (0, missing)] + [(0, 0)] * (leaf.ndim - 2))

    return jax.tree.map(lambda a, b: np.concatenate([pad(a), pad(b)]), first, second)


def move(pose: Pose, scale, offset) -> Pose:
    """Every point that has a position, (x, y) to scale * (x, y) + offset; scale, offset pairs."""

    def moved(xy: np.ndarray, score: np.ndarray) -> np.ndarray:
        return np.where(score[..., None] > 0, xy * np.asarray(scale) + np.asarray(offset), xy)

    return pose.replace(
        body=moved(pose.body, pose.body_score),
        hands=moved(pose.hands, pose.hands_score),
        face=moved(pose.face, pose.face_score),
    )


def listing(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
