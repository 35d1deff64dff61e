"""From the files a user names to what the driver animates (host code).

A reference picture, and a driving video, a pose file in its place, or both (then the video's
keypoints are those of the file). Every mistake ends here with a sentence that names the file or
flag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.diffusion import windows
from dispose_jax.media import image, video
from dispose_jax.pose import draw, estimate, files, people, retarget
from dispose_jax.types import Pose

POSES_FPS = Fraction(30)  # taken for a pose file without a video


@dataclass(frozen=True)
class Sources:
    """Files: a reference picture and its keypoints, a driving video and its keypoints.

    reference_pose None: detected. At least one of driving and poses; poses None: detected.
    """

    reference: Path | None
    reference_pose: Path | None
    driving: Path | None
    poses: Path | None

    def as_dict(self) -> dict[str, str | None]:
        return {name: value and str(value) for name, value in vars(self).items()}


class Clip(NamedTuple):
    """What is animated; f = n + 1 with frame 0 the reference."""

    reference: np.ndarray  # (h, w, 3) uint8
    pose: Pose  # f frames on the reference's body
    skeletons: np.ndarray  # (f, h, w, 3) uint8
    shown: tuple[int, int]  # height and width of the video to write
    fps: Fraction  # of the video to write
    fit: NamedTuple  # of the procedure that fitted the poses
    warnings: list[str]

    @property
    def num_frames(self) -> int:
        """Frames of the video to write, n."""
        return len(self.skeletons) - 1


class Framed(NamedTuple):
    """A reference picture at the model's size."""

    picture: np.ndarray  # (height, width, 3) uint8
    upright: np.ndarray  # (h, w, 3) uint8 what of it is shown, in its own shape
    move: tuple[tuple[float, float], tuple[float, float]]  # its points to upright: scale, offset
    shown: tuple[int, int]  # height and width of finished frames


class Driving(NamedTuple):
    """Driving poses after the stride."""

    pose: Pose
    width: int
    height: int
    fps: Fraction  # of the source
    stride: int


def prepare(
    sources: Sources, sample, skeleton, pose_models: Path | None, say: Callable[[str], None]
) -> Clip:
    """Read, fit and draw everything.

    sample, skeleton: `config.sample`, of which resolution, height, width, shown_height, stride,
    max_frames and fps are read, and `config.skeleton`, checked (settings.py). pose_models: folder
    of the detector's files or None. Raises ValueError for anything that cannot be animated.
    """
    picture, size = _reference(sources, sample)
    framed = frame(picture, size, sample.shown_height)
    detector = Detector(pose_models, say)
    if sources.reference_pose is None:
        upright = framed.upright[None]
        reference_pose = detector.find(upright, sources.reference, "--reference_pose")
    else:
        found = _reference_pose(sources, *picture.shape[:2])
        reference_pose = people.move(found, *framed.move)
    driving = _driving(sources, sample.stride, sample.max_frames, detector)
    video_size, target_size = (driving.width, driving.height), framed.upright.shape[1::-1]
    fitted = retarget.to_reference(
        skeleton.fit, reference_pose, driving.pose, video_size=video_size, target_size=target_size
    )
    skeletons = draw.draw(
        fitted.pose,
        *framed.shown,
        canvas=skeleton.canvas,
        style=draw.STYLES[skeleton.style],
        video_size=video_size,
    )
    if framed.shown != size:
        skeletons = np.stack([image.stretch(one, *size) for one in skeletons])
    return Clip(
        reference=framed.picture,
        pose=fitted.pose,
        skeletons=skeletons,
        shown=framed.shown,
        fps=Fraction(sample.fps).limit_denominator(1001) or driving.fps / driving.stride,
        fit=fitted.fit,
        warnings=fitted.warnings,
    )


def frame(picture: np.ndarray, size: tuple[int, int], shown_height: int) -> Framed:
    """Bring a picture (h, w, 3) to size (height, width).

    shown_height 0: what does not fit into that shape is cut off. Else it is stretched to it, and
    frames are brought back to its own shape, at that height, when they are finished.
    """
    if shown_height:
        shown = image.shown_size(*picture.shape[:2], shown_height)
        return Framed(image.stretch(picture, *size), picture, ((1.0, 1.0), (0.0, 0.0)), shown)
    cropped = image.fit(picture, *size)
    return Framed(cropped, cropped, image.fit_transform(*picture.shape[:2], *size), size)


def padding(sample, num_frames: int) -> int:
    """How often the last of num_frames poses is to be repeated, by `config.sample`."""
    if not sample.window_pad:
        return 0
    return windows.padded(num_frames, sample.window, sample.overlap) - num_frames


def prolonged(clip: Clip, count: int) -> Clip:
    """The clip with its last pose repeated so many times."""
    frames = np.minimum(np.arange(len(clip.skeletons) + count), len(clip.skeletons) - 1)
    return clip._replace(pose=clip.pose.at(frames), skeletons=clip.skeletons[frames])


def measure(sources: Sources, sample) -> tuple[int, int, int]:
    """Frames n, height and width of the video to come, without looking for anybody.

    Arguments and errors as of `prepare`.
    """
    _, (height, width) = _reference(sources, sample)
    if sources.poses is not None:
        source, count = sources.poses, files.read(sources.poses).pose.num_frames
        fps = video.probe(sources.driving).fps if sources.driving is not None else POSES_FPS
    else:
        source = sources.driving
        info = video.probe(source)
        count, fps = info.num_frames, info.fps
    used = video.count_used(source, count, video.stride_for(fps, sample.stride))
    return min(used, sample.max_frames or used), height, width


def _reference(sources: Sources, sample) -> tuple[np.ndarray, tuple[int, int]]:
    """The reference picture as it is, and the height and width it is brought to."""
    if sources.reference is None:
        raise ValueError("no picture to animate: give --reference")
    if sources.driving is None and sources.poses is None:
        raise ValueError("nothing to animate by: give --driving video, --poses file, or both")
    picture = image.read(sources.reference)
    size = sample.height, sample.width
    if not sample.height:
        size = image.target_size(*picture.shape[:2], sample.resolution)
    image.check_size(*size)
    return picture, size


def _reference_pose(sources: Sources, height: int, width: int) -> Pose:
    """The keypoints given for the reference picture, height x width as it is: one frame."""
    path = sources.reference_pose
    file = files.read(path)
    if file.pose.num_frames != 1:
        raise ValueError(
            f"{path}: {file.pose.num_frames} frames, expected one: the keypoints of the reference "
            "picture"
        )
    check_aspect(path, file, sources.reference, height, width)
    _check_seen(file.pose, path)
    return file.pose


class Detector:
    """DWPose, opened when first needed."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]):
        self.folder, self.say, self.models = folder, say, None

    def open(self, source: Path, remedy: str) -> estimate.Models:
        """The networks; the error without any names source and what to do."""
        if self.models is None:
            if self.folder is None:
                raise ValueError(
                    f"{source}: its keypoints are not given and no weights folder holds DWPose's "
                    f"detector.onnx and whole_body.onnx; {remedy}"
                )
            self.models = estimate.open_models(self.folder)
        return self.models

    def find(self, frames: np.ndarray, source: Path, flag: str) -> Pose:
        """Poses of frames (n, h, w, 3) uint8; the error without a detector names source and
        flag."""
        models = self.open(source, f"pass a pose file with {flag}")
        self.say(f"finding keypoints in {len(frames)} frames of {source}")
        pose = estimate.estimate(models, frames)
        _check_seen(pose, source)
        return pose


def _driving(sources: Sources, stride: int, max_frames: int, detector: Detector) -> Driving:
    """The driving poses, from the pose file where there is one."""
    info = video.probe(sources.driving) if sources.driving is not None else None
    if sources.poses is None:
        clip = video.read(sources.driving, stride)
        frames = clip.frames[: max_frames or None]
        pose = detector.find(frames, sources.driving, "--poses")
        return Driving(pose, info.width, info.height, info.fps, clip.stride)
    file = files.read(sources.poses)
    width, height, fps = file.width, file.height, POSES_FPS
    if info is not None:
        width, height, fps = info.width, info.height, info.fps
        if file.pose.num_frames != info.num_frames:
            raise ValueError(
                f"{sources.poses}: {file.pose.num_frames} entries, but {sources.driving} has "
                f"{info.num_frames} frames; one entry per frame of the video is needed"
            )
        check_aspect(sources.poses, file, sources.driving, info.height, info.width)
    else:
        detector.say(f"{sources.poses}: no video beside it, taking {float(fps):g} fps")
    step = video.stride_for(fps, stride)
    video.count_used(sources.poses, file.pose.num_frames, step)
    pose = file.pose.at(slice(None, None, step)).at(slice(max_frames or None))
    _check_seen(pose, sources.poses)
    return Driving(pose, width, height, fps, step)


def _check_seen(pose: Pose, source: Path) -> None:
    """Raise ValueError if nobody is visible in any frame."""
    if not pose.visible[:, 0].any():
        raise ValueError(f"{source}: no person is visible in it; use one that shows a person")


def check_aspect(path: Path, file: files.PoseFile, source: Path, height: int, width: int) -> None:
    """Raise ValueError if a pose file's canvas has another shape than what it belongs to."""
    if abs(file.width / file.height - width / height) > 0.02 * width / height:
        raise ValueError(
            f"{path}: its keypoints are on a canvas of {file.width} x {file.height}, but {source} "
            f"is {width} x {height}; both must have the same shape, so these do not belong together"
        )
