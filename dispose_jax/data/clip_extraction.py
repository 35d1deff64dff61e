"""From one video to its training clips (host code).

Keypoints of the chosen frames (clip_choice.py), pictures at training size, and the optical flow
from the reference. The networks that take part come in as functions. Every draw follows from the
seed and the video's name, so that it does not matter which machine makes a clip.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dispose_jax.data import clip_choice
from dispose_jax.data.clip_choice import Extraction, Size
from dispose_jax.data.records import Record
from dispose_jax.media import image, video
from dispose_jax.pose import checks, estimate, files, follow, people
from dispose_jax.pose.detector import Detector
from dispose_jax.types import Impulses, Pose

POSES_SUFFIX = ".poses.json"


class Finders(NamedTuple):
    """What looks at pictures; None leaves out what it would find.

    flow: pictures (n, h, w, 3) uint8 -> (n, h, w, 2) pixels, from the first to each; chained: by
    way of those between, so that frames beside the clip's help. guides: flows (f, h, w, 2) of a
    clip and a seed -> Impulses of f frames. features: the reference (h, w, 3) uint8, its Pose of
    one frame and a seed -> (18, d). posterior: frames (f, h, w, 3) uint8 -> (f, h/8, w/8, 2 c).
    """

    detector: Detector
    flow: Callable[[np.ndarray], np.ndarray] | None
    chained: bool
    guides: Callable[[np.ndarray, int], Impulses] | None
    features: Callable[[np.ndarray, Pose, int], np.ndarray] | None
    posterior: Callable[[np.ndarray], np.ndarray] | None


def find(folder: Path) -> list[str]:
    """The videos of a folder and those below it, relative to it, in order.

    Links to folders are followed, each folder is entered once; hidden ones are left out.
    """
    names, entered = [], set()
    for place, below, files_here in os.walk(folder, followlinks=True):
        identity = os.stat(place)
        if (identity.st_dev, identity.st_ino) in entered:
            below.clear()
            continue
        entered.add((identity.st_dev, identity.st_ino))
        linked = {name for name in below if Path(place, name).is_symlink()}
        below[:] = sorted(name for name in {*below} - linked if not name.startswith("."))
        below += sorted(name for name in linked if not name.startswith("."))
        paths = (Path(place, name) for name in files_here if not name.startswith("."))
        named = (path for path in paths if path.suffix.lower() in video.SUFFIXES)
        names += [path.relative_to(folder).as_posix() for path in named if path.is_file()]
    return sorted(names)


def sources(folder: Path, name: str) -> list[Path]:
    """The files that a video's clips are made of: itself and, where there are any, its poses."""
    return [path for path in (folder / name, _poses_of(folder / name)) if path.exists()]


def clips(recipe: Extraction, tools: Finders, folder: Path, name: str) -> Iterator[Record]:
    """The clips of one video of a folder. Raises ValueError with the reason if there are none."""
    path = folder / name
    info = video.probe(path)
    recipe = recipe.for_rate(info.fps)
    for warning in info.warnings:
        tools.detector.say(f"warning: {warning}")
    rng = np.random.default_rng([recipe.seed, zlib.crc32(name.encode(errors="surrogateescape"))])
    known = _known_pose(path, info, tools.detector.say)
    times = video.times(path)
    shows, odd = np.ones(info.num_frames, bool), []
    if known is not None:
        odd = _odd(known, np.arange(info.num_frames), info, times)
        known = _crop(known, (info.height, info.width), recipe.size)
        shows = clip_choice.shows_person(known)
    if not (shows & clip_choice.is_sound(info.num_frames, odd)).any():
        reason = "; ".join(checks.sentences(odd))
        reason = reason or "no person is visible in what a crop to the training size leaves"
        raise ValueError(f"{path}: {reason}")
    chosen = clip_choice.choose(recipe, path, shows, video.turns(path), rng, odd)
    if odd:
        tools.detector.say(f"{path}: no clip goes over these: {'; '.join(checks.sentences(odd))}")
    pictures, for_flow, found = _read(recipe, tools, path, chosen, known is None)
    pose_at = known.at if known is not None else _followed(found, info)
    kept, reasons = 0, []
    for indices in chosen:
        pose = _trim(pose_at(indices))
        if known is None:
            odd = _odd(pose.at(slice(1, None)), indices[1:], info, times)
            odd += _odd(pose.at([0]), indices[:1], info, times)
            pose = _crop(pose, (info.height, info.width), recipe.size)
            if odd or not clip_choice.shows_person(pose).all():
                reasons += checks.sentences(odd)
                continue
        kept += 1
        yield _record(recipe, tools, name, indices, pose, pictures, for_flow)
    if not kept:
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise ValueError(f"{path}: no clip of it shows a person in every frame{why}")


def _poses_of(path: Path) -> Path:
    """Where the keypoints of a video may lie."""
    return path.with_name(path.stem + POSES_SUFFIX)


def _known_pose(path: Path, info: video.Info, say: Callable[[str], None]) -> Pose | None:
    """The keypoints of the file beside a video, one person followed; None without one."""
    source = _poses_of(path)
    if not source.exists():
        return None
    file = files.read(source)
    if file.pose.num_frames != info.num_frames:
        raise ValueError(
            f"{source}: {file.pose.num_frames} entries, but {path} has {info.num_frames} frames; "
            "one entry per frame of the video is needed"
        )
    files.check_canvas(source, file, path, info.height, info.width, info.pixel_aspect)
    for note in file.notes:
        say(f"{source}: {note}")
    return follow.follow(file.pose, aspect=info.width / info.height, source=source).pose


def _followed(found: dict, info: video.Info) -> Callable[[np.ndarray], Pose]:
    """The detected poses by frame numbers, one person followed through all that were looked at."""
    numbers = np.array(sorted(found))
    pose = people.stack([found[int(i)] for i in numbers])
    pose = follow.follow(pose, aspect=info.width / info.height).pose
    return lambda indices: pose.at(np.searchsorted(numbers, indices))


def _odd(
    pose: Pose, numbers: np.ndarray, info: video.Info, times: np.ndarray
) -> list[checks.Fault]:
    """What is wrong with poses of the frames of these numbers; times of all frames."""
    findings = checks.look(pose, aspect=info.width / info.height, times=times[numbers])
    return [checks.Fault(what, numbers[frames]) for what, frames in findings]


def _crop(pose: Pose, shape: Size, size: Size) -> Pose:
    """Keypoints of pictures of a shape, as fractions of what _fit makes of them."""
    return people.move(pose, *image.fit_transform(*_shrunk(shape, size), *size))


def _read(
    recipe: Extraction, tools: Finders, path: Path, chosen: list, detect: bool
) -> tuple[dict, dict, dict]:
    """One pass over a video: {frame: picture}, {frame: picture for the flow}, {frame: points}."""
    used = {int(i) for indices in chosen for i in indices}
    passed = set()
    if tools.flow is not None:
        routes = (_routes(recipe, tools, indices) for indices in chosen)
        passed = {int(i) for paths in routes for route in paths for i in route}
    models = None
    if detect:
        beside = f"put {_poses_of(path).name} beside it"
        models = tools.detector.open(path, f"{beside}, or give --weights with them")
    pictures, for_flow, found = {}, {}, {}
    for i, frame in video.pick(path, used | passed):
        if i in used:
            pictures[i] = _fit(frame, recipe.size)
        if i in passed:
            for_flow[i] = _fit(frame, recipe.flow_size)
        if i in used and models is not None:
            pose = estimate.estimate(models, frame[None])
            found[i] = tuple(leaf[0] for leaf in people.flatten(pose))
    return pictures, for_flow, found


def _routes(recipe: Extraction, tools: Finders, indices: np.ndarray) -> list[np.ndarray]:
    """The frames by way of which a clip's flow is found."""
    return clip_choice.flow_paths(indices, recipe.stride, tools.chained)


def _record(
    recipe: Extraction,
    tools: Finders,
    name: str,
    indices: np.ndarray,
    pose: Pose,
    pictures: dict,
    for_flow: dict,
) -> Record:
    """One clip with all that its finders see; pictures, for_flow: frames of the video by number."""
    frames = np.stack([pictures[int(i)] for i in indices])
    seed = zlib.crc32(f"{name} {indices.tolist()}".encode(errors="surrogateescape")) ^ recipe.seed
    guides = features = posterior = None
    if tools.flow is not None:
        flows = np.zeros((len(indices), *recipe.flow_size, 2), np.float32)
        for route in _routes(recipe, tools, indices):
            along = tools.flow(np.stack([for_flow[int(i)] for i in route]))
            for n in np.flatnonzero(np.isin(indices, route)):
                flows[n] = along[np.flatnonzero(route == indices[n])[0]]
        guides = tools.guides(flows, seed)
    if tools.features is not None:
        features = tools.features(frames[0], pose.at([0]), seed)
    if tools.posterior is not None:
        posterior, frames = tools.posterior(frames), frames[:1]
    return Record(frames, pose, guides, features, posterior, name, indices)


def _trim(pose: Pose) -> Pose:
    """Without the places of people whom no frame of this clip shows."""
    _, score = people.flatten(pose)
    present = np.flatnonzero((score > 0).any((0, 2)))
    return pose.at((slice(None), slice(0, max(1, present[-1] + 1 if len(present) else 1))))


def _shrunk(shape: Size, size: Size) -> Size:
    """A picture's height and width divided by the whole number that still covers size."""
    factor = max(1, min(shape[0] // size[0], shape[1] // size[1]))
    return round(shape[0] / factor), round(shape[1] / factor)


def _fit(frame: np.ndarray, size: Size) -> np.ndarray:
    """A frame scaled to cover size and cropped, uint8.

    The reference of sampling is scaled without antialiasing (image.fit); here whole groups of
    pixels are averaged first, as clips of a large video would flicker.
    """
    height, width = _shrunk(frame.shape[:2], size)
    if (height, width) != frame.shape[:2]:
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return image.fit(frame, *size)
