"""The ways of bringing driving poses to the reference's body, by their names in configs."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dispose_jax.pose import people
from dispose_jax.pose.retarget import mimicmotion, musepose, unchanged
from dispose_jax.types import Pose

# MimicMotion's scales the whole driving body, MusePose's every part of it, Moore-AnimateAnyone's
# leaves it alone.
PROCEDURES = {"mimicmotion": mimicmotion, "musepose": musepose, "moore": unchanged}

NECK, SHOULDERS = 1, (2, 5)
PLACED = 1e-9  # score of a neck that the shoulders place, and nobody is sure of


class Fitted(NamedTuple):
    """Poses on the reference's body, and how they came there."""

    pose: Pose  # n + 1 frames, frame 0 the reference
    fit: mimicmotion.Fit | musepose.Alignment | unchanged.Unchanged
    warnings: list[str]  # why it deserves a look, one clause each


def to_reference(
    procedure: str,
    reference: Pose,
    driving: Pose,
    *,
    video_size: tuple[int, int],
    target_size: tuple[int, int],
) -> Fitted:
    """Driving poses (n frames) to the body of a reference (one frame).

    procedure: of PROCEDURES. Sizes are (width, height): of the driving video, and of the picture
    that the reference's points are fractions of. Errors are those of the procedure's `fit`.
    """
    module = PROCEDURES[procedure]
    known, moving = map(_with_neck, (reference, driving))
    fit = module.fit(known, moving, video_size=video_size, target_size=target_size)
    moved = module.apply(fit, moving)
    score = np.where(moved.body_score == PLACED, 0.0, moved.body_score)
    pose = people.join(reference, replace(moved, body_score=score))
    return Fitted(pose, fit, module.warnings(fit))


def _with_neck(pose: Pose) -> Pose:
    """The pose with a neck wherever both shoulders have a place: detectors make it of these, give
    it no score unless both are sure, and the released procedures use it whatever its score."""
    left, right = (pose.body_score[..., joint] > 0 for joint in SHOULDERS)
    placed = left & right & (pose.body_score[..., NECK] <= 0)
    body, score = pose.body.copy(), pose.body_score.copy()
    body[..., NECK, :] = np.where(
        placed[..., None], body[..., list(SHOULDERS), :].mean(-2), body[..., NECK, :]
    )
    score[..., NECK] = np.where(placed, PLACED, score[..., NECK])
    return replace(pose, body=body, body_score=score)
