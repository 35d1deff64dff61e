"""Driving poses left as they are in their own picture: Moore-AnimateAnyone's way (host code).

The person appears where the driving person is, with that person's proportions. This suits a
reference that is framed like the driving video.
"""

from __future__ import annotations

from typing import NamedTuple

from dispose_jax.types import Pose

LARGEST_STRETCH = 1.1  # of the pictures' shapes, before a look is advised; chosen


class Unchanged(NamedTuple):
    """What is to be known of poses that nothing was done to."""

    stretch: float  # by how much the reference's picture is wider than the video's, for its height
    reference_people: int  # people in the reference


def fit(
    reference: Pose, driving: Pose, *, video_size: tuple[int, int], target_size: tuple[int, int]
) -> Unchanged:
    """Compare the pictures' shapes; sizes are (width, height), as for the other procedures.

    Raises ValueError unless the reference has one frame and the driving pose any.
    """
    if reference.num_frames != 1:
        raise ValueError(f"the reference pose has {reference.num_frames} frames, expected 1")
    if driving.num_frames < 1:
        raise ValueError("the driving pose has no frames, expected at least 1")
    (video_width, video_height), (width, height) = video_size, target_size
    stretch = (width / height) / (video_width / video_height)
    return Unchanged(stretch, int(reference.num_people[0]))


def apply(kept: Unchanged, driving: Pose) -> Pose:
    """The driving poses themselves."""
    return driving


def warnings(report: Unchanged) -> list[str]:
    """Why the poses deserve a look, one clause each; empty if nothing is odd."""
    found = []
    if report.reference_people > 1:
        found.append(f"the reference shows {report.reference_people} people, where one is expected")
    if not 1 / LARGEST_STRETCH <= report.stretch <= LARGEST_STRETCH:
        found.append(
            f"the driving poses are stretched by {report.stretch:.2f} in width, as their video has"
            " another shape than the reference; crop one of them"
        )
    return found
