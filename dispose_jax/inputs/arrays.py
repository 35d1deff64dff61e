"""What the library call takes in place of files: pictures, keypoints and a rate, checked before
anything is made of them (host code)."""

from __future__ import annotations

from math import inf
from numbers import Real
from pathlib import Path

import jax
import numpy as np

from dispose_jax.pose.files import PoseFile
from dispose_jax.types import Pose

RATES = 0.01, 1000  # frames per second that are one
LEAVES = {  # of a pose: what follows frames and people
    "body": (18, 2),
    "body_score": (18,),
    "hands": (2, 21, 2),
    "hands_score": (2, 21),
    "face": (68, 2),
    "face_score": (68,),
}


def check_picture(picture: object, name: str) -> None:
    """Raise ValueError unless this is a file's path, nothing, or a picture (h, w, 3) uint8."""
    _check_kind(picture, name, np.ndarray, "an array (h, w, 3) uint8")
    if isinstance(picture, np.ndarray):
        _check_pixels(picture, name, 3, "(h, w, 3)")


def check_video(frames: object, name: str) -> None:
    """The same for frames (n, h, w, 3) uint8."""
    _check_kind(frames, name, np.ndarray, "an array (n, h, w, 3) uint8")
    if isinstance(frames, np.ndarray):
        _check_pixels(frames, name, 4, "(n, h, w, 3)")


def check_pose(pose: object, name: str) -> None:
    """The same for a Pose."""
    _check_kind(pose, name, Pose, "a dispose_jax.types.Pose")
    if isinstance(pose, Pose):
        _check_keypoints(pose, name)


def check_poses(poses: object, name: str) -> None:
    """The same for a PoseFile."""
    _check_kind(poses, name, PoseFile, "a dispose_jax.pose.files.PoseFile")
    if isinstance(poses, PoseFile):
        _check_kind(poses.pose, f"{name}'s pose", Pose, "a dispose_jax.types.Pose")
        _check_keypoints(poses.pose, name)
        if not all(isinstance(side, Real) and 1 <= side < inf for side in poses[1:3]):
            raise ValueError(
                f"the {name} given: the canvas is {poses.width} x {poses.height}; expected the "
                "size in pixels of what the keypoints were found on"
            )


def finite(pose: Pose) -> Pose:
    """A checked pose with absent points that are no numbers (NaN) at 0, as those of files are: they
    cannot be turned into pixels, not even to be left out afterwards."""
    return jax.tree.map(lambda leaf: np.where(np.isfinite(leaf), leaf, 0.0), pose)


def check_rate(fps: object) -> None:
    """Raise ValueError unless this is nothing, or a number of frames per second that can be."""
    low, high = RATES
    if fps is not None and not (isinstance(fps, Real) and low <= fps <= high):
        raise ValueError(f"fps is {fps!r}: expected a number from {low} to {high}")


def _check_kind(value: object, name: str, kind: type, described: str) -> None:
    if value is not None and not isinstance(value, (Path, kind)):
        found = f"{type(value).__module__}.{type(value).__qualname__}"
        raise ValueError(f"the {name} given is a {found}; expected a path or {described}")


def _check_pixels(array: np.ndarray, name: str, rank: int, shape: str) -> None:
    if array.ndim != rank or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"the {name} given is {array.dtype} of shape {array.shape}; expected uint8 {shape}"
        )


def _check_keypoints(pose: Pose, name: str) -> None:
    """Raise ValueError for leaves that do not fit together and for numbers that are none, but at
    points that are absent."""
    f, p = np.shape(pose.body)[:2] if np.ndim(pose.body) == 4 else (0, 0)
    for leaf, shape in LEAVES.items():
        array = getattr(pose, leaf)
        if not (isinstance(array, np.ndarray) and array.dtype.kind == "f"):
            found = getattr(array, "dtype", "no array")
            raise ValueError(
                f"the {name} given: {leaf} is {type(array).__name__} ({found}); expected a NumPy "
                "array of floats"
            )
        if array.shape != (f, p, *shape):
            axes = ", ".join(map(str, ("frames", "people", *shape)))
            raise ValueError(
                f"the {name} given: {leaf} has the shape {array.shape}; expected ({axes}), with "
                "frames and people as of body"
            )
    for leaf in ("body", "hands", "face"):
        places, score = getattr(pose, leaf), getattr(pose, f"{leaf}_score")
        if not (np.isfinite(score).all() and np.isfinite(places[score > 0]).all()):
            raise ValueError(
                f"the {name} given: {leaf} holds numbers that are not finite; a point that is "
                "absent has the score 0"
            )
