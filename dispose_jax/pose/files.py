"""Pose files: the OpenPose JSON that ComfyUI's pose nodes exchange, to `Pose` and back (host code).

A file is a list with one entry per frame of the source video, or one bare entry for a picture:
`{"people": [{"pose_keypoints_2d": [x, y, confidence, ...], "face_keypoints_2d",
"hand_left_keypoints_2d", "hand_right_keypoints_2d"}], "canvas_width", "canvas_height"}` with x, y
in pixels of the canvas. Such a file replaces the detector: extraction runs once, elsewhere, or
never. What other tools write differently is made alike in `normalise`; a file that names things
otherwise is refused, as nobody would be found in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.media import output
from dispose_jax.pose import normalise, people
from dispose_jax.types import Pose

# OpenPose's BODY_25 has the 18 joints in their order, the middle of the hips among them and feet
# behind. `Pose` has no place for the pupils, the last two of a face of 70.
_OF_BODY_25 = (*range(8), *range(9, 19))
_BODY, _HAND, _FACE = map(range, (people.NUM_BODY, people.NUM_HAND, people.NUM_FACE))
# Key, the points that are kept of each count accepted; the last count is the one that is written.
PARTS = (
    ("pose_keypoints_2d", {25: _OF_BODY_25, people.NUM_BODY: _BODY}),
    ("hand_left_keypoints_2d", {people.NUM_HAND: _HAND}),
    ("hand_right_keypoints_2d", {people.NUM_HAND: _HAND}),
    ("face_keypoints_2d", {people.NUM_FACE: _FACE, people.NUM_FACE + 2: _FACE}),
)
CANVAS = ("canvas_width", "canvas_height")
NEW = "_2d"  # the end of a key that old versions of OpenPose lack
SHOWN_KEYS = 6  # of an object, in a sentence
CONVERT = 'docs/inputs.md, "From other tools", says how to convert what they write'


class PoseFile(NamedTuple):
    """What a pose file says: the keypoints, the size in pixels of the canvas they were found on,
    and what of it was read otherwise than it stands there, one clause each."""

    pose: Pose
    width: int
    height: int
    notes: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> PoseFile:
    """Read a pose file; every entry is a frame.

    People keep the order of the file, so person 0 is its first one; those without any point are
    left out, those without a body point come last. Frames and people that are null or empty are
    nobody, lists that are missing, null or empty are absent points. Keys may lack "_2d", as in old
    versions of OpenPose, and bodies may have the 25 points of its BODY_25. Raises ValueError if the
    file cannot be read or is not such a file.
    """
    entries = _entries(Path(path))
    _refuse_other_tools(entries, path)
    written = [_people(entry, f"{path}: frame {i}") for i, entry in enumerate(entries)]
    named = [i for i, entry in enumerate(entries) if not _is_empty(entry)] or [0]
    sizes = {_canvas(entries[i], f"{path}: frame {i}") for i in named}
    if len(sizes) > 1:
        raise ValueError(
            f"{path}: frames have different canvas sizes, {sorted(sizes)[0]} and"
            f" {sorted(sizes)[-1]} among them; expected one size, that of the video"
        )
    (size,) = sizes
    counts = [len(frame) for frame in written]
    frames = np.repeat(np.arange(len(written)), counts)
    points, notes = normalise.normalise(np.concatenate(written), frames, size, path)
    frames = [_ordered(frame) for frame in np.split(points, np.cumsum(counts)[:-1])]
    pose = people.stack([(frame[..., :2], frame[..., 2]) for frame in frames])
    return PoseFile(pose, *size, (*notes, *normalise.order_of_frames(pose)))


def check_canvas(
    path: str | os.PathLike,
    file: PoseFile,
    source: str | os.PathLike,
    height: int,
    width: int,
    pixel_aspect: Fraction = Fraction(1),
) -> None:
    """Raise ValueError if a pose file's canvas has another shape than what it belongs to.

    path: of the file; source: the picture or video, height and width of it as it is shown.
    pixel_aspect: of its stored pixels; a canvas of these has the same fractions of the picture.
    """
    canvas, shown = file.width / file.height, width / height
    if all(abs(canvas - shape) > 0.02 * shape for shape in (shown, shown / float(pixel_aspect))):
        raise ValueError(
            f"{path}: its keypoints are on a canvas of {file.width} x {file.height}, but {source} "
            f"is {width} x {height}; both must have the same shape, so these do not belong together"
        )


def write(path: str | os.PathLike, pose: Pose, *, width: int, height: int) -> None:
    """Write a pose as a pose file of a width x height canvas, one entry per frame; nothing
    half-written stays.

    Absent points are written as zeros, absent people and hands or faces without a point not at all.
    Faces get 70 points, the last two zero. Raises ValueError for numbers that are not finite, and
    OSError with one sentence if the file cannot be written.
    """
    xy, score = people.flatten(pose)
    present = score > 0
    numbers = np.concatenate([xy * (width, height), score[..., None]], axis=-1)
    numbers = np.where(present[..., None], numbers, 0.0)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path}: the pose to write holds numbers that are not finite")
    entries = [
        {
            "people": [_person(points) for points, seen in zip(frame, frame_present) if seen.any()],
            "canvas_height": int(height),
            "canvas_width": int(width),
        }
        for frame, frame_present in zip(numbers, present)
    ]
    output.write_bytes(path, json.dumps(entries, separators=(",", ":")).encode())


def _entries(path: Path) -> list[dict]:
    """The frames of a file: at least one, all of them objects."""
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected one file with a list of frames; {CONVERT}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read this pose file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a pose file, its content is not JSON: {error}; {CONVERT}"
        ) from error
    entries = [content] if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError(
            f"{path}: holds a JSON {_kind(content)}, expected a list of frames or one frame with"
            " 'people', 'canvas_width' and 'canvas_height'"
        )
    if not entries:
        raise ValueError(f"{path}: an empty list of frames; expected one entry per frame")
    for i, entry in enumerate(entries):
        if entry is not None and not isinstance(entry, dict):
            raise ValueError(
                f"{path}: frame {i} is a JSON {_kind(entry)}, expected an object with 'people',"
                f" 'canvas_width' and 'canvas_height'; {CONVERT}"
            )
    return [entry or {} for entry in entries]


def _is_empty(entry: dict) -> bool:
    """Whether an entry says neither who is there nor how large the canvas is."""
    return not any(entry.get(key) for key in ("people", *CANVAS))


def _refuse_other_tools(entries: list[dict], path: str | os.PathLike) -> None:
    """Raise ValueError if no frame has people, or no person keypoints, but all have other keys."""
    lists = [entry["people"] for entry in entries if isinstance(entry.get("people"), list)]
    persons = [person for some in lists for person in some if isinstance(person, dict)]
    parts = [key for key, _ in PARTS]
    for objects, expected in (
        (entries, ["people"]),
        (persons, [*parts, *(key.removesuffix(NEW) for key in parts)]),
    ):
        keys = sorted(set().union(*objects) - set(CANVAS))
        if keys and not set(keys) & set(expected):
            found = people.listing([f"{key!r:.40}" for key in keys[:SHOWN_KEYS]])
            raise ValueError(f"{path}: has {found}, expected {expected[0]!r}; {CONVERT}")


def _canvas(entry: dict, where: str) -> tuple[int, int]:
    """Width and height of an entry's canvas."""
    size = []
    for key in CANVAS:
        value = entry.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < 2**31 or value != int(value):
            found = f"{value!r:.40}" if key in entry else "missing"
            raise ValueError(
                f"{where}: {key} is {found}, expected the picture's size in pixels in every frame"
            )
        size.append(int(value))
    return size[0], size[1]


def _people(entry: dict, where: str) -> np.ndarray:
    """The people of an entry as they are written, (people, 128, 3)."""
    persons = _list_or_empty(entry.get("people"), f"{where}: 'people'")
    points = np.zeros((len(persons), people.NUM_POINTS, 3))
    for i, person in enumerate(persons):
        if person is None:
            continue
        if not isinstance(person, dict):
            raise ValueError(
                f"{where}: person {i} is a JSON {_kind(person)}, expected an object of keypoints"
            )
        points[i] = np.concatenate([_part(person, *part, f"{where}, person {i}") for part in PARTS])
    return points


def _ordered(points: np.ndarray) -> np.ndarray:
    """The people (p, 128, 3) of a frame who have a point at all, those without body last."""
    seen = points[..., 2] > 0
    bodiless_last = np.argsort(~seen[:, : people.NUM_BODY].any(1), kind="stable")
    return points[[i for i in bodiless_last if seen[i].any()]]


def _part(person: dict, key: str, kept: dict[int, Sequence[int]], where: str) -> np.ndarray:
    """One keypoint list -> (points kept, 3); zeros if it is absent. A null is no number, so the
    point that has one is absent."""
    key = key if key in person else key.removesuffix(NEW)
    numbers = _list_or_empty(person.get(key), f"{where}: {key}")
    if not numbers:
        return np.zeros((len(kept[max(kept)]), 3))
    for n in numbers:
        if isinstance(n, bool) or not isinstance(n, int | float | None):
            raise ValueError(f"{where}: {key} holds a JSON {_kind(n)}, expected numbers alone")
    count, rest = divmod(len(numbers), 3)
    if rest or count not in kept:
        expected = " or ".join(f"{3 * count} ({count} points)" for count in sorted(kept))
        raise ValueError(
            f"{where}: {key} has {len(numbers)} numbers, expected {expected} of x, y, confidence;"
            f" {CONVERT}"
        )
    if None in numbers:
        triples = [numbers[i : i + 3] for i in range(0, len(numbers), 3)]
        numbers = [n for triple in triples for n in ((0, 0, 0) if None in triple else triple)]
    try:
        points = np.asarray(numbers, np.float64).reshape(-1, 3)[list(kept[count])]
    except OverflowError as error:
        raise ValueError(f"{where}: {key} holds a number too large to be a coordinate") from error
    if not np.isfinite(points).all():
        raise ValueError(
            f"{where}: {key} holds a number that is not finite; write null or 0, 0, 0 for a point"
            " that is missing"
        )
    return points


def _list_or_empty(value, where: str) -> list:
    """A list, or none for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{where} is a JSON {_kind(value)}, expected a list")
    return value


def _kind(value) -> str:
    """What JSON calls a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _person(points: np.ndarray) -> dict:
    """(128, 3) -> the entry of one person; hands and faces without a point are null."""
    person, start = {}, 0
    for key, counts in PARTS:
        written, kept = list(counts.items())[-1]
        part = np.pad(points[start : start + len(kept)], [(0, written - len(kept)), (0, 0)])
        is_body = key == "pose_keypoints_2d"
        person[key] = part.ravel().tolist() if is_body or part[:, 2].any() else None
        start += len(kept)
    return person
