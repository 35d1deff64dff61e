"""The sequences of the paper's tables, as their data sets lie on the disk (host code).

TikTok (Jafarian and Park 2021): one folder per sequence, 00335 to 00340, its frames in `images`.
Unseen people were not published: NAME.png and the video or folder of frames NAME beside it. Poses
are detected unless NAME.poses.json lies there too, and NAME.reference.poses.json for NAME.png.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.clip import Clip
from dispose_jax.evaluation import videos
from dispose_jax.evaluation.videos import ClipFile
from dispose_jax.inputs.reference import framed, target_size
from dispose_jax.media import image, output
from dispose_jax.models import bundle
from dispose_jax.pose import detected, dwpose, files

TIKTOK = range(335, 341)
RATE = 30  # frames per second of TikTok's folders of pictures


class Sequence(NamedTuple):
    """A driving video and who is to be animated by it."""

    name: str
    clip: ClipFile
    poses: Path | None
    reference: Path | None = None  # None: its own first frame
    reference_pose: Path | None = None  # of a reference that is not

    @property
    def unknown(self) -> list[str]:
        """The pose files that are not there, whose keypoints have to be found."""
        lacking = [] if self.poses else [f"{self.name}.poses.json"]
        if self.reference and not self.reference_pose:
            lacking.append(f"{self.name}.reference.poses.json")
        return lacking

    @property
    def digests(self) -> list[str | None]:
        """SHA-256 of the clip and of each file beside it: what is made depends on all of them."""
        beside = self.poses, self.reference, self.reference_pose
        return [self.clip.digest, *(path and detected.digest(path) for path in beside)]

    def frames(self, limit: int) -> Iterator[np.ndarray]:
        """The first `limit` frames (h, w, 3) uint8, all of them for 0."""
        for i, frame in enumerate(videos.frames(self.clip)):
            if limit and i >= limit:
                return
            yield frame


def tiktok(folder: Path) -> list[Sequence]:
    """Sequences 335 to 340. Raises ValueError with all that is missing or cannot be read."""
    entries = {path.name.lstrip("0"): path for path in _entries(folder) if path.is_dir()}
    found, problems = [], []
    for number in TIKTOK:
        path = entries.get(str(number))
        if path is None:
            problems.append(f"{folder}: no sequence {number:05d}")
            continue
        frames = path / "images" if (path / "images").is_dir() else path
        try:
            clip = videos.open_clip(frames, RATE)._replace(name=f"{number:05d}")
            poses = _poses(folder, path.name) or _poses(folder, clip.name)
            found.append(Sequence(clip.name, clip, poses))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    videos.complain(problems)
    return found


def unseen(folder: Path) -> list[Sequence]:
    """Pairs of a picture and a video of one name. Raises ValueError if there are none, and for
    videos without a picture or of one name."""
    found, problems = [], []
    for path in filter(videos.is_clip, _entries(folder)):
        name = videos.name_of(path)
        reference = folder / f"{name}.png"
        if not reference.is_file():
            problems.append(f"{path}: no {reference.name} beside it, which shows who is animated")
            continue
        if name in {one.name for one in found}:
            problems.append(f"{path}: a second clip named {name}")
            continue
        try:
            clip = videos.open_clip(path, RATE)
            poses = _poses(folder, name), _poses(folder, f"{name}.reference")
            found.append(Sequence(name, clip, poses[0], reference, poses[1]))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if not found and not problems:
        problems.append(f"{folder}: no NAME.png with a video or folder of frames NAME beside it")
    videos.complain(problems)
    return found


def check_poses(folder: Path, found: Iterable[Sequence], given: Iterable[str]) -> None:
    """Raise ValueError if keypoints of sequences of a folder have to be found, and none of the
    bundles given holds what finds them."""
    unknown = [name for one in found for name in one.unknown]
    if not unknown or bundle.pose_file([*given], dwpose.DETECTOR):
        return
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    raise ValueError(
        f"--data {folder}: no {', '.join(unknown[:3])}{more}, and no folder of --weights holds "
        f"DWPose's {' and '.join(dwpose.RELEASED_AS)}, which would find these keypoints; give one "
        "or the other"
    )


def prepared(animator, sequence: Sequence, limit: int) -> Clip:
    """What an animator makes of a sequence: the reference and the poses of its frames.

    limit: frames, 0 for all. Raises ValueError as the animator's prepare.
    """
    first = next(iter(sequence.frames(1)))
    reference = first if sequence.reference is None else image.read(sequence.reference)
    if sequence.poses is None:
        driving = np.stack([*sequence.frames(limit)])
        own = sequence.reference_pose
        return animator.prepare(reference, driving=driving, fps=RATE, reference_pose=own)
    file = files.read(sequence.poses)
    if file.pose.num_frames != sequence.clip.num_frames:
        raise ValueError(
            f"{sequence.poses}: {file.pose.num_frames} entries for {sequence.clip.num_frames} "
            f"frames of {sequence.clip.path}"
        )
    pose = file.pose.at(slice(limit or None))
    own = pose.at([0]) if sequence.reference is None else sequence.reference_pose
    poses = file._replace(pose=pose)
    return animator.prepare(reference, poses=poses, reference_pose=own, fps=RATE)


def write_truth(folder: Path, sequence: Sequence, sample, limit: int) -> None:
    """The frames themselves as the model is to make them, framed as the reference is.

    sample: `config.sample`, whose size decides.
    """

    def frames() -> Iterator[np.ndarray]:
        for picture in sequence.frames(limit):
            found = framed(picture, target_size(picture, sample), sample.shown_height)
            same = found.upright.shape[:2] == found.shown
            yield found.upright if same else image.bilinear(found.upright, *found.shown)

    write_frames(folder, frames())


def write_frames(folder: Path, frames: Iterator[np.ndarray]) -> None:
    """A folder of frames (h, w, 3) uint8 as PNG, whole or not at all."""
    with output.replacing_folder(folder) as partial:
        for i, frame in enumerate(frames):
            image.write_png(partial / f"frame_{i:05d}.png", frame)


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"--data {folder}: no such folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _poses(folder: Path, name: str) -> Path | None:
    path = folder / f"{name}.poses.json"
    return path if path.is_file() else None
