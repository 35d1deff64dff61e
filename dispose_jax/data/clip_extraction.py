"""From one video to its training clips (host code).

Which frames make a clip, its keypoints, its pictures at training size, and the optical flow from
its reference (training recipe: DisPose section 5.1 and MOFA-Video). The networks that take part
come in as functions. Every draw follows from the seed and the video's name, so that it does not
matter which machine makes a clip.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dispose_jax import inputs
from dispose_jax.data.records import Record
from dispose_jax.media import image, timeline, video
from dispose_jax.pose import checks, estimate, files, follow, people
from dispose_jax.pose.detector import Detector
from dispose_jax.types import Impulses, Pose

Size = tuple[int, int]  # height, width

POSES_SUFFIX = ".poses.json"
REFERENCES = ("near", "first")
FEWEST_JOINTS = 4  # of person 0 inside the picture, for a frame to show a person


@dataclass(frozen=True)
class Extraction:
    """How clips are cut out of a video; see configs/svd.py.

    frames: of a clip, the reference included. stride: every how-many-th frame, times one more per
    24 fps. reference: one of REFERENCES. flow_size: of the pictures whose flow is looked for, None
    without flow.
    """

    size: Size
    frames: int
    clips: int
    stride: int
    reference: str
    ref_window: int
    flow_size: Size | None
    seed: int


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


def recipe(config) -> Extraction:
    """The recipe of a config. Raises ValueError for values that make no clips."""
    data, train = config.data, config.train
    size = train.height, train.width
    image.check_size(*size)
    if data.reference not in REFERENCES:
        raise ValueError(f"data.reference is {data.reference!r}: expected one of {REFERENCES}")
    if train.frames < 2:
        raise ValueError(f"train.frames is {train.frames}: a clip needs a reference and 1 more")
    scale = data.flow_short_side / min(size)
    return Extraction(
        size=size,
        frames=train.frames,
        clips=data.clips_per_video,
        stride=data.stride,
        reference=data.reference,
        ref_window=data.ref_window,
        flow_size=tuple(max(8, round(side * scale / 8) * 8) for side in size),
        seed=config.seed,
    )


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
    stride = video.stride_for(info.fps, recipe.stride)
    for warning in info.warnings:
        tools.detector.say(f"warning: {warning}")
    rng = np.random.default_rng([recipe.seed, zlib.crc32(name.encode(errors="surrogateescape"))])
    known = _known_pose(path, info, tools.detector.say)
    times = video.times(path)
    shows = sound = np.ones(info.num_frames, bool)
    odd = []
    if known is not None:
        odd = _odd(known, np.arange(info.num_frames), info, times)
        sound = ~np.isin(np.arange(info.num_frames), [i for _, frames in odd for i in frames])
        known = _crop(known, (info.height, info.width), recipe.size)
        shows = shows_person(known)
    if not (shows & sound).any():
        reason = "; ".join(checks.sentences(odd))
        reason = reason or "no person is visible in what a crop to the training size leaves"
        raise ValueError(f"{path}: {reason}")
    chosen = choose(recipe, path, stride, shows, video.turns(path), rng, sound=sound, odd=odd)
    if odd:
        tools.detector.say(f"{path}: no clip goes over these: {'; '.join(checks.sentences(odd))}")
    pictures, for_flow, found = _read(recipe, tools, path, chosen, stride, known is None)
    pose_at = known.at if known is not None else _followed(found, info)
    kept, reasons = 0, []
    for indices in chosen:
        pose = _trim(pose_at(indices))
        if known is None:
            odd = _odd(pose.at(slice(1, None)), indices[1:], info, times)
            odd += _odd(pose.at([0]), indices[:1], info, times)
            pose = _crop(pose, (info.height, info.width), recipe.size)
            if odd or not shows_person(pose).all():
                reasons += checks.sentences(odd)
                continue
        kept += 1
        yield _record(recipe, tools, name, indices, pose, pictures, for_flow, stride)
    if not kept:
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise ValueError(f"{path}: no clip of it shows a person in every frame{why}")


def shows_person(pose: Pose) -> np.ndarray:
    """In which frames enough of person 0 is inside the picture, (f,) bool."""
    inside = ((pose.body[:, 0] >= 0) & (pose.body[:, 0] < 1)).all(-1)
    return (inside & pose.visible[:, 0]).sum(-1) >= FEWEST_JOINTS


def choose(
    recipe: Extraction,
    path: Path,
    stride: int,
    shows: np.ndarray,
    turns: np.ndarray,
    rng: np.random.Generator,
    *,
    sound: np.ndarray | None = None,
    odd: Sequence[checks.Fault] = (),
) -> list[np.ndarray]:
    """Frame numbers (f,) of each clip, the reference first.

    shows (n,): where a person is seen; turns (n,): when each frame is shown, counted in frames of
    the video's rate, so that a clip keeps its speed where the rate varies; sound (n,): frames whose
    poses can be trusted, all if None; odd: what is wrong with the others. Starts are drawn without
    repetition from all of which every frame shows a person, none stands for two, and none from the
    first to the last, those between the clip's own included, is unsound. A "near"
    reference is drawn from the frames within ref_window of the clip and with none unsound between,
    as MusePose and ControlNeXt draw from the whole video: a distant one breaks the flow that starts
    there, and one behind a cut may show somebody else.
    """
    after_reference = recipe.frames - (recipe.reference == "near")
    steps = stride * np.arange(after_reference)
    needed = int(steps[-1]) + 1
    if len(shows) < needed:
        raise ValueError(
            f"{path}: {len(shows)} frames, a clip of {recipe.frames} at stride {stride} needs "
            f"{needed}; lower data.stride or train.frames to use it"
        )
    wanted = turns[:, None] + steps  # (n, after_reference)
    clips = timeline.nearest(turns, wanted)
    whole = (wanted[:, -1] < turns[-1] + 0.5) & (np.diff(clips, axis=1) > 0).all(1)
    clips = clips[whole & shows[clips].all(1)]
    sound = np.ones(len(shows), bool) if sound is None else sound
    unsound = np.concatenate([[0], np.cumsum(~sound)])
    clips = clips[unsound[clips[:, -1] + 1] == unsound[clips[:, 0]]]
    if not len(clips):
        why = f": {'; '.join(checks.sentences(odd))}" if odd else ""
        raise ValueError(
            f"{path}: no {recipe.frames} frames at stride {stride} show a person throughout{why}"
        )
    chosen = []
    for row in rng.choice(len(clips), min(recipe.clips, len(clips)), replace=False):
        clip = clips[row]
        if recipe.reference == "near":
            first = max(0, clip[0] - recipe.ref_window)
            around = np.arange(first, min(len(shows), clip[-1] + recipe.ref_window + 1))
            # Behind a cut may be another place, person or light.
            joined = sound[around] & (unsound[around] == unsound[clip[0]])
            clip = np.concatenate([[rng.choice(around[shows[around] & joined])], clip])
        chosen.append(clip)
    return chosen


def flow_paths(indices: np.ndarray, stride: int, chained: bool) -> list[np.ndarray]:
    """Frame numbers along which flow is followed from the reference, indices[0], to the others.

    Chained flow goes from picture to picture: one path forwards in time and one backwards, with
    frames no further than stride apart between the reference and the clip.
    """
    if not chained:
        return [indices]
    reference, others = indices[0], np.unique(indices[1:])
    paths = []
    for part in (others[others > reference], others[others < reference][::-1]):
        if len(part):
            gap = np.sign(part[0] - reference) * stride
            between = np.arange(reference + gap, part[0], gap)
            paths.append(np.concatenate([[reference], between, part]))
    return paths


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
    inputs.check_aspect(source, file, path, info.height, info.width)
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
    recipe: Extraction, tools: Finders, path: Path, chosen: list, stride: int, detect: bool
) -> tuple[dict, dict, dict]:
    """One pass over a video: {frame: picture}, {frame: picture for the flow}, {frame: points}."""
    used = {int(i) for indices in chosen for i in indices}
    passed = set()
    if tools.flow is not None:
        routes = [flow_paths(indices, stride, tools.chained) for indices in chosen]
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


def _record(
    recipe: Extraction,
    tools: Finders,
    name: str,
    indices: np.ndarray,
    pose: Pose,
    pictures: dict,
    for_flow: dict,
    stride: int,
) -> Record:
    frames = np.stack([pictures[int(i)] for i in indices])
    seed = zlib.crc32(f"{name} {indices.tolist()}".encode(errors="surrogateescape")) ^ recipe.seed
    guides = features = posterior = None
    if tools.flow is not None:
        flows = np.zeros((len(indices), *recipe.flow_size, 2), np.float32)
        for route in flow_paths(indices, stride, tools.chained):
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
