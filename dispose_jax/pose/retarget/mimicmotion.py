"""Driving poses fitted to the body of the reference: MimicMotion's procedure (host code, float64).

One line maps the driving video's y to the reference's for the whole video, by least squares over
the joints that both show; x is scaled alike, aspect ratios considered, and shifted by its mean. So
the first frame need not resemble the reference, and no limb changes its proportions. Arms move too
much to take part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dispose_jax.pose import people
from dispose_jax.types import Pose

FIT_JOINTS = np.array([0, 1, 2, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17])  # no elbows, no wrists
KEY_JOINTS = (0, 1, 2, 5, 8, 11)  # nose, neck, shoulders, hips: without them the fit hangs on a few

# Bounds of a fit that deserves trust; chosen, not taken from the paper.
SMALLEST_SCALE, LARGEST_SCALE = 0.4, 2.5
LARGEST_RESIDUAL = 0.5
SMALLEST_SHARE_OF_FRAMES = 0.5


class Fit(NamedTuple):
    """Where a driving point goes, (x, y) to scale * (x, y) + offset in fractions of a picture."""

    scale: tuple[float, float]  # x, y; that of x also holds the ratio of the aspect ratios
    offset: tuple[float, float]  # x, y
    residual: float  # rms misfit in y over the spread of the reference: 0 perfect, 1 useless
    joints: tuple[int, ...]  # body joints that took part
    missing: tuple[int, ...]  # those of FIT_JOINTS that the reference does not show
    reference_people: int  # people in the reference, of whom the first is fitted to
    frames: int  # driving frames that took part
    all_frames: int  # driving frames there are
    single_person: bool  # False: no frame shows exactly one, so person 0 of all was used


def fit(
    reference: Pose, driving: Pose, *, video_size: tuple[int, int], target_size: tuple[int, int]
) -> Fit:
    """Fit the driving poses to person 0 of the reference.

    reference: one frame; driving: n frames. Sizes are (width, height): of the driving video's
    picture, and of the reference after cropping. Only frames that show person 0 and nobody else
    take part, or person 0 of all frames if there are none. The reference's joints must be visible;
    driving joints need a position (score above 0). Raises ValueError if fewer than two heights are
    left to fit a line through.
    """
    if reference.num_frames != 1:
        raise ValueError(f"the reference pose has {reference.num_frames} frames, expected 1")
    if driving.num_frames < 1:
        raise ValueError("the driving pose has no frames, expected at least 1")
    shown = reference.visible[0, 0, FIT_JOINTS]
    if not shown.any():
        raise ValueError(
            "the reference shows none of the joints that poses are fitted by (head, neck,"
            " shoulders, hips, legs); use a picture of a person whose body is visible, or pass its"
            " keypoints with --reference_pose"
        )
    joints = FIT_JOINTS[shown]
    single = (driving.num_people == 1) & (driving.body_score[:, 0] > 0).any(-1)
    used_frames = single if single.any() else np.ones_like(single)
    has_position = driving.body_score[:, 0, joints] > 0  # (n, joints)
    has_position &= used_frames[:, None]
    source = driving.body[:, 0, joints][has_position]  # (points, 2)
    target = np.broadcast_to(reference.body[0, 0, joints], (*has_position.shape, 2))[has_position]
    _check_heights(source[:, 1], target[:, 1], joints)

    centred = source[:, 1] - source[:, 1].mean()
    scale_y = centred @ (target[:, 1] - target[:, 1].mean()) / (centred @ centred)
    offset_y = target[:, 1].mean() - scale_y * source[:, 1].mean()
    (video_width, video_height), (width, height) = video_size, target_size
    scale_x = scale_y / (video_height / video_width / height * width)
    offset_x = (target[:, 0] - scale_x * source[:, 0]).mean()
    misfit = scale_y * source[:, 1] + offset_y - target[:, 1]
    return Fit(
        scale=(float(scale_x), float(scale_y)),
        offset=(float(offset_x), float(offset_y)),
        residual=float(np.sqrt((misfit**2).mean()) / target[:, 1].std()),
        joints=tuple(joints[has_position.any(0)].tolist()),
        missing=tuple(FIT_JOINTS[~shown].tolist()),
        reference_people=int(reference.num_people[0]),
        frames=int(has_position.any(1).sum()),
        all_frames=driving.num_frames,
        single_person=bool(single.any()),
    )


def apply(transform: Fit, pose: Pose) -> Pose:
    """Move body, hands and face of everybody by a fit; absent points stay where they are."""
    return people.move(pose, transform.scale, transform.offset)


def warnings(report: Fit) -> list[str]:
    """Why a fit deserves a look at its preview, one clause each; empty if nothing is odd."""
    found = []
    if report.reference_people > 1:
        found.append(
            f"the reference shows {report.reference_people} people; the most prominent is animated"
        )
    missing = [people.BODY_NAMES[joint] for joint in KEY_JOINTS if joint in report.missing]
    if missing:
        found.append(f"the reference does not show {people.listing(missing)}; the fit does without")
    unused = set(FIT_JOINTS.tolist()) - set(report.missing) - set(report.joints)
    unused = [people.BODY_NAMES[joint] for joint in KEY_JOINTS if joint in unused]
    if unused:
        found.append(f"the driving poses never show {people.listing(unused)}; the fit does without")
    y = report.scale[1]
    if y <= 0:
        found.append(f"the fit turns the skeleton upside down (vertical scale {y:.2f})")
    elif not SMALLEST_SCALE <= y <= LARGEST_SCALE:
        found.append(
            f"the driving person is scaled by {y:.2f}, outside {SMALLEST_SCALE} to {LARGEST_SCALE};"
            " reference and driving video seem to be framed differently"
        )
    if report.residual > LARGEST_RESIDUAL:
        found.append(
            f"the fitted joints miss the reference's by {report.residual:.0%} of their spread;"
            " the skeleton may not lie on the body"
        )
    if not report.single_person:
        found.append(
            "no driving frame shows exactly one person; the one who is followed is used in all"
        )
    if report.frames < SMALLEST_SHARE_OF_FRAMES * report.all_frames:
        found.append(
            f"only {report.frames} of {report.all_frames} driving frames could be used for the fit"
        )
    return found


def _check_heights(source_y: np.ndarray, target_y: np.ndarray, joints: np.ndarray) -> None:
    """A line needs points of two different y on both sides."""
    names = people.listing([people.BODY_NAMES[joint] for joint in joints])
    if not len(source_y):
        raise ValueError(
            f"no driving frame shows a joint that the reference shows as well ({names});"
            " choose another reference or another driving video"
        )
    if np.ptp(source_y) < 1e-6 or np.ptp(target_y) < 1e-6:
        raise ValueError(
            "reference and driving poses share joints at one height only (the reference shows"
            f" {names}); a fit needs two joints at different heights on both sides"
        )
