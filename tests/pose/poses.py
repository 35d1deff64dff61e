"""Poses for the tests beside this file: nobody's in particular, all points in general position."""

import numpy as np

from dispose_jax.pose import people
from dispose_jax.types import Pose


def standing(num_frames: int = 1, num_people: int = 1, seed: int = 0) -> Pose:
    """People upright in the middle of the picture, moving a little; scores from 0.4 to 1."""
    rng = np.random.default_rng(seed)
    body = np.array(
        [(50, 15), (50, 25), (42, 26), (36, 40), (33, 52), (58, 25), (64, 39), (67, 51)]
        + [(45, 53), (44, 70), (43, 88), (55, 53), (56, 71), (57, 89)]
        + [(48, 13), (52, 13), (46, 14), (54, 14)]
    )
    angle = np.linspace(0, 2 * np.pi, 21, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    contour = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    face = (50, 15) + 4 * np.stack([np.cos(contour), np.sin(contour)], 1)
    points = np.concatenate([body, (67, 55) + 3 * ring, (33, 56) + 3 * ring, face]) / 100
    shape = (num_frames, num_people, people.NUM_POINTS)
    xy = points + rng.normal(scale=0.004, size=(*shape, 2))
    xy += rng.normal(scale=0.02, size=(num_frames, num_people, 1, 2))
    return people.stack(list(zip(xy, rng.uniform(0.4, 1.0, shape))))


def without(pose: Pose, joints, frames=slice(None), person: int = 0) -> Pose:
    """The pose with body joints of a person absent: score and position 0, as files have it."""
    body, score = pose.body.copy(), pose.body_score.copy()
    for frame in np.arange(pose.num_frames)[frames]:
        body[frame, person, joints] = 0.0
        score[frame, person, joints] = 0.0
    return pose.replace(body=body, body_score=score)
