"""The videos that are measured: found, checked and read one frame at a time (host code).

A folder holds one clip per entry: a video file, or a folder of numbered pictures. Clips of two
folders pair by name (without the ending), frames by position.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.evaluation import frame_metrics
from dispose_jax.media import image, video

_SHOWN = 12  # problems told of at once
# HEIC is looked for, too, to be refused by name.
_ENDINGS = ", ".join(ending for ending in image.SUFFIXES if ending != ".heic")  # of pictures
_EXPLAINS = ".explain.mp4"
# What `evaluate.py` writes into its --output, which may lie among the clips.
_MEASURED = (("metrics.md", "metrics.json"), ("table.md", "results.json"))
_SAME_RATE = 0.01  # difference of rates that counts as none: 29.97 is 30
_SAME_SHAPE = 0.02  # of width over height, as where keypoints belong to a video
_TRUTH = 'docs/evaluation.md, "Your own videos", says how to make the true frames'


class Found(NamedTuple):
    """The clips of a folder by name, what is wrong with others, and the names of these."""

    clips: dict[str, ClipFile]
    problems: list[str]
    broken: set[str]


class ClipFile(NamedTuple):
    """A clip as it lies on the disk."""

    name: str
    path: Path  # a video, or a folder of pictures
    num_frames: int
    size: tuple[int, int]  # height, width
    fps: float  # of a video; what the caller says of pictures
    digest: str  # SHA-256 of the content: of all files' bytes, in order
    stamp: list[tuple[int, int]]  # size and time of every file, when it was found


def find(folder: str | Path, fps: float | Mapping[str, float]) -> Found:
    """Every clip of a folder.

    Every picture and video is decoded, so that a run fails before its first network; a video that
    lacks frames is wrong. fps: of folders of pictures, of all or by the names of those expected.
    Raises ValueError if there is no such folder or no clip in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; expected one with a video or a folder of "
            "pictures for every clip"
        )
    clips, problems, broken = {}, [], set()
    for path in sorted(folder.iterdir(), key=lambda path: _natural(path.name)):
        if path.name.startswith(".") or not is_clip(path):
            continue
        name = name_of(path)
        if name in clips:
            problems.append(f"{path}: a second clip named {name}")
            continue
        rate = fps.get(name) if isinstance(fps, Mapping) else fps
        if rate is None:
            problems.append(f"{path}: is none of the clips that are measured; put it elsewhere")
            continue
        try:
            clips[name] = open_clip(path, rate)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            broken.add(name)
    if not clips and not problems:
        raise ValueError(
            f"{folder}: no clips in it; expected videos ({', '.join(video.SUFFIXES)}) or folders "
            f"of pictures ({_ENDINGS})"
        )
    return Found(clips, problems, broken)


def is_clip(path: Path) -> bool:
    """Whether this is a folder, or a file whose name ends as a video's; not what explains another
    one beside it, which `sample.py --explain` writes, nor what `evaluate.py` wrote."""
    explained = path.with_name(path.name.removesuffix(_EXPLAINS) + ".mp4")
    if path.name.endswith(_EXPLAINS) and explained.exists():
        return False
    if any(all((path / name).is_file() for name in names) for names in _MEASURED):
        return False
    return path.is_dir() or path.suffix.lower() in video.SUFFIXES


def name_of(path: Path) -> str:
    """A clip's name. Some programs keep the video's ending in that of its folder of frames."""
    return path.stem if path.suffix.lower() in video.SUFFIXES else path.name


def open_clip(path: Path, fps: float) -> ClipFile:
    """A video or a folder of pictures, checked as `find` does. Raises ValueError or OSError."""
    return _pictures(path, fps) if path.is_dir() else _video(path)


def pair_rates(real: Found, fake: Found) -> None:
    """Give a folder of pictures the rate of the video that it is paired with, frame by frame."""
    for name, one, other in [*_pairs(real, fake)]:
        if one.path.is_dir() and not other.path.is_dir():
            real.clips[name] = one._replace(fps=other.fps)
        if other.path.is_dir() and not one.path.is_dir():
            fake.clips[name] = other._replace(fps=one.fps)


def unequal(real: Found, fake: Found, resize: bool) -> list[str]:
    """What keeps clips of two folders from being compared, one sentence each.

    resize: whether frames are brought to one size, or none is compared with another, so that
    theirs may differ.
    """
    problems = []
    for these, those, where in ((real, fake, "fake"), (fake, real, "real")):
        lacking = [name for name in these.clips if name not in {*those.clips, *those.broken}]
        if lacking:
            problems.append(f"no {where} clip named {_listed(lacking)}")
    counts, sizes = [], []
    for name, one, other in _pairs(real, fake):
        if one.num_frames != other.num_frames:
            counts.append(f"{name} (real {one.num_frames}, fake {other.num_frames})")
        if one.size != other.size and not resize:
            sizes.append(_sizes(name, one, other))
    if counts:
        problems.append(f"numbers of frames differ of {_listed(counts)}: {_TRUTH}")
    if sizes:
        problems.append(f"sizes differ of {_listed(sizes)}: --size real resizes")
    return problems


def unlike(real: Found, fake: Found) -> list[str]:
    """What is to be known of pairs that can be measured and may not be meant to be, a sentence
    each: videos whose frames have other times, frames of other shapes."""
    # A folder of pictures has no rate of its own.
    rates = [
        f"{name} (real {one.fps:.4g}, fake {other.fps:.4g})"
        for name, one, other in _pairs(real, fake)
        if not (one.path.is_dir() or other.path.is_dir())
        and abs(one.fps / other.fps - 1) > _SAME_RATE
    ]
    aspect = lambda clip: clip.size[1] / clip.size[0]
    shapes = [
        _sizes(name, one, other)
        for name, one, other in _pairs(real, fake)
        if abs(aspect(one) / aspect(other) - 1) > _SAME_SHAPE
    ]
    notes = []
    if rates:
        notes.append(
            f"Frames a second differ of {_listed(rates)}; those compared are paired by position, "
            "whatever their times"
        )
    if shapes:
        notes.append(
            f"Shapes differ of {_listed(shapes)}; frames that are compared are stretched onto each "
            f"other, though what is generated was most likely cut out: {_TRUTH}"
        )
    return notes


def complain(problems: Sequence[str]) -> None:
    """Raise ValueError with all problems in one sentence, if there are any."""
    if problems:
        raise ValueError(f"nothing was measured: {'; '.join(_first(problems))}")


def frames(clip: ClipFile, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Frames (h, w, 3) uint8 RGB one by one, brought to size (height, width) if given.

    Raises ValueError if a clip has changed since it was found.
    """
    if clip.path.is_dir():
        found = map(_read, _files(clip.path))
    else:
        found = video.iterate(clip.path, 1)
    for frame in islice(found, clip.num_frames):  # more of them is a change, too
        yield frame_metrics.resized(frame, size or clip.size)
    # Else what was computed of it would be kept under the digest of what it was.
    if _stamp(clip.path) != clip.stamp:
        raise ValueError(
            f"{clip.path}: was changed after it was found; leave the folder alone while it is "
            "measured, and run the same command again"
        )


def parse_size(text: str) -> tuple[int, int] | str | None:
    """--size: "" (None: frames that are compared must have one), "real", or HEIGHTxWIDTH as a
    pair."""
    if text in ("", "real"):
        return text or None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or not all(map(int, found.groups())):
        raise ValueError(f"--size {text}: expected HEIGHTxWIDTH such as 1024x576, or real")
    return int(found[1]), int(found[2])


def _pairs(real: Found, fake: Found) -> Iterator[tuple[str, ClipFile, ClipFile]]:
    """Name, true and generated clip of those that both sides have."""
    for name, one in real.clips.items():
        if name in fake.clips:
            yield name, one, fake.clips[name]


def _sizes(name: str, one: ClipFile, other: ClipFile) -> str:
    """A pair whose frames are of two sizes."""
    real, fake = (f"{clip.size[1]} x {clip.size[0]}" for clip in (one, other))
    return f"{name} (real {real}, fake {fake})"


def _stamp(path: Path) -> list[tuple[int, int]]:
    """Size and time of the last change of a clip's files."""
    statuses = [file.stat() for file in (_files(path) if path.is_dir() else [path])]
    return [(status.st_size, status.st_mtime_ns) for status in statuses]


def _video(path: Path) -> ClipFile:
    """A video, every frame of it decoded. Raises ValueError if it lacks some."""
    stamp = _stamp(path)
    info = video.probe(path)
    if info.damage:  # frames would be compared with others than their own
        raise ValueError("; ".join(info.damage))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = info.height, info.width
    return ClipFile(name_of(path), path, info.num_frames, size, float(info.fps), digest, stamp)


def _pictures(path: Path, fps: float) -> ClipFile:
    """A folder of frames, every one of them decoded. Raises ValueError with all that is wrong."""
    files, stamp = _files(path), _stamp(path)
    digest, size, problems = hashlib.sha256(), None, []
    if not files:
        raise ValueError(f"{path}: a folder without pictures ({_ENDINGS})")
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
        try:
            found = _read(file).shape[:2]
        except ValueError as error:
            problems.append(str(error))
            continue
        size = size or found
        if found != size:
            problems.append(f"{file}: {found[1]} x {found[0]}, not {size[1]} x {size[0]}")
    if problems:
        raise ValueError("; ".join(_first(problems)))
    return ClipFile(name_of(path), path, len(files), size, fps, digest.hexdigest(), stamp)


def _files(folder: Path) -> list[Path]:
    """The pictures of a folder; frame_10 comes after frame_9."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in image.SUFFIXES]
    files = [path for path in files if not path.name.startswith(".")]
    return sorted(files, key=lambda path: _natural(path.name))


def _natural(name: str) -> list:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _read(file: Path) -> np.ndarray:
    """A frame as the models are given it, transparent parts white, whatever its size."""
    return image.read(file, smallest=1)


def _first(problems: Sequence[str]) -> list[str]:
    """As many as are told of at once, and how many more there are."""
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
