"""The driving poses: of a video, of a pose file in its place, or of both, with the video's sound
(host code)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.counting import counted
from dispose_jax.inputs import arrays
from dispose_jax.inputs.sources import Sources, called
from dispose_jax.media import video
from dispose_jax.media.sound import Sound, has_sound
from dispose_jax.pose import checks, detected, files, follow
from dispose_jax.pose.detector import Detector, check_seen
from dispose_jax.types import Pose

IN_STEP = 1e-3  # rates whose quotient is nearer to 1 keep sound and pictures together


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


def read(sources: Sources, stride: int, max_frames: int, detector: Detector) -> Driving:
    """The driving poses, from the pose file where there is one, else found in the video.

    stride, max_frames: of `config.sample`. Raises ValueError for fewer frames than two, and for a
    pose file that is not the video's.
    """
    if sources.poses is None:
        return _found(sources, _choose(sources, stride, max_frames), detector)
    file, name = _pose_file(sources.poses), called(sources.poses, "poses")
    notes = tuple(f"{name}: {note}" for note in file.notes)
    if sources.driving is not None:
        _check_together(sources, file, name)
        chosen = _choose(sources, stride, max_frames)
        return _of_video(sources.driving, chosen, file.pose.at(chosen.numbers), notes)
    if sources.fps is None:
        detector.say(f"{name}: no video beside it, taking {float(sources.rate):g} fps")
    step, numbers = _every(name, file.pose.num_frames, sources.rate, stride, max_frames)
    pose = file.pose.at(numbers)
    return Driving(pose, file.width, file.height, sources.rate, step, numbers, notes)


def count(sources: Sources, stride: int, max_frames: int) -> int:
    """How many poses `read` gives, without looking for anybody; its arguments and errors, but that
    a pose file beside a video is left unread."""
    if sources.driving is not None:
        return len(_choose(sources, stride, max_frames).numbers)
    name, num_frames = called(sources.poses, "poses"), _pose_file(sources.poses).pose.num_frames
    _, numbers = _every(name, num_frames, sources.rate, stride, max_frames)
    return len(numbers)


def follow_person(driving: Driving, sources: Sources, person: int, *, others: bool) -> Driving:
    """The driving poses with one person followed, the others behind if they are to be seen, and
    what deserves a look in them.

    person: `config.sample.person`. Raises ValueError if that person is never seen.
    """
    name = called(sources.driving, "driving video")
    name = name if sources.poses is None else called(sources.poses, "poses")
    aspect = driving.width / driving.height
    followed = follow.follow(
        driving.pose, aspect=aspect, person=person, source=name, numbers=driving.numbers
    )
    pose = followed.pose if others else follow.alone(followed.pose)
    check_seen(follow.alone(pose), name)
    times = np.arange(pose.num_frames) * driving.stride / float(driving.fps)
    odd = checks.sentences(checks.look(pose, aspect=aspect, times=times), driving.numbers)
    said = tuple(f"{name}: {clause}" for clause in (*followed.warnings, *odd))
    return driving._replace(pose=pose, warnings=driving.warnings + said)


def sound_at(sound: Sound | None, fps: Fraction, sample) -> tuple[Sound | None, list[str]]:
    """The sound of the video to come, and a sentence if that is to be silent.

    sound: of the frames that are used; fps: their own rate. sample: `config.sample`, of which audio
    and fps are read.
    """
    if sound is None or not sample.audio:
        return None, []
    if not sample.fps or abs(sample.fps / fps - 1) <= IN_STEP:
        return sound, []
    return None, [
        f"{sound.path}: its sound is left out, as it would not be in step at sample.fps "
        f"{sample.fps:g} in place of {float(fps):g}"
    ]


def _found(sources: Sources, chosen: video.Chosen, detector: Detector) -> Driving:
    """The poses that the detector finds in the chosen frames."""
    if isinstance(sources.driving, np.ndarray):
        frames = (sources.driving[i] for i in chosen.numbers)
    else:
        frames = video.frames(sources.driving, chosen.numbers)
    digest = detected.digest(sources.driving, chosen.numbers)
    name = called(sources.driving, "driving video")
    pose = detector.find(frames, name, "--poses", digest, len(chosen.numbers))
    return _of_video(sources.driving, chosen, pose)


def _check_together(sources: Sources, file: files.PoseFile, name: str) -> None:
    """Raise ValueError unless a pose file has the video's number of frames and its shape."""
    info, of = _probe(sources), called(sources.driving, "driving video")
    if file.pose.num_frames != info.num_frames:
        raise ValueError(
            f"{name}: {file.pose.num_frames} entries, but {of} has "
            f"{counted(info.num_frames, 'frame')}; one entry per frame of the video is needed"
        )
    files.check_canvas(name, file, of, info.height, info.width, info.pixel_aspect)


def _of_video(
    source: Path | np.ndarray, chosen: video.Chosen, pose: Pose, notes: tuple[str, ...] = ()
) -> Driving:
    """The poses of a video's chosen frames, with its sound; notes: about the poses' file."""
    sound = None
    if not isinstance(source, np.ndarray) and has_sound(source):
        sound = Sound(source, *chosen.span, chosen.leaps)
    return Driving(
        pose,
        chosen.width,
        chosen.height,
        chosen.fps,
        chosen.stride,
        chosen.numbers,
        (*chosen.warnings, *notes),
        sound,
    )


def _choose(sources: Sources, stride: int, max_frames: int) -> video.Chosen:
    """The frames that are used of the driving video, a file or an array."""
    if not isinstance(sources.driving, np.ndarray):
        return video.choose(sources.driving, stride, max_frames)
    info, name = _probe(sources), called(sources.driving, "driving video")
    step, numbers = _every(name, info.num_frames, info.fps, stride, max_frames)
    span = 0.0, len(numbers) * step / float(info.fps)
    return video.Chosen(numbers, step, info.fps, info.height, info.width, span, (), ())


def _every(
    name: str, num_frames: int, fps: Fraction, stride: int, max_frames: int
) -> tuple[int, np.ndarray]:
    """The step from one used frame to the next, and the numbers (n,) of at most max_frames of them
    (0: all). Raises ValueError for fewer than two."""
    step = video.stride_for(fps, stride)
    video.count_used(name, num_frames, step)
    return step, np.arange(0, num_frames, step)[: max_frames or None]


def _probe(sources: Sources) -> video.Info:
    """Of the driving video, a file or an array."""
    frames = sources.driving
    if not isinstance(frames, np.ndarray):
        return video.probe(frames)
    return video.Info(sources.rate, *frames.shape[:3])


def _pose_file(poses: Path | files.PoseFile) -> files.PoseFile:
    """What a pose file holds, or was given as its content."""
    if isinstance(poses, files.PoseFile):
        return poses._replace(pose=arrays.finite(poses.pose))
    return files.read(poses)
