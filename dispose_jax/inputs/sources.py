"""The files and arrays that a user names for one clip (host code)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from dispose_jax.inputs import arrays
from dispose_jax.pose.files import PoseFile
from dispose_jax.types import Pose

FILES = ("reference", "reference_pose", "driving", "poses")  # what of the sources may be one
POSES_FPS = Fraction(30)  # taken for a pose file without a video


@dataclass(frozen=True)
class Sources:
    """A reference picture and its keypoints, a driving video and its keypoints: files or arrays.

    reference_pose None: detected. At least one of driving and poses; poses None: detected. In place
    of files: reference (h, w, 3) and driving (n, h, w, 3), both uint8, reference_pose one frame in
    fractions of the reference, poses with the size of their canvas. fps: of a driving array or of
    poses alone; None: 30. A text is a file's path. Raises ValueError for anything else.
    """

    reference: Path | np.ndarray | None
    reference_pose: Path | Pose | None
    driving: Path | np.ndarray | None
    poses: Path | PoseFile | None
    fps: Fraction | float | None = None

    def __post_init__(self):
        for name in FILES:
            value = getattr(self, name)
            if isinstance(value, (str, os.PathLike)):
                object.__setattr__(self, name, Path(value))
        arrays.check_picture(self.reference, "reference")
        arrays.check_pose(self.reference_pose, "reference_pose")
        arrays.check_video(self.driving, "driving video")
        arrays.check_poses(self.poses, "poses")
        arrays.check_rate(self.fps)

    @property
    def files(self) -> dict[str, Path]:
        """Those that are files, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Path)}

    @property
    def rate(self) -> Fraction:
        """Frames per second of what does not say it itself: a driving array, or poses alone."""
        if self.fps is None:
            return POSES_FPS
        number = float(self.fps)  # NumPy's numbers are none that a Fraction is made of
        return Fraction(number).limit_denominator(1001)

    def as_dict(self) -> dict[str, str | None]:
        """Each as text: a file's path, "array" for what was given as an array."""
        given = lambda name: getattr(self, name) is not None
        path = lambda name: str(self.files.get(name, "array"))
        return {name: path(name) if given(name) else None for name in FILES}

    def check_complete(self) -> None:
        """Raise ValueError unless there is a picture to animate and something to animate it by."""
        if self.reference is None:
            raise ValueError("no picture to animate: give --reference")
        if self.driving is None and self.poses is None:
            raise ValueError("nothing to animate by: give --driving video, --poses file, or both")


def called(source: object, what: str) -> str:
    """What messages call a source: its path, or what it is."""
    return str(source) if isinstance(source, Path) else f"the {what} given"
