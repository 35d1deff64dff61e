"""From what a user names to what the animator animates (host code).

A reference picture, and a driving video, a pose file in its place, or both (then the video's
keypoints are those of the file): paths, or arrays in their place. Every mistake ends here with a
sentence that names the file or flag.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax import arrays
from dispose_jax.clip import Clip, Skeletons
from dispose_jax.counting import counted
from dispose_jax.media import image, video
from dispose_jax.media.sound import Sound, has_sound
from dispose_jax.pose import checks, detected, draw, files, follow, people, retarget
from dispose_jax.pose.detector import Detector, check_seen
from dispose_jax.types import Pose

FILES = ("reference", "reference_pose", "driving", "poses")  # what of the sources may be one
IN_STEP = 1e-3  # rates whose quotient is nearer to 1 keep sound and pictures together
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
    poses: Path | files.PoseFile | None
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

    def as_dict(self) -> dict[str, str | None]:
        """Each as text: a file's path, "array" for what was given as an array."""
        given = lambda name: getattr(self, name) is not None
        path = lambda name: str(self.files.get(name, "array"))
        return {name: path(name) if given(name) else None for name in FILES}


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
    numbers: np.ndarray  # (n,) of its frames in the source
    warnings: tuple[str, ...] = ()  # about the source
    sound: Sound | None = None  # of the frames that are used


def prepare(sources: Sources, sample, skeleton, detector: Detector) -> Clip:
    """Read, fit and draw everything.

    sample: `config.sample`, of which resolution, height, width, shown_height, stride, max_frames,
    fps, audio, person and draw_others are read. skeleton: `config.skeleton`. Both are checked
    (limits.py). Raises ValueError for anything that cannot be animated.
    """
    picture, size = _reference(sources, sample)
    framed = frame(picture, size, sample.shown_height)
    reference_pose, notes = _reference_pose(sources, picture, framed, detector)
    driving = _driving(sources, sample.stride, sample.max_frames, detector)
    everybody = sample.draw_others and draw.STYLES[skeleton.style].people == "all"
    driving = _trusted(driving, sources, sample, everybody)
    video_size, target_size = (driving.width, driving.height), framed.upright.shape[1::-1]
    fitted = retarget.to_reference(
        skeleton.fit, reference_pose, driving.pose, video_size=video_size, target_size=target_size
    )
    fps = driving.fps / driving.stride
    sound, silence = _sound(driving.sound, fps, sample)
    pose = fitted.pose if everybody else follow.alone(fitted.pose)
    skeletons = Skeletons(
        pose,
        framed.shown,
        size,
        canvas=skeleton.canvas,
        style=draw.style_of(skeleton),
        video_size=video_size,
    )
    return Clip(
        reference=framed.picture,
        pose=pose,
        skeletons=skeletons,
        look=dict(skeleton),
        shown=framed.shown,
        fps=Fraction(sample.fps).limit_denominator(1001) or fps,
        fit=fitted.fit,
        warnings=[*notes, *driving.warnings, *fitted.warnings, *silence],
        sound=sound,
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


def measure(sources: Sources, sample) -> tuple[int, int, int]:
    """Frames n, height and width of the video to come, without looking for anybody.

    Arguments and errors as of `prepare`.
    """
    _, (height, width) = _reference(sources, sample)
    if sources.driving is not None:
        chosen = _choose(sources, sample.stride, sample.max_frames)
        return len(chosen.numbers), height, width
    count = _pose_file(sources.poses).pose.num_frames
    step = video.stride_for(_rate(sources), sample.stride)
    used = video.count_used(_name(sources.poses, "poses"), count, step)
    return min(used, sample.max_frames or used), height, width


def read_reference_pose(sources: Sources, height: int, width: int) -> tuple[Pose, list[str]]:
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
    check_aspect(path, file, _name(sources.reference, "reference"), height, width)
    check_seen(file.pose, path)
    pose = follow.follow(file.pose, aspect=width / height).pose
    findings = checks.look(pose, aspect=width / height, times=np.zeros(1))
    odd = [what for what, _ in findings]
    return pose, [f"{path}: {clause}" for clause in (*file.notes, *odd)]


def _cut_away(
    sources: Sources, whole: Pose, pose: Pose, size: tuple[int, int], framed: Framed
) -> list[str]:
    """What the cut to the model's shape takes of person 0 of the reference: a sentence, or none.

    whole, pose: one frame, before and after the cut. size: (width, height) of the picture before.
    Raises ValueError if nothing of the person is left, as a detector would find nobody there.
    """
    inside = lambda pose: (
        pose.visible[0, 0] & ((pose.body[0, 0] >= 0) & (pose.body[0, 0] < 1)).all(-1)
    )
    lost = inside(whole) & ~inside(pose)
    height, width = framed.upright.shape[:2]
    cut = (
        f"{_name(sources.reference, 'reference')}: only the middle of its {size[0]} x {size[1]} is"
        f" used, in the shape of {width} x {height}, without the person"
    )
    if not lost.any():
        return []
    if not inside(pose).any():
        raise ValueError(f"{cut}; cut the picture round the person first")
    return [
        f"{cut}'s {people.listing([people.BODY_NAMES[joint] for joint in np.flatnonzero(lost)])}"
    ]


def _reference(sources: Sources, sample) -> tuple[np.ndarray, tuple[int, int]]:
    """The reference picture as it is, and the height and width it is brought to."""
    if sources.reference is None:
        raise ValueError("no picture to animate: give --reference")
    if sources.driving is None and sources.poses is None:
        raise ValueError("nothing to animate by: give --driving video, --poses file, or both")
    picture = sources.reference
    if not isinstance(picture, np.ndarray):
        picture = image.read(picture)
    size = sample.height, sample.width
    if not sample.height:
        size = image.target_size(*picture.shape[:2], sample.resolution)
    image.check_size(*size)
    return picture, size


def _reference_pose(
    sources: Sources, picture: np.ndarray, framed: Framed, detector: Detector
) -> tuple[Pose, list[str]]:
    """The keypoints of the reference in fractions of what is shown of it: one frame whose person 0
    is animated; and why they deserve a look. picture (h, w, 3) uint8 as it is."""
    name = _name(sources.reference, "reference")
    if sources.reference_pose is None:
        digest = detected.digest(framed.upright)
        pose, notes = detector.find(framed.upright[None], name, "--reference_pose", digest), []
    else:
        found, notes = read_reference_pose(sources, *picture.shape[:2])
        pose = people.move(found, *framed.move)
        notes += _cut_away(sources, found, pose, picture.shape[1::-1], framed)
    pose = follow.follow(pose, aspect=framed.upright.shape[1] / framed.upright.shape[0]).pose
    check_seen(follow.alone(pose), name)
    return pose, notes


def _driving(sources: Sources, stride: int, max_frames: int, detector: Detector) -> Driving:
    """The driving poses, from the pose file where there is one."""
    name = _name(sources.driving, "driving video")
    if sources.poses is None:
        chosen = _choose(sources, stride, max_frames)
        if isinstance(sources.driving, np.ndarray):
            frames = (sources.driving[i] for i in chosen.numbers)
        else:
            frames = video.frames(sources.driving, chosen.numbers)
        digest = detected.digest(sources.driving, chosen.numbers)
        pose = detector.find(frames, name, "--poses", digest, len(chosen.numbers))
        return _driven(pose, chosen, sources.driving)
    file, of = _pose_file(sources.poses), _name(sources.poses, "poses")
    if sources.driving is not None:
        info = _probe(sources)
        if file.pose.num_frames != info.num_frames:
            raise ValueError(
                f"{of}: {file.pose.num_frames} entries, but {name} has "
                f"{counted(info.num_frames, 'frame')}; one entry per frame of the video is needed"
            )
        check_aspect(of, file, name, info.height, info.width, info.pixel_aspect)
        chosen = _choose(sources, stride, max_frames)
        return _driven(file.pose.at(chosen.numbers), chosen, sources.driving, _noted(file, of))
    fps = _rate(sources)
    if sources.fps is None:
        detector.say(f"{of}: no video beside it, taking {float(fps):g} fps")
    step = video.stride_for(fps, stride)
    video.count_used(of, file.pose.num_frames, step)
    numbers = np.arange(0, file.pose.num_frames, step)[: max_frames or None]
    pose, notes = file.pose.at(numbers), _noted(file, of)
    return Driving(pose, file.width, file.height, fps, step, numbers, notes)


def _driven(
    pose: Pose, chosen: video.Chosen, source: Path | np.ndarray, notes: tuple[str, ...] = ()
) -> Driving:
    """The poses of a video's chosen frames, with its sound; notes: about the poses' file."""
    heard = None
    if not isinstance(source, np.ndarray) and has_sound(source):
        heard = Sound(source, *chosen.span, chosen.leaps)
    return Driving(
        pose,
        chosen.width,
        chosen.height,
        chosen.fps,
        chosen.stride,
        chosen.numbers,
        (*chosen.warnings, *notes),
        heard,
    )


def _sound(sound: Sound | None, fps: Fraction, sample) -> tuple[Sound | None, list[str]]:
    """The sound of the video to come, and a sentence if that is to be silent.

    sound: of the frames that are used; fps: their own rate.
    """
    if sound is None or not sample.audio:
        return None, []
    if not sample.fps or abs(sample.fps / fps - 1) <= IN_STEP:
        return sound, []
    return None, [
        f"{sound.path}: its sound is left out, as it would not be in step at sample.fps "
        f"{sample.fps:g} in place of {float(fps):g}"
    ]


def _noted(file: files.PoseFile, name: str) -> tuple[str, ...]:
    """What of a pose file was read otherwise than it stands there."""
    return tuple(f"{name}: {note}" for note in file.notes)


def _trusted(driving: Driving, sources: Sources, sample, everybody: bool) -> Driving:
    """The driving poses with one person followed, the others behind if everybody is to be seen,
    and what deserves a look in them."""
    name = _name(sources.driving, "driving video")
    name = name if sources.poses is None else _name(sources.poses, "poses")
    aspect = driving.width / driving.height
    followed = follow.follow(
        driving.pose,
        aspect=aspect,
        person=sample.person,
        source=name,
        numbers=driving.numbers,
    )
    pose = followed.pose if everybody else follow.alone(followed.pose)
    check_seen(follow.alone(pose), name)
    times = np.arange(pose.num_frames) * driving.stride / float(driving.fps)
    odd = checks.sentences(checks.look(pose, aspect=aspect, times=times), driving.numbers)
    said = tuple(f"{name}: {clause}" for clause in (*followed.warnings, *odd))
    return driving._replace(pose=pose, warnings=driving.warnings + said)


def _choose(sources: Sources, stride: int, max_frames: int) -> video.Chosen:
    """The frames that are used of the driving video, a file or an array."""
    if not isinstance(sources.driving, np.ndarray):
        return video.choose(sources.driving, stride, max_frames)
    info = _probe(sources)
    step = video.stride_for(info.fps, stride)
    video.count_used("the driving video given", info.num_frames, step)
    numbers = np.arange(0, info.num_frames, step)[: max_frames or None]
    span = 0.0, len(numbers) * step / float(info.fps)
    return video.Chosen(numbers, step, info.fps, info.height, info.width, span, (), ())


def _name(source, what: str) -> str:
    """What messages call a source: its path, or what it is."""
    return str(source) if isinstance(source, Path) else f"the {what} given"


def _rate(sources: Sources) -> Fraction:
    """Frames per second of what does not say it itself."""
    if sources.fps is None:
        return POSES_FPS
    return Fraction(float(sources.fps)).limit_denominator(1001)  # NumPy's numbers are no Fraction's


def _probe(sources: Sources) -> video.Info:
    """Of the driving video, a file or an array."""
    frames = sources.driving
    if not isinstance(frames, np.ndarray):
        return video.probe(frames)
    return video.Info(_rate(sources), *frames.shape[:3])


def _pose_file(poses: Path | files.PoseFile) -> files.PoseFile:
    if isinstance(poses, files.PoseFile):
        return poses._replace(pose=arrays.finite(poses.pose))
    return files.read(poses)


def check_aspect(
    path: Path,
    file: files.PoseFile,
    source: Path,
    height: int,
    width: int,
    pixel_aspect: Fraction = Fraction(1),
) -> None:
    """Raise ValueError if a pose file's canvas has another shape than what it belongs to.

    height, width: as it is shown. pixel_aspect: of its stored pixels; a canvas of these has the
    same fractions of the picture.
    """
    canvas, shown = file.width / file.height, width / height
    if all(abs(canvas - shape) > 0.02 * shape for shape in (shown, shown / float(pixel_aspect))):
        raise ValueError(
            f"{path}: its keypoints are on a canvas of {file.width} x {file.height}, but {source} "
            f"is {width} x {height}; both must have the same shape, so these do not belong together"
        )
