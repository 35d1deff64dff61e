"""The ways of bringing driving poses to the reference's body, by their names in configs."""

from __future__ import annotations

from typing import NamedTuple

from dispose_jax.pose import people
from dispose_jax.pose.retarget import mimicmotion, musepose, unchanged
from dispose_jax.types import Pose

# MimicMotion's scales the whole driving body, MusePose's every part of it, Moore-AnimateAnyone's
# leaves it alone.
PROCEDURES = {"mimicmotion": mimicmotion, "musepose": musepose, "moore": unchanged}


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
    fit = module.fit(reference, driving, video_size=video_size, target_size=target_size)
    pose = people.join(reference, module.apply(fit, driving))
    return Fitted(pose, fit, module.warnings(fit))
