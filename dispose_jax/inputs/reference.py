"""The reference picture at the model's size, and the keypoints of the person in it (host code)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.inputs import arrays
from dispose_jax.inputs.sources import Sources, called
from dispose_jax.media import image
from dispose_jax.pose import checks, detected, files, follow, people
from dispose_jax.pose.detector import Detector, check_seen
from dispose_jax.types import Pose


class Framed(NamedTuple):
    """A reference picture at the model's size."""

    picture: np.ndarray  # (height, width, 3) uint8
    upright: np.ndarray  # (h, w, 3) uint8 what of it is shown, in its own shape
    move: tuple[tuple[float, float], tuple[float, float]]  # its points to upright: scale, offset
    shown: tuple[int, int]  # height and width of finished frames


def read(source: Path | np.ndarray) -> np.ndarray:
    """The picture (h, w, 3) uint8 as it is, of a file or given as that. Raises ValueError for a
    file that is none."""
    return source if isinstance(source, np.ndarray) else image.read(source)


def target_size(picture: np.ndarray, sample) -> tuple[int, int]:
    """Height and width of the model's pictures, for a reference (h, w, 3).

    sample: `config.sample`, of which height, width and resolution are read. Raises ValueError for
    sizes that no model has.
    """
    size = sample.height, sample.width
    if not sample.height:
        size = image.target_size(*picture.shape[:2], sample.resolution)
    image.check_size(*size)
    return size


def framed(picture: np.ndarray, size: tuple[int, int], shown_height: int) -> Framed:
    """A picture (h, w, 3) uint8 brought to size (height, width).

    shown_height 0: what does not fit into that shape is cut off. Else it is stretched to it, and
    frames are brought back to its own shape, at that height, when they are finished.
    """
    if shown_height:
        shown = image.shown_size(*picture.shape[:2], shown_height)
        return Framed(image.stretch(picture, *size), picture, ((1.0, 1.0), (0.0, 0.0)), shown)
    cropped = image.fit(picture, *size)
    return Framed(cropped, cropped, image.fit_transform(*picture.shape[:2], *size), size)


def keypoints(
    sources: Sources, picture: np.ndarray, frame: Framed, detector: Detector
) -> tuple[Pose, list[str]]:
    """The keypoints of the reference in fractions of what is shown of it: one frame whose person 0
    is animated; and why they deserve a look.

    picture (h, w, 3) uint8 as it is, frame: the same at the model's size. Raises ValueError if
    nobody is seen, and for given keypoints that are not the picture's.
    """
    name = called(sources.reference, "reference")
    if sources.reference_pose is None:
        digest = detected.digest(frame.upright)
        pose, notes = detector.find(frame.upright[None], name, "--reference_pose", digest), []
    else:
        found, notes = given_keypoints(sources, *picture.shape[:2])
        pose = people.move(found, *frame.move)
        notes += _cut_away(sources, found, pose, picture.shape[1::-1], frame)
    pose = follow.follow(pose, aspect=frame.upright.shape[1] / frame.upright.shape[0]).pose
    check_seen(follow.alone(pose), name)
    return pose, notes


def given_keypoints(sources: Sources, height: int, width: int) -> tuple[Pose, list[str]]:
    """The keypoints given for the reference picture, height x width as it is: one frame whose
    person 0 is animated, and why they deserve a look.

    Raises ValueError for more frames than one, a canvas of another shape, and if nobody is visible.
    """
    path = sources.reference_pose
    if isinstance(path, Pose):  # in fractions of the picture, so of its shape
        file = files.PoseFile(arrays.finite(path), width, height)
        path = "the reference_pose given"
    else:
        file = files.read(path)
    if file.pose.num_frames != 1:
        raise ValueError(
            f"{path}: {file.pose.num_frames} frames, expected one: the keypoints of the reference "
            "picture"
        )
    files.check_canvas(path, file, called(sources.reference, "reference"), height, width)
    check_seen(file.pose, path)
    pose = follow.follow(file.pose, aspect=width / height).pose
    findings = checks.look(pose, aspect=width / height, times=np.zeros(1))
    odd = [what for what, _ in findings]
    return pose, [f"{path}: {clause}" for clause in (*file.notes, *odd)]


def _cut_away(
    sources: Sources, whole: Pose, pose: Pose, size: tuple[int, int], frame: Framed
) -> list[str]:
    """What the cut to the model's shape takes of person 0 of the reference: a sentence, or none.

    whole, pose: one frame, before and after the cut. size: (width, height) of the picture before.
    Raises ValueError if nothing of the person is left, as a detector would find nobody there.
    """
    inside = lambda pose: (
        pose.visible[0, 0] & ((pose.body[0, 0] >= 0) & (pose.body[0, 0] < 1)).all(-1)
    )
    lost = inside(whole) & ~inside(pose)
    height, width = frame.upright.shape[:2]
    cut = (
        f"{called(sources.reference, 'reference')}: only the middle of its {size[0]} x {size[1]} is"
        f" used, in the shape of {width} x {height}, without the person"
    )
    if not lost.any():
        return []
    if not inside(pose).any():
        raise ValueError(f"{cut}; cut the picture round the person first")
    return [
        f"{cut}'s {people.listing([people.BODY_NAMES[joint] for joint in np.flatnonzero(lost)])}"
    ]
