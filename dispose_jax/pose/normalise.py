"""Keypoints as tools write them, made into one kind (host code).

Tools differ in how they write a joint that was not found (0, 0 with any confidence, negative
pairs), in the scale of confidences (0 to 1, COCO's visibility 0 to 2, percent), and in the unit of
coordinates (pixels of the canvas, fractions of it). Units are decided for each keypoint list, as
one file may hold a body in pixels and hands in fractions. Bodies of tools that know no neck get
one. Coordinates from -1 to 1, which would be read as something else, are refused.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from dispose_jax.pose import people
from dispose_jax.pose.draw import LIMBS
from dispose_jax.types import VISIBLE_SCORE, Pose

# Within a person's points: body, left hand, right hand, face.
_ENDS = np.cumsum([people.NUM_BODY, people.NUM_HAND, people.NUM_HAND, people.NUM_FACE])
LISTS = tuple(slice(start, end) for start, end in zip([0, *_ENDS[:-1]], _ENDS))
LIST_NAMES = ("body", "left hand", "right hand", "face")

NECK, SHOULDERS, WRISTS = 1, [2, 5], [7, 4]  # wrists as hands: the left one first
LARGEST_FRACTION = 2.0  # a point without any larger coordinate may be a fraction of the picture
LARGEST_SCORE = 1.5  # detectors answer a little above 1, which is no other scale
# Where the greatest confidence of lists in percent lies: above logits, and hands are seldom sure.
PERCENT = (20.0, 100.0)
FEWEST_POINTS = 4  # of a list that can tell its own unit
SIGNED_SHARE = 0.25  # of points that have a negative coordinate, and how far these go
# Where COCO's 17 joints with a neck, the last or the second of them, have the body's 18.
COCO_ORDERS = np.array(
    [
        (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3),
        (0, 1, 7, 9, 11, 6, 8, 10, 13, 15, 17, 12, 14, 16, 3, 2, 5, 4),
    ]
)
SHORTER = 0.85  # limbs in the order of a file over those as written: 0.4 to 0.8, else above 0.9
FEWEST_LIMBS = 8  # of a body that tells its order
NEAR_WRIST = 0.5  # of a hand's distance from the one wrist: as near to the other it belongs to that
# Frames whose order is looked at, and the way of the joints in another order over that as written:
# above 1.0 if that one is right, 0.25 to 0.85 if it is that of names.
FEWEST_FRAMES, NEARER = 30, 0.85
LEAP = 6.0  # median ways from one frame to the next, as which a longer one counts
STRAY_SHARE, STRAY_POINTS = 0.25, 2  # points of the other unit, up to which they are mistakes
# Of the canvas, from its upper left corner: where all points lie that were found in a picture of
# half its size or less, those a tenth of that picture outside included.
OF_HALF = 0.55


class Normalised(NamedTuple):
    """Points as fractions of the picture with confidences of 0 to about 1, and what was changed."""

    points: np.ndarray  # (n, 128, 3) x, y, confidence; absent points are all zero
    notes: tuple[str, ...]  # one clause each


def normalise(
    points: np.ndarray, frames: np.ndarray, size: tuple[int, int], path: str | os.PathLike
) -> Normalised:
    """The people of a file in one unit and scale.

    points (n, 128, 3): x, y and confidence of n people as they are written, float64. frames (n,)
    int: where each of them is, for messages. size: width and height of the canvas in pixels.
    Raises ValueError naming the file where its coordinates or its confidences are others, and the
    frame where a list holds pixels and fractions alike.
    """
    if (points[..., :2] > 0).any() and not (points[..., 2] > 0).any():
        raise ValueError(
            f"{path}: no joint has a confidence above 0, so none counts as seen; write 1 for those "
            "that are there if the tool gives no confidences"
        )
    _refuse_signed(points, path)
    x, y, score = np.moveaxis(points, -1, 0)
    absent = ((x == 0) & (y == 0)) | ((x < 0) & (y < 0)) | (score <= 0)
    points = np.where(absent[..., None], 0.0, points)
    points[..., 2], score_note = _scores(points[..., 2])
    in_pixels = bool((points[..., :2] > LARGEST_FRACTION).any())
    points, unit_notes = _fractions(points, frames, size, path)
    canvas_note = _canvas(points, size) if in_pixels else ()
    # Bounded, since lengths of wild coordinates overflow.
    bounded = np.clip(points, -1e6, 1e6) * (*size, 1)
    joint_notes = *_order(bounded[:, LISTS[0]]), *_hands(bounded)
    points, neck_note = _necks(points)
    return Normalised(points, (*score_note, *unit_notes, *canvas_note, *joint_notes, *neck_note))


def order_of_frames(pose: Pose) -> tuple[str, ...]:
    """A note if bodies move less from frame to frame once the frames, which were in the order of
    names without leading zeros, are in that of their numbers. A cut can look like one, so it is not
    refused."""
    if pose.num_frames < FEWEST_FRAMES:
        return ()
    seen = pose.body_score > 0  # (f, p, 18)
    count = seen.sum(1)
    xy = (pose.body * seen[..., None]).sum(1) / np.maximum(count, 1)[..., None]  # all people's mean

    def steps(order) -> np.ndarray:  # (m,) of joints that are there in both frames
        both = (count[order][1:] > 0) & (count[order][:-1] > 0)
        return np.linalg.norm(np.diff(xy[order], axis=0), axis=-1)[both]

    written = steps(np.arange(pose.num_frames))
    if not len(written):
        return ()
    # One frame with somebody else leaps there and back, which another order might halve.
    largest = LEAP * np.median(written)
    way = lambda steps: np.minimum(steps, largest).sum() / max(1, len(steps))

    frames = range(pose.num_frames)
    # 1.png comes before 10.png, 1_x.png behind it.
    named = [[f"{first + i}{behind}" for i in frames] for first in (0, 1) for behind in "._"]
    by_name = [sorted(frames, key=names.__getitem__) for names in named]
    ways = [way(steps(np.argsort(order))) for order in by_name]
    likely = int(np.argmin(ways))
    if ways[likely] >= NEARER * way(written):
        return ()
    shown = ", ".join(named[likely][i][:-1] for i in by_name[likely][:4])
    return (
        f"its frames seem to be in the order of names without leading zeros, {shown}, ...; put them"
        " in the order of their numbers",
    )


def _refuse_signed(points: np.ndarray, path: str | os.PathLike) -> None:
    """Raise ValueError for coordinates of -1 to 1, whose upper left quarter would look absent."""
    given = (points[..., 2] > 0) & (points[..., :2] != 0).any(-1)
    xy = points[..., :2][given & (points[..., :2] >= 0).any(-1)]
    if len(xy) < FEWEST_POINTS or np.abs(xy).max() > 1:
        return
    if (xy < 0).any(-1).mean() > SIGNED_SHARE and xy.min() < -SIGNED_SHARE:
        raise ValueError(
            f"{path}: its coordinates go from {xy.min():.2g} to {xy.max():.2g}, as OpenPose writes "
            "them with --keypoint_scale 4; write pixels (0) or fractions of the picture (3)"
        )


def _canvas(points: np.ndarray, size: tuple[int, int]) -> tuple[str, ...]:
    """A note if all points (n, 128, 3), fractions of the canvas, lie in one quarter of it."""
    seen = points[points[..., 2] > VISIBLE_SCORE][:, :2]
    if not len(seen) or seen.max() > OF_HALF:
        return ()
    return (
        f"all its joints lie in the upper left quarter of its canvas of {size[0]} x {size[1]}; if"
        " they were found in a smaller picture, write the size of that one",
    )


def _order(bodies: np.ndarray) -> tuple[str, ...]:
    """A note if the limbs of bodies (n, 18, 3) in pixels are shorter in COCO's order. An odd pose
    can look like one, so it is not refused."""

    def limbs(bodies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # mean length (n,), count (n,)
        start, end = np.moveaxis(bodies[:, LIMBS], 2, 0)  # (n, 17, 3) each
        seen = (start[..., 2] > VISIBLE_SCORE) & (end[..., 2] > VISIBLE_SCORE)
        length = np.linalg.norm(start[..., :2] - end[..., :2], axis=-1)
        return (length * seen).sum(1) / np.maximum(seen.sum(1), 1), seen.sum(1)

    as_written, count = limbs(bodies)
    for order in COCO_ORDERS:
        as_coco, coco_count = limbs(bodies[:, order])
        telling = np.minimum(count, coco_count) >= FEWEST_LIMBS
        if as_coco[telling].sum() < SHORTER * as_written[telling].sum():
            return (
                "its joints seem to be in COCO's order, left eye and right eye after the nose; they"
                " are read in OpenPose's: nose, neck, right shoulder and so on (docs/inputs.md)",
            )
    return ()


def _hands(points: np.ndarray) -> tuple[str, ...]:
    """A note if more hands of people (n, 128, 3) in pixels are at the other arm's wrist than at
    their own. One hand that was found twice is no reason."""
    hands = points[:, [part.start for part in LISTS[1:3]]]  # (n, 2, 3) their wrists
    wrists = points[:, WRISTS]
    seen = (hands[..., 2] > VISIBLE_SCORE) & (wrists[..., 2] > VISIBLE_SCORE).all(1)[:, None]
    distance = np.linalg.norm(hands[:, :, None, :2] - wrists[:, None, :, :2], axis=-1)  # (n, 2, 2)
    own, other = distance[:, [0, 1], [0, 1]], distance[:, [0, 1], [1, 0]]
    there, here = ((a < NEAR_WRIST * b) & seen for a, b in ((other, own), (own, other)))
    if there.sum() < 2 or there.sum() <= here.sum():
        return ()
    return (
        "its left hands are at the right wrists and its right ones at the left, as tools for"
        " mirrored pictures name them; exchange the two lists of hands",
    )


def _necks(points: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """People (n, 128, 3) with a neck between their shoulders if nobody has one, and a note then."""
    # Detectors that know a neck have one wherever both shoulders are seen.
    both = (points[:, SHOULDERS, 2] > VISIBLE_SCORE).all(1)
    if points[:, NECK, 2].any() or not both.any():
        return points, ()
    points, shoulders = points.copy(), points[both][:, SHOULDERS]  # (people, 2, 3)
    points[both, NECK] = np.concatenate(
        [shoulders[..., :2].mean(1), shoulders[..., 2:].min(1)], axis=-1
    )
    return points, ("its bodies have no neck; the middle of the shoulders is taken",)


def _scores(score: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Confidences (n, 128) on the scale of 0 to 1, and a note if they were on another: bodies,
    hands and faces each have one, but are in percent where bodies are, however unsure."""
    score, highest, percent = score.copy(), 0.0, 0.0
    body_in_percent = False
    for part in LISTS:
        found = score[:, part]
        largest = found.max(initial=0.0)
        if largest <= LARGEST_SCORE:
            continue
        in_percent = PERCENT[0] < largest and (found[found > 0] > LARGEST_SCORE).mean() > 0.5
        if largest <= PERCENT[1] and (in_percent or body_in_percent):
            body_in_percent = body_in_percent or part is LISTS[0]
            score[:, part], percent = found / 100, max(percent, largest)
        else:
            score[:, part], highest = np.minimum(found, 1.0), max(highest, largest)
    notes = []
    if percent:
        notes.append(f"its confidences go up to {percent:g} and are taken for percent")
    if highest:
        notes.append(
            f"its confidences go up to {highest:g}, expected 0 to 1; higher ones are taken for 1"
        )
    return score, tuple(notes)


def _fractions(
    points: np.ndarray, frames: np.ndarray, size: tuple[int, int], path: str | os.PathLike
) -> tuple[np.ndarray, list[str]]:
    """Points (n, 128, 3) with x, y as fractions of the picture whatever they were, and notes."""
    if min(size) <= LARGEST_FRACTION:  # then pixels look like fractions
        return points / (*size, 1), []
    present = points[..., 2] > 0
    small = present & (np.abs(points[..., :2]).max(-1) <= LARGEST_FRACTION)
    large = present & ~small
    mostly_fractions = bool(small.sum() > large.sum())
    is_fraction = np.zeros_like(present)
    lists = fraction_lists = 0
    of_body = None
    for part, name in zip(LISTS, LIST_NAMES):
        low, high = small[:, part].sum(1), large[:, part].sum(1)  # (n,) points of either unit
        telling = (low + high >= FEWEST_POINTS) & (low != high)
        # A hand of three points does not tell its unit: its person's body does, or the file.
        unsure = mostly_fractions if of_body is None else of_body
        fractions = np.where(telling, low > high, unsure)
        of_body = fractions if of_body is None else of_body
        strays, total = np.where(fractions, high, low), low + high
        mixed = strays > np.maximum(STRAY_SHARE * total, STRAY_POINTS)
        if mixed.any():
            i = int(mixed.argmax())
            raise ValueError(
                f"{path}: frame {frames[i]}: of the {name}'s points {low[i]} seem to be fractions "
                f"of the picture and {high[i]} pixels of the {size[0]} x {size[1]} canvas; write "
                "them all in pixels"
            )
        is_fraction[:, part] = fractions[:, None]
        lists += int((total > 0).sum())
        fraction_lists += int((fractions & (total > 0)).sum())
    # Of the other unit, or pixels further away than any fraction may be.
    far = np.abs(points[..., :2] / size).max(-1) > LARGEST_FRACTION
    stray = present & ((small != is_fraction) | (far & ~is_fraction))
    notes = []
    if fraction_lists:
        which = "" if fraction_lists == lists else f" in {fraction_lists} of {lists} keypoint lists"
        notes.append(f"its coordinates are fractions of the picture{which} and are read as such")
    if stray.any():
        person, point = np.argwhere(stray)[0]
        many = stray.sum() > STRAY_SHARE * present.sum()
        canvas = f"; its canvas of {size[0]} x {size[1]} seems to be too small" if many else ""
        notes.append(
            f"{stray.sum()} of its points lie where no joint can be and are left out, the first in "
            f"frame {frames[person]} at {points[person, point, 0]:g}, {points[person, point, 1]:g}"
            f"{canvas}"
        )
    xy = np.where(is_fraction[..., None], points[..., :2], points[..., :2] / size)
    points = np.concatenate([xy, points[..., 2:]], -1)
    return np.where(stray[..., None], 0.0, points), notes
