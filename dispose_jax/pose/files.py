"""Pose files: the OpenPose JSON that ComfyUI's pose nodes exchange, to `Pose` and back (host code).

A file is a list with one entry per frame of the source video, or one bare entry for a picture:
`{"people": [{"pose_keypoints_2d": [x, y, confidence, ...], "face_keypoints_2d",
"hand_left_keypoints_2d", "hand_right_keypoints_2d"}], "canvas_width", "canvas_height"}` with x, y
in pixels of the canvas. Such a file replaces the detector: extraction runs once, elsewhere, or
never. What other tools write differently is made alike in `normalise`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dispose_jax.media import output
from dispose_jax.pose import normalise, people
from dispose_jax.types import Pose

# Key, counts accepted, count kept: `Pose` has no place for the pupils, the last two of 70 points.
PARTS = (
    ("pose_keypoints_2d", (people.NUM_BODY,), people.NUM_BODY),
    ("hand_left_keypoints_2d", (people.NUM_HAND,), people.NUM_HAND),
    ("hand_right_keypoints_2d", (people.NUM_HAND,), people.NUM_HAND),
    ("face_keypoints_2d", (people.NUM_FACE, people.NUM_FACE + 2), people.NUM_FACE),
)


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
    nobody, lists that are missing, null or empty are absent points. Raises ValueError if the file
    cannot be read or is not such a file.
    """
    entries = _entries(path)
    named = [i for i, entry in enumerate(entries) if not _is_empty(entry)] or [0]
    sizes = {_canvas(entries[i], f"{path}: frame {i}") for i in named}
    if len(sizes) > 1:
        raise ValueError(
            f"{path}: frames have different canvas sizes, {sorted(sizes)[0]} and"
            f" {sorted(sizes)[-1]} among them; expected one size, that of the video"
        )
    (size,) = sizes
    written = [_people(entry, f"{path}: frame {i}") for i, entry in enumerate(entries)]
    counts = [len(frame) for frame in written]
    frames = np.repeat(np.arange(len(written)), counts)
    points, notes = normalise.normalise(np.concatenate(written), frames, size, path)
    frames = [_ordered(frame) for frame in np.split(points, np.cumsum(counts)[:-1])]
    pose = people.stack([(frame[..., :2], frame[..., 2]) for frame in frames])
    return PoseFile(pose, *size, notes)


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


def _entries(path: str | os.PathLike) -> list[dict]:
    """The frames of a file: at least one, all of them objects."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read this pose file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a pose file, its content is not JSON: {error}") from error
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
                " 'canvas_width' and 'canvas_height'"
            )
    return [entry or {} for entry in entries]


def _is_empty(entry: dict) -> bool:
    """Whether an entry says neither who is there nor how large the canvas is."""
    return not any(entry.get(key) for key in ("people", "canvas_width", "canvas_height"))


def _canvas(entry: dict, where: str) -> tuple[int, int]:
    """Width and height of an entry's canvas."""
    size = []
    for key in ("canvas_width", "canvas_height"):
        value = entry.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < 2**31 or value != int(value):
            found = f"{value!r:.40}" if key in entry else "missing"
            raise ValueError(f"{where}: {key} is {found}, expected the picture's size in pixels")
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
        points[i] = np.concatenate(
            [_part(person.get(part[0]), part, f"{where}, person {i}") for part in PARTS]
        )
    return points


def _ordered(points: np.ndarray) -> np.ndarray:
    """The people (p, 128, 3) of a frame who have a point at all, those without body last."""
    seen = points[..., 2] > 0
    bodiless_last = np.argsort(~seen[:, : people.NUM_BODY].any(1), kind="stable")
    return points[[i for i in bodiless_last if seen[i].any()]]


def _part(numbers, part: tuple[str, tuple[int, ...], int], where: str) -> np.ndarray:
    """One keypoint list -> (points kept, 3); zeros if it is absent. A null is no number, so the
    point that has one is absent."""
    key, counts, kept = part
    numbers = _list_or_empty(numbers, f"{where}: {key}")
    if not numbers:
        return np.zeros((kept, 3))
    if len(numbers) not in [3 * count for count in counts]:
        expected = " or ".join(f"{3 * count} ({count} points)" for count in counts)
        raise ValueError(
            f"{where}: {key} has {len(numbers)} numbers, expected {expected} of x, y, confidence"
        )
    if None in numbers:
        triples = [numbers[i : i + 3] for i in range(0, len(numbers), 3)]
        numbers = [n for triple in triples for n in ((0, 0, 0) if None in triple else triple)]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError(f"{where}: {key} holds something that is not a number")
    try:
        points = np.asarray(numbers, np.float64).reshape(-1, 3)[:kept]
    except OverflowError as error:
        raise ValueError(f"{where}: {key} holds a number too large to be a coordinate") from error
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: {key} holds a number that is not finite")
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
    for key, counts, kept in PARTS:
        part = np.pad(points[start : start + kept], [(0, counts[-1] - kept), (0, 0)])
        is_body = key == "pose_keypoints_2d"
        person[key] = part.ravel().tolist() if is_body or part[:, 2].any() else None
        start += kept
    return person
