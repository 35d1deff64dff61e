"""One person followed through a clip by position and size (host code).

Pose files and detectors list the people of every frame in an order of their own, often by
confidence, so that the first one may be a dancer in one frame and a passer-by in the next. Here the
people of neighbouring frames are matched, and the one who is followed becomes person 0 of every
frame. A clip that never shows two people at once is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from dispose_jax.types import Pose

MOST = 16  # people of a frame who are told apart, the largest ones

# Somebody is the person of an earlier frame if joints are no further off than this many radii of
# the body, differences in size included. Frames in between loosen the bound.
FARTHEST, LOOSER_PER_FRAME, LOOSEST = 1.0, 0.05, 1.6
LONGEST_GAP = 60  # frames after which somebody lost is not looked for any more
LONG = 8  # frames that make a part of a clip long enough to be joined to another
LIVELY = 0.05  # radii per frame that joints of a dancer move, which counts as much as double size
SMALLEST_RADIUS = 1e-3  # picture heights; keeps a body in one place from dividing by zero


class Followed(NamedTuple):
    """A pose whose person 0 is the same one in all frames, absent where it was not found."""

    pose: Pose
    warnings: tuple[str, ...]  # one clause each


def follow(
    pose: Pose,
    *,
    aspect: float,
    person: int = 0,
    source: object = "",
    numbers: Sequence[int] | None = None,
) -> Followed:
    """Bring one person of every frame to the first place; the others follow in their order.

    pose: f frames as read or detected. aspect: width over height of the picture. person: whom to
    follow, counted from the most prominent: large, often there, moving. source: names the clip in
    errors; numbers: what warnings call each frame, its index by default. Raises ValueError if there
    are fewer people than that.
    """
    if (pose.num_people <= 1).all():
        if person:
            raise ValueError(
                f"{source}: sample.person is {person}, but no frame shows a second person; use 0"
            )
        return Followed(pose, ())
    tracks = _tracks(pose, aspect)
    tracks = _joined(tracks, [_size(track, pose, aspect) for track in tracks])
    prominence = [_prominence(track, pose, aspect) for track in tracks]
    ranked = [tracks[i] for i in np.argsort(-np.array(prominence), kind="stable")]
    if person >= len(ranked):
        raise ValueError(
            f"{source}: sample.person is {person}, but only {len(ranked)} people can be told apart "
            f"in it; use 0 for the most prominent one, up to {len(ranked) - 1}"
        )
    names = range(pose.num_frames) if numbers is None else numbers
    warning = _warning(pose, ranked[person], person, len(ranked), names)
    return Followed(_first(pose, ranked[person]), (warning,))


def alone(pose: Pose) -> Pose:
    """Person 0 of every frame and nobody else."""
    return pose.at((slice(None), slice(0, 1)))


class _Latest(NamedTuple):
    """Where somebody was when last seen."""

    number: int  # of the track
    frame: int
    joints: np.ndarray  # (18, 2) in picture heights
    seen: np.ndarray  # (18,) bool
    motion: np.ndarray  # (2,) per frame, 0 where it is not known


def _tracks(pose: Pose, aspect: float) -> list[np.ndarray]:
    """The people told apart: for each, the place (f,) it is listed at in every frame, or -1."""
    xy = np.clip(pose.body, -1e6, 1e6) * (aspect, 1.0)  # picture heights; no length overflows
    seen = pose.body_score > 0
    tracks: list[np.ndarray] = []
    latest: list[_Latest] = []
    for frame in range(pose.num_frames):
        latest = [one for one in latest[-4 * MOST :] if frame - one.frame <= LONGEST_GAP]
        here = _largest(xy[frame], seen[frame])
        matched = _matched(latest, frame, xy[frame, here], seen[frame, here])
        found = []
        for j, place in enumerate(here):
            joints, joints_seen, motion = xy[frame, place], seen[frame, place], np.zeros(2)
            if j in matched:
                before = latest[matched[j]]
                number, both = before.number, before.seen & joints_seen
                if frame - before.frame == 1 and both.any():
                    motion = np.median((joints - before.joints)[both], axis=0)
            else:
                number = len(tracks)
                tracks.append(np.full(pose.num_frames, -1))
            tracks[number][frame] = place
            found.append(_Latest(number, frame, joints, joints_seen, motion))
        latest = [one for i, one in enumerate(latest) if i not in matched.values()] + found
    return tracks


def _largest(xy: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The places of people of a frame (p, 18, 2) who are seen (p, 18), the MOST largest of them."""
    here = np.flatnonzero(seen.any(-1))
    if len(here) <= MOST:
        return here
    sizes = _radius(xy[here], seen[here])
    return np.sort(here[np.argsort(-sizes, kind="stable")[:MOST]])


def _matched(latest: list[_Latest], frame: int, xy: np.ndarray, seen: np.ndarray) -> dict[int, int]:
    """Who of people (p, 18, 2) seen (p, 18) in a frame is who of those seen before: {index of the
    first: index of the second}."""
    if not latest or not len(xy):
        return {}
    gaps = np.array([frame - one.frame for one in latest])
    bounds = np.minimum(FARTHEST + LOOSER_PER_FRAME * (gaps - 1), LOOSEST)
    expected = np.stack([one.joints + one.motion for one in latest])
    unlike = _differences(expected, np.stack([one.seen for one in latest]), xy, seen)
    unlike[unlike > bounds[:, None]] = 1e3
    return {j: i for i, j in zip(*linear_sum_assignment(unlike)) if unlike[i, j] < 1e3}


def _differences(a: np.ndarray, a_seen: np.ndarray, b: np.ndarray, b_seen: np.ndarray):
    """How unlike bodies (t, 18, 2) and (p, 18, 2) are, (t, p): their distance in radii and the
    logarithm of the ratio of their sizes, both of the joints that they share."""
    both = a_seen[:, None] & b_seen  # (t, p, 18)
    shared = both.sum(-1)
    sizes = _radius(a[:, None], both), _radius(b[None], both)
    distance = (np.linalg.norm(a[:, None] - b, axis=-1) * both).sum(-1) / np.maximum(shared, 1)
    found = distance / np.maximum(*sizes) + abs(np.log(sizes[0] / sizes[1]))
    # With nothing in common, such as a head and legs, the middles have to do.
    middles = np.linalg.norm(_middle(a, a_seen)[:, None] - _middle(b, b_seen), axis=-1)
    radii = np.maximum(_radius(a, a_seen)[:, None], _radius(b, b_seen))
    return np.where(shared > 1, found, middles / radii)


def _middle(joints: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The mean (..., 2) of the joints (..., 18, 2) that are seen (..., 18)."""
    count = np.maximum(seen.sum(-1, keepdims=True), 1)
    return (joints * seen[..., None]).sum(-2) / count


def _radius(joints: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root mean square distance (...,) of the joints that are seen from their middle."""
    square = ((joints - _middle(joints, seen)[..., None, :]) ** 2).sum(-1) * seen
    spread = np.sqrt(square.sum(-1) / np.maximum(seen.sum(-1), 1))
    return np.maximum(spread, SMALLEST_RADIUS)


def _joined(tracks: list[np.ndarray], sizes: list[float]) -> list[np.ndarray]:
    """Long tracks of which one ends before the other begins are one person: a cut, or somebody who
    was out of the picture for long. The longest finds its other parts first, the nearest of them
    before the rest; of several that are about as near, that of the most similar size."""
    frames = lambda track: np.flatnonzero(track >= 0)
    ranked = sorted(zip(tracks, sizes), key=lambda one: -len(frames(one[0])))
    long = min(LONG, max(2, len(tracks[0]) // 4))
    left = [one for one in ranked if len(frames(one[0])) >= long]
    short = [track for track, _ in ranked[len(left) :]]
    whole = []
    while left:
        places, size = left.pop(0)
        while True:
            first, end = frames(places)[[0, -1]]
            order = {}
            for i, (track, other) in enumerate(left):
                held = frames(track)
                if held[0] > end or held[-1] < first:
                    gap = max(held[0] - end, first - held[-1])
                    order[i] = gap // LONG, abs(np.log(other / size)), gap
            if not order:
                break
            places = np.maximum(places, left.pop(min(order, key=order.get))[0])
        whole.append(places)
    return whole + short


def _person(track: np.ndarray, pose: Pose, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Joints (n, 18, 2) of a track's person in picture heights, in the frames where it is, and
    which are seen (n, 18)."""
    frames = np.flatnonzero(track >= 0)
    xy = np.clip(pose.body[frames, track[frames]], -1e6, 1e6) * (aspect, 1.0)
    return xy, pose.body_score[frames, track[frames]] > 0


def _size(track: np.ndarray, pose: Pose, aspect: float) -> float:
    """Median radius of a track's person."""
    return float(np.median(_radius(*_person(track, pose, aspect))))


def _prominence(track: np.ndarray, pose: Pose, aspect: float) -> float:
    """Mean radius over all frames of the clip, up to doubled for those who move."""
    xy, seen = _person(track, pose, aspect)
    radius = _radius(xy, seen)
    both = seen[1:] & seen[:-1]
    step = np.linalg.norm(np.diff(xy, axis=0), axis=-1)
    motion = step[both].mean() / radius.mean() if both.any() else 0.0
    return float(radius.sum() / len(track) * (1 + min(1.0, motion / LIVELY)))


def _first(pose: Pose, track: np.ndarray) -> Pose:
    """The pose with a track's person in place 0, absent where the track has none."""
    num_people = pose.body.shape[1]
    order = np.full((pose.num_frames, num_people + 1), num_people)  # the last one is nobody
    for frame, place in enumerate(track):
        order[frame, 0] = place if place >= 0 else num_people
        others = [i for i in range(num_people) if i != place]
        order[frame, 1 : 1 + len(others)] = others
    pad = lambda leaf: np.pad(leaf, [(0, 0), (0, 1)] + [(0, 0)] * (leaf.ndim - 2))
    arranged = jax.tree.map(pad, pose).at((np.arange(pose.num_frames)[:, None], order))
    held = np.flatnonzero((arranged.body_score > 0).any((0, 2)) | _rest(arranged))
    return arranged.at((slice(None), slice(0, held[-1] + 1)))


def _rest(pose: Pose) -> np.ndarray:
    """Which places (p,) hold a hand or a face in any frame."""
    return (pose.hands_score > 0).any((0, 2, 3)) | (pose.face_score > 0).any((0, 2))


def _warning(pose: Pose, track: np.ndarray, person: int, count: int, names: Sequence[int]) -> str:
    """Who is followed, and that there are others."""
    frame = int(np.flatnonzero(track >= 0)[0])
    seen = pose.body_score[frame, track[frame]] > 0
    x, y = _middle(pose.body[frame, track[frame]], seen)
    other = 1 if person == 0 else 0
    return (
        f"up to {int(pose.num_people.max())} people are in a frame; followed is the one at {x:.0%} "
        f"of the width and {y:.0%} of the height in frame {names[frame]} (sample.person={person} "
        f"of {count}); --config.sample.person={other} follows another"
    )
