"""The videos that are measured: found, checked and read one frame at a time (host code).

A folder holds one clip per entry: a video file, or a folder of numbered pictures. Clips of two
folders pair by name (without the ending), frames by position.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dispose_jax.evaluation import frame_metrics
from dispose_jax.media import video

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_SHOWN = 12  # problems told of at once


class ClipFile(NamedTuple):
    """A clip as it lies on the disk."""

    name: str
    path: Path  # a video, or a folder of pictures
    num_frames: int
    size: tuple[int, int]  # height, width
    fps: float  # of a video; what the caller says of pictures
    digest: str  # SHA-256 of the content: of all files' bytes, in order


def find(folder: str | Path, fps: float, seen: Callable[[], None] = lambda: None):
    """Every clip of a folder by name, and what is wrong with the others: ({name: ClipFile}, [str]).

    Every picture and video is decoded, so that a run fails before its first network; a video that
    lacks frames is wrong. fps: of folders of pictures; seen: called after each clip. Raises
    ValueError if there is no such folder or no clip in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; expected one with a video or a folder of "
            "pictures for every clip"
        )
    clips, problems = {}, []
    for path in sorted(folder.iterdir(), key=lambda path: _natural(path.name)):
        is_video = path.suffix.lower() in VIDEOS
        if path.name.startswith(".") or not (is_video or path.is_dir()):
            continue
        name = path.stem if is_video else path.name
        if name in clips:
            problems.append(f"{path}: a second clip named {name}")
            continue
        try:
            clips[name] = open_clip(path, fps)
        except (ValueError, OSError) as error:
            problems.append(str(error))
        seen()
    if not clips and not problems:
        raise ValueError(
            f"{folder}: no clips in it; expected videos ({', '.join(VIDEOS)}) or folders of "
            f"pictures ({', '.join(PICTURES)})"
        )
    return clips, problems


def open_clip(path: Path, fps: float) -> ClipFile:
    """A video or a folder of pictures, checked as `find` does. Raises ValueError or OSError."""
    if path.is_dir():
        return _pictures(path.name, path, fps)
    return _video(path.stem, path)


def unequal(real: dict[str, ClipFile], fake: dict[str, ClipFile], resize: bool) -> list[str]:
    """What keeps clips of two folders from being compared, one sentence each.

    resize: whether frames are brought to one size, so that theirs may differ.
    """
    problems = []
    for these, those, where in ((real, fake, "fake"), (fake, real, "real")):
        lacking = [name for name in these if name not in those]
        if lacking:
            problems.append(f"no {where} clip named {_listed(lacking)}")
    for name in real.keys() & fake.keys():
        one, other = real[name], fake[name]
        if one.num_frames != other.num_frames:
            problems.append(f"{name}: {one.num_frames} real and {other.num_frames} fake frames")
        if one.size != other.size and not resize:
            sizes = " and ".join(f"{clip.size[1]} x {clip.size[0]}" for clip in (one, other))
            problems.append(f"{name}: real and fake frames of {sizes} (--size real resizes)")
    return problems


def complain(problems: Sequence[str]) -> None:
    """Raise ValueError with all problems in one sentence, if there are any."""
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"nothing was measured: {'; '.join(problems[:_SHOWN])}{more}")


def frames(clip: ClipFile, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Frames (h, w, 3) uint8 RGB one by one, brought to size (height, width) if given.

    Raises ValueError if a clip has changed since it was found.
    """
    if clip.path.is_dir():
        found = map(_read, _files(clip.path))
    else:
        found = video.iterate(clip.path, 1)
    count = 0
    for frame in found:
        count += 1
        yield frame_metrics.resized(frame, size or clip.size)
    if count != clip.num_frames:
        raise ValueError(
            f"{clip.path}: {count} frames where there were {clip.num_frames} when it was found; "
            "leave the folder alone while it is measured"
        )


def parse_size(text: str) -> tuple[int, int] | str | None:
    """--size: "" (None: sizes must be equal), "real", or HEIGHTxWIDTH as a pair."""
    if text in ("", "real"):
        return text or None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or not all(map(int, found.groups())):
        raise ValueError(f"--size {text}: expected HEIGHTxWIDTH such as 1024x576, or real")
    return int(found[1]), int(found[2])


def _video(name: str, path: Path) -> ClipFile:
    info = video.probe(path)
    if info.damage:  # frames would be compared with others than their own
        raise ValueError("; ".join(info.damage))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ClipFile(name, path, info.num_frames, (info.height, info.width), float(info.fps), digest)


def _pictures(name: str, path: Path, fps: float) -> ClipFile:
    """A folder of frames, every one of them decoded."""
    files, digest, size = _files(path), hashlib.sha256(), None
    if not files:
        raise ValueError(f"{path}: a folder without pictures ({', '.join(PICTURES)})")
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
        found = _read(file).shape[:2]
        if size is not None and found != size:
            raise ValueError(
                f"{file}: {found[1]} x {found[0]} after frames of {size[1]} x {size[0]}"
            )
        size = found
    return ClipFile(name, path, len(files), size, fps, digest.hexdigest())


def _files(folder: Path) -> list[Path]:
    """The pictures of a folder; frame_10 comes after frame_9."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    files = [path for path in files if not path.name.startswith(".")]
    return sorted(files, key=lambda path: _natural(path.name))


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _read(file: Path) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{file}: not a picture that can be read; write this frame again")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
