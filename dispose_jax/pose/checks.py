"""Whether the poses of one person can be trusted (host code).

One look at the keypoints of person 0, for sampling, which warns, and for training, which skips the
clip: frames without the person, joints out of the picture or all in one place, jumps that no body
makes, left and right exchanged. The bounds are chosen, with room above what dancers do: a body of
1.7 m at 7 m/s and 5 g, a hand at 12 m/s and 12 g.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dispose_jax.pose import people
from dispose_jax.types import Pose

OUTSIDE = 0.1  # of the picture's width or height, beyond which a joint is out of it
ONE_PLACE = 0.005  # picture heights within which joints count as one point
FEWEST_JOINTS = 4  # that can lie in one place, or be compared from frame to frame
# Body heights of error at any rate, per second and per second squared, of the whole body and of a
# single joint: how far it goes in a step, and how far off it is from the middle between two steps.
BODY_STEP, BODY_BEND = (0.06, 4.0), (0.06, 15.0)
JOINT_STEP, JOINT_BEND = (0.12, 7.0), (0.12, 35.0)
TORSO, SHOULDERS = 3.2, 4.4  # torsos from neck to hips, and shoulder widths, in a body's height
SHORTEST_STEP = 1e-3  # seconds; one frame may stand for two moments
LONGEST_STEP = 0.15  # seconds, beyond which a turn and an exchange look alike
NARROWEST = 0.06  # body heights between left and right, below which they cannot be told apart
TURNED = 0.75  # of a pair's usual width: a narrower one is turned away
CHANGED = 0.4  # of the way that two sides go: with less if exchanged, they are
SHOWN_RANGES = 8  # ranges of frames that a sentence lists

NECK, RIGHT_EYE, LEFT_EYE = 1, 14, 15
RIGHT, LEFT = np.array([2, 8, 3, 4, 9, 10]), np.array([5, 11, 6, 7, 12, 13])
GROUPS = (slice(0, 2), slice(2, 4), slice(4, 6))  # shoulders and hips, arms, legs

NOBODY = "nobody is seen"
LOST = "the person who is followed is not seen"
OUT = "joints are out of the picture"
PLACE = "joints lie all in one place"
JUMP = "the body jumps as none can"
EXCHANGED = "left and right are exchanged"


class Fault(NamedTuple):
    """Something wrong with some frames."""

    what: str  # of the constants above
    frames: np.ndarray  # (n,) int, of the pose that was looked at


def look(pose: Pose, *, aspect: float, times: np.ndarray) -> list[Fault]:
    """What is wrong with the poses of person 0, nothing if all is well.

    pose: f frames, fractions of the picture whose width over height is aspect. times (f,): seconds
    at which they are shown.
    """
    # Bounded, since lengths of wild coordinates overflow.
    xy = np.clip(pose.body[:, 0], -1e6, 1e6) * (aspect, 1.0)  # (f, 18, 2) picture heights
    seen = pose.visible[:, 0]
    shown = seen.any(-1)
    others = pose.visible[:, 1:].any((1, 2))
    found = {
        NOBODY: ~shown & ~others,
        LOST: ~shown & others,
        OUT: _outside(pose.body[:, 0], seen),
        PLACE: (in_one_place := _in_one_place(xy, seen)),
    }
    usable = np.flatnonzero(shown & ~in_one_place)
    jumps, exchanged = np.zeros_like(shown), np.zeros_like(shown)
    if len(usable) > 1:
        xy, seen = xy[usable], seen[usable]
        height, seconds = _height(xy, seen), np.maximum(np.diff(times[usable]), SHORTEST_STEP)
        groups = _exchanged(xy, seen, height, seconds)
        exchanged[usable] = groups.any(-1) | _under_another_face(xy, seen, height)
        jumps[usable] = _jumps(_put_right(xy, groups), seen, height, seconds)
    found |= {JUMP: jumps, EXCHANGED: exchanged}
    return [Fault(what, np.flatnonzero(which)) for what, which in found.items() if which.any()]


def sentences(findings: Iterable[Fault], numbers: Sequence[int] | None = None) -> list[str]:
    """One clause for each finding; numbers: what each frame of the pose is called, its index
    otherwise."""
    named = lambda frames: frames if numbers is None else np.asarray(numbers)[frames]
    return [f"{what} in {ranges(named(frames))}" for what, frames in findings]


def ranges(numbers: Iterable[int]) -> str:
    """frame 3; frames 3, 5 to 9 and 12; the first ones where there are many."""
    numbers = np.unique(np.fromiter(numbers, int))
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = [(run[0], run[-1]) for run in np.split(numbers, breaks)]
    parts = [f"{a}" if a == b else f"{a} to {b}" for a, b in runs]
    if len(parts) > SHOWN_RANGES:
        return f"frames {', '.join(parts[:SHOWN_RANGES])} and more, {len(numbers)} in all"
    return f"frame{'s' if len(numbers) > 1 else ''} {people.listing(parts)}"


def _outside(body: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Frames (f,) with a joint that is seen far from the picture; body (f, 18, 2) fractions."""
    outside = (body < -OUTSIDE) | (body > 1 + OUTSIDE)
    return (outside.any(-1) & seen).any(-1)


def _in_one_place(xy: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Frames (f,) where most joints that are seen, and not only a few, are one point."""
    count = seen.sum(-1)
    together = np.zeros(len(xy), int)
    for joint in range(xy.shape[1]):
        near = np.abs(xy - xy[:, [joint]]).max(-1) <= ONE_PLACE
        together = np.maximum(together, (near & seen).sum(-1) * seen[:, joint])
    return (together >= FEWEST_JOINTS) & (together > count / 2)


def _height(xy: np.ndarray, seen: np.ndarray) -> float:
    """The body's height in heights of the picture, from what is seen of it over the frames."""
    known = np.where(seen[..., None], xy, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # frames where none of it is seen
        extent = np.nanmax(np.nanmax(known, 1) - np.nanmin(known, 1), -1)
        torso = TORSO * _distance(known[:, NECK], known[:, [8, 11]].mean(1))
        shoulders = SHOULDERS * _distance(known[:, 2], known[:, 5])
        found = float(np.nanmedian(np.nanmax([extent, torso, shoulders], axis=0)))
    return max(found, ONE_PLACE)


def _jumps(xy: np.ndarray, seen: np.ndarray, height: float, seconds: np.ndarray) -> np.ndarray:
    """Frames (f,) to which the body or a joint comes further than a body can, or in which it is
    beside its way from the frame before to the one after."""
    known = np.where(seen[..., None], xy, np.nan)
    step = _distance(known[1:], known[:-1]) / height
    found = np.zeros(len(xy), bool)
    found[1:] = _beyond(step, BODY_STEP, JOINT_STEP, seconds)
    if len(xy) > 2:
        share = (seconds[:-1] / (seconds[:-1] + seconds[1:]))[:, None, None]
        between = known[:-2] * (1 - share) + known[2:] * share
        bend = _distance(known[1:-1], between) / height
        around = np.pad(bend, ((1, 1), (0, 0)), constant_values=np.nan)
        # The frames beside one that is off seem off by half as much.
        bend = np.where(bend < np.fmax(around[2:], around[:-2]), 0.0, bend)
        found[1:-1] |= _beyond(bend, BODY_BEND, JOINT_BEND, seconds[:-1] * seconds[1:])
    return found


def _beyond(way: np.ndarray, body: tuple, joint: tuple, seconds: np.ndarray) -> np.ndarray:
    """Whether ways (n, 18) of joints, in body heights, exceed the bounds of the body as a whole or
    of any joint; too few joints tell nothing."""
    enough = np.isfinite(way).sum(-1) >= FEWEST_JOINTS
    way = np.where(enough[:, None], way, 0.0)
    bound = lambda error, rate: error + rate * seconds
    return (np.nanmedian(way, 1) > bound(*body)) | (np.nanmax(way, 1) > bound(*joint))


def _exchanged(xy: np.ndarray, seen: np.ndarray, height: float, seconds: np.ndarray) -> np.ndarray:
    """Frames and groups (f, 3) of joints named the wrong way round: where the sides change place
    within a step until they change back, the fewer ones of the two kinds."""
    right, left = xy[:, RIGHT], xy[:, LEFT]  # (f, 6, 2)
    width = np.where(seen[:, RIGHT] & seen[:, LEFT], _distance(right, left), 0.0)
    # Somebody who turns quickly is narrow before and after the sides change.
    wide = width > np.maximum(NARROWEST * height, TURNED * np.quantile(width, 0.75, axis=0))
    when = np.concatenate([[0.0], np.cumsum(seconds)])
    found = np.zeros((len(xy), len(GROUPS)), bool)
    for i, group in enumerate(GROUPS):  # the limbs as they are once the body has been put right
        turned = found[:, :1, None]
        a, b = np.where(turned, left, right)[:, group], np.where(turned, right, left)[:, group]
        found[:, i] = _flipped(a, b, wide[:, group], when) ^ (found[:, 0] & (i > 0))
    return found


def _under_another_face(xy: np.ndarray, seen: np.ndarray, height: float) -> np.ndarray:
    """Frames (f,) where the sides of the shoulders are not those of the eyes, if most frames are
    so: a head can be turned away from the body, but not for long."""
    shoulders, eyes = xy[:, 5, 0] - xy[:, 2, 0], xy[:, LEFT_EYE, 0] - xy[:, RIGHT_EYE, 0]
    opposed = seen[:, [2, 5, RIGHT_EYE, LEFT_EYE]].all(-1) & (shoulders * eyes < 0)
    opposed &= (abs(shoulders) > 2 * NARROWEST * height) & (abs(eyes) > NARROWEST / 4 * height)
    return opposed & (opposed.mean() > 0.5)


def _put_right(xy: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The joints (f, 18, 2) with exchanged groups (f, 3) the other way round."""
    xy = xy.copy()
    for i, group in enumerate(GROUPS):
        right, left = RIGHT[group], LEFT[group]
        frames = np.flatnonzero(groups[:, i])[:, None]
        xy[frames, right], xy[frames, left] = xy[frames, left], xy[frames, right]
    return xy


def _flipped(right: np.ndarray, left: np.ndarray, wide: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Frames (f,) in which pairs of joints (f, 2, 2) lie the other way round than in most of the
    frames around; wide (f, 2): where they tell; when (f,): seconds."""
    frames = np.flatnonzero(wide.all(-1))
    found = np.zeros(len(wide), bool)
    if not len(frames):
        return found
    a, b = right[frames], left[frames]
    stays = (_distance(a[1:], a[:-1]) + _distance(b[1:], b[:-1])).sum(-1)
    swaps = (_distance(a[1:], b[:-1]) + _distance(b[1:], a[:-1])).sum(-1)
    near = (np.diff(frames) <= 2) & (np.diff(when[frames]) <= LONGEST_STEP)
    flips = near & (swaps < CHANGED * stays)
    for part in np.split(np.arange(len(frames)), np.flatnonzero(~near) + 1):
        state = np.concatenate([[0], np.cumsum(flips[part[:-1]])]) % 2
        found[frames[part[state == (state.mean() <= 0.5)]]] = True
    return found


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Lengths (...,) between points (..., 2)."""
    return np.linalg.norm(a - b, axis=-1)
