"""Driving poses with the proportions of the reference: MusePose's procedure (host code, float64).

Every part of the body is scaled by its length in the reference over that in the first driving
frame, from the neck outwards, so that limbs stay attached; then everything is moved by what brings
that frame's neck onto the reference's. So the first frame should show the reference's stance: a
limb that is foreshortened there is too long afterwards. Lengths are in heights of their picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dispose_jax.pose import people
from dispose_jax.types import VISIBLE_SCORE, Pose

# Points in the order of people.flatten, and one more.
NOSE, NECK = 0, 1
LEFT_HAND = range(people.NUM_BODY, people.NUM_BODY + people.NUM_HAND)
RIGHT_HAND = range(LEFT_HAND.stop, LEFT_HAND.stop + people.NUM_HAND)
MIDDLE_OF_HIPS = people.NUM_POINTS
KNUCKLES = (1, 5, 9, 13, 17)  # of a hand, whose wrist is its point 0

# The segments whose mean ratio is the scale of a part. A hand also scales like its arm.
SEGMENTS = {
    "neck": ((NOSE, NECK),),
    "face": ((16, 17),),
    "shoulders": ((2, 5),),
    "upper arms": ((2, 3), (5, 6)),
    "lower arms": ((3, 4), (6, 7)),
    "hands": tuple((hand[0], hand[k]) for hand in (LEFT_HAND, RIGHT_HAND) for k in KNUCKLES),
    "trunk": ((NECK, MIDDLE_OF_HIPS),),
    "upper legs": ((8, 9), (11, 12)),
    "lower legs": ((9, 10), (12, 13)),
}
# Points, the joint that they hang on, the part they belong to; joints before what hangs on them.
LIMBS = (
    ((NOSE,), NECK, "neck"),
    ((14, 15, 16, 17), NOSE, "face"),
    ((2, 5), NECK, "shoulders"),
    ((3,), 2, "upper arms"),
    ((4,), 3, "lower arms"),
    (RIGHT_HAND, 4, "hands"),
    ((6,), 5, "upper arms"),
    ((7,), 6, "lower arms"),
    (LEFT_HAND, 7, "hands"),
    ((8, 11), NECK, "trunk"),
    ((9,), 8, "upper legs"),
    ((10,), 9, "lower legs"),
    ((12,), 11, "upper legs"),
    ((13,), 12, "lower legs"),
)
_HANGS_ON = {point: joint for points, joint, _ in LIMBS for point in points}

# Bounds of a scale that deserves trust; chosen, not taken from the release.
SMALLEST_SCALE, LARGEST_SCALE = 0.4, 2.5


class Alignment(NamedTuple):
    """How a driving body becomes the reference's."""

    scales: dict[str, float]  # of each part
    offset: tuple[float, float]  # x, y from the driving neck to the reference's, picture heights
    aspects: tuple[float, float]  # width over height, of the driving video and of the reference
    unmeasured: tuple[str, ...]  # parts of which no segment is present on both sides
    frame: int  # the driving frame that was measured
    reference_people: int  # people in the reference, of whom the first one is aligned to


def fit(
    reference: Pose, driving: Pose, *, video_size: tuple[int, int], target_size: tuple[int, int]
) -> Alignment:
    """Compare person 0 of the first driving frame that has a neck with person 0 of the reference.

    reference: one frame; driving: n frames. Sizes are (width, height): of the driving video's
    picture, and of the picture that the reference's points are fractions of. Joints count whatever
    their score, as in the release; absent ones (score 0) give no ratio, and a part without a finite
    mean ratio has scale 1. Raises ValueError if the reference or all driving frames lack the neck.
    """
    if reference.num_frames != 1:
        raise ValueError(f"the reference pose has {reference.num_frames} frames, expected 1")
    if driving.num_frames < 1:
        raise ValueError("the driving pose has no frames, expected at least 1")
    if not reference.body_score[0, 0, NECK] > 0:
        raise ValueError(
            "the reference does not show the neck, on which poses are aligned; use a picture of a"
            " person whose shoulders are visible, or pass its keypoints with --reference_pose"
        )
    has_neck = driving.body_score[:, 0, NECK] > 0
    if not has_neck.any():
        raise ValueError(
            "no driving frame shows the neck, on which poses are aligned; choose a driving video"
            " of a person whose shoulders are visible"
        )
    frame = int(has_neck.argmax())
    aspects = tuple(width / height for width, height in (video_size, target_size))
    source = _in_heights(*_points(driving.at([frame])), aspects[0])
    target = _in_heights(*_points(reference), aspects[1])
    ratios = _ratios(target, source)
    arm = [ratios[part].mean() for part in ("upper arms", "lower arms") if ratios[part].size]
    hands = [ratios["hands"].mean()] if ratios["hands"].size else []
    means = {part: found.mean() if found.size else 1.0 for part, found in ratios.items()}
    means["hands"] = np.mean(hands + arm) if hands + arm else 1.0
    offset = target[0][0, NECK] - source[0][0, NECK]
    return Alignment(
        # The release keeps infinite scales, which end as points off the picture.
        scales={part: float(mean) if np.isfinite(mean) else 1.0 for part, mean in means.items()},
        offset=tuple(offset.tolist()),
        aspects=aspects,
        unmeasured=tuple(part for part, found in ratios.items() if not found.size),
        frame=frame,
        reference_people=int(reference.num_people[0]),
    )


def apply(alignment: Alignment, driving: Pose) -> Pose:
    """Person 0 of every driving frame with the reference's proportions, in its place; n frames.

    Nobody else is kept. Absent points stay where they are; what hangs on one hangs on the next
    joint towards the neck. Points of hands and face below the bound of visibility get the place
    that the release has for them, left of and above the picture. Faces are moved but not scaled.
    """
    points, score = _points(driving)
    present = score > 0
    xy, _ = _in_heights(points, score, alignment.aspects[0])
    moved = xy.copy()
    for limb, joint, part in LIMBS:
        moving = xy[:, limb]
        origin = placed = moving  # with nothing to hang on, only the offset moves it
        for ancestor in _way_from_neck(joint):
            known = present[:, ancestor, None, None]
            origin = np.where(known, xy[:, [ancestor]], origin)
            placed = np.where(known, moved[:, [ancestor]], placed)
        moved[:, limb] = placed + alignment.scales[part] * (moving - origin)
    moved = np.where(_doubtful(score)[..., None], -1.0, moved) + alignment.offset
    moved = np.where(present[..., None], moved / (alignment.aspects[1], 1.0), points)
    return people.stack(list(zip(moved[:, None], score[:, None])))


def warnings(report: Alignment) -> list[str]:
    """Why an alignment deserves a look at its preview, one clause each; empty if nothing is odd."""
    found = []
    if report.reference_people > 1:
        found.append(
            f"the reference shows {report.reference_people} people; the most prominent is animated"
        )
    if report.frame:
        found.append(
            "the first driving frames do not show the neck; of those that are used number"
            f" {report.frame}, from 0, is compared with the reference"
        )
    # Hands are often too small to be found, and follow the arms.
    unmeasured = [part for part in report.unmeasured if part != "hands"]
    if unmeasured:
        found.append(
            f"reference and driving frame {report.frame} do not both show"
            f" {people.listing(unmeasured)}; their size stays the driving person's"
        )
    odd = [
        f"{part} by {scale:.2f}"
        for part, scale in report.scales.items()
        if not SMALLEST_SCALE <= scale <= LARGEST_SCALE
    ]
    if odd:
        found.append(
            f"some parts are scaled beyond {SMALLEST_SCALE} to {LARGEST_SCALE}"
            f" ({people.listing(odd)}); the first driving frame should show the reference's stance"
        )
    return found


def _points(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Person 0: xy (n, 128, 2), score (n, 128)."""
    xy, score = people.flatten(pose)
    return xy[:, 0], score[:, 0]


def _doubtful(score: np.ndarray) -> np.ndarray:
    """Points of hands and face that were found, but not surely enough: (n, 128) bool."""
    doubtful = (score > 0) & (score < VISIBLE_SCORE)
    doubtful[:, : people.NUM_BODY] = False
    return doubtful


def _in_heights(xy: np.ndarray, score: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Points in heights of their picture, (n, 128, 2), and whether each is present."""
    # Measured from -1 too: the release marks doubtful points so and does not look for the mark.
    xy = np.where(_doubtful(score)[..., None], -1.0, xy)
    return xy * (aspect, 1.0), score > 0


def _ratios(target, source) -> dict[str, np.ndarray]:
    """Of each part, the lengths in target over those in source, of segments present in both.

    target, source: one frame of `_in_heights`. A ratio may be infinite or no number.
    """
    lengths, present = [], []
    for xy, seen in (target, source):
        hips = [8, 11]
        xy = np.vstack([xy[0], xy[0, hips].mean(0)])
        seen = np.append(seen[0], seen[0, hips].all())
        ends = {part: np.array(pairs).T for part, pairs in SEGMENTS.items()}
        lengths.append({p: np.linalg.norm(xy[a] - xy[b], axis=-1) for p, (a, b) in ends.items()})
        present.append({p: seen[a] & seen[b] for p, (a, b) in ends.items()})
    ratios = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for part in SEGMENTS:
            used = present[0][part] & present[1][part]
            if part == "hands":  # two doubtful points lie on each other
                used &= lengths[1][part] > 0
            ratios[part] = lengths[0][part][used] / lengths[1][part][used]
    return ratios


def _way_from_neck(joint: int) -> list[int]:
    """The joints from the neck to this one."""
    way = [joint]
    while way[0] in _HANGS_ON:
        way.insert(0, _HANGS_ON[way[0]])
    return way
