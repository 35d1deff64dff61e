"""What is animated: a reference picture, poses on its body and their skeletons (host code)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from dispose_jax.diffusion import windows
from dispose_jax.media import image
from dispose_jax.media.sound import Sound
from dispose_jax.pose import draw
from dispose_jax.types import Pose


@dataclass(frozen=True)
class Skeletons:
    """Skeleton pictures of a clip: a sequence that keeps the poses and draws what is asked for."""

    pose: Pose  # f frames
    shown: tuple[int, int]  # height and width they are drawn at
    size: tuple[int, int]  # height and width they are stretched to
    canvas: int  # canvas, style, video_size: see draw.draw
    style: draw.Style
    video_size: tuple[int, int]

    def __len__(self) -> int:
        return self.pose.num_frames

    def __getitem__(self, frames) -> np.ndarray:
        """The pictures (..., h, w, 3) uint8 of a frame's number, a slice or an array of numbers."""
        numbers = np.arange(len(self))[frames]
        pictures = draw.draw(
            self.pose.at(numbers.reshape(-1)),
            *self.shown,
            canvas=self.canvas,
            style=self.style,
            video_size=self.video_size,
        )
        if self.shown != self.size:
            pictures = np.stack([image.stretch(one, *self.size) for one in pictures])
        return pictures.reshape(*numbers.shape, *pictures.shape[1:])


class Clip(NamedTuple):
    """What is animated; f = n + 1 with frame 0 the reference."""

    reference: np.ndarray  # (h, w, 3) uint8
    pose: Pose  # f frames on the reference's body
    skeletons: Skeletons  # f pictures (h, w, 3) uint8
    look: dict  # the `config.skeleton` that fitted and draws them
    shown: tuple[int, int]  # height and width of the video to write
    fps: Fraction  # of the video to write
    fit: NamedTuple  # of the procedure that fitted the poses
    warnings: list[str]
    sound: Sound | None = None  # of the video to write

    @property
    def num_frames(self) -> int:
        """Frames of the video to write, n."""
        return len(self.skeletons) - 1

    def prolonged(self, count: int) -> Clip:
        """The clip with its last pose repeated so many times."""
        frames = np.minimum(np.arange(len(self.skeletons) + count), len(self.skeletons) - 1)
        pose = self.pose.at(frames)
        return self._replace(pose=pose, skeletons=replace(self.skeletons, pose=pose))


def padding(sample, num_frames: int) -> int:
    """How often the last pose is to be repeated, by `config.sample`.

    num_frames: that the model makes, the reference among them if it does (protocol.generated).
    """
    if not sample.window_pad:
        return 0
    return windows.padded(num_frames, sample.window, sample.overlap) - num_frames
