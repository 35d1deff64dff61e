"""Two folders of videos, real and generated, to numbers: checked first, then streamed (host code).

Networks are loaded one after the other, each for all clips of both sides; what was computed before
comes from the caches. The real videos' own scores are measured too, since a score of generated ones
means little without them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dispose_jax.bars import Bar
from dispose_jax.counting import counted
from dispose_jax.evaluation import features, frame_metrics, frechet, vbench, videos
from dispose_jax.evaluation.cache import Cache
from dispose_jax.evaluation.metrics import METRICS, Metric, clip_value, parse, set_value
from dispose_jax.evaluation.videos import ClipFile, Found
from dispose_jax.models import bundle, evaluation_networks

_PAIRS = {
    "l1": frame_metrics.l1,
    "mae": frame_metrics.mean_error,
    "psnr": frame_metrics.psnr,
    "ssim": frame_metrics.ssim,
    "ssim_common": frame_metrics.ssim_common,
}
# Pixels that a side needs for one window, or for the deepest maps of LPIPS's trunks.
_SMALLEST = {
    **{"ssim": 7, "ssim_common": 11},
    **{"lpips_vgg": 16, "lpips_alex": 31, "lpips_disco": 16},
}
_LPIPS = {"lpips_vgg": ("vgg", False), "lpips_alex": ("alex", False), "lpips_disco": ("vgg", True)}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be measured. fake: folder; real: folder or None; weights: bundles.

    size: see videos.parse_size; stride: between the windows of a Fréchet metric; fps: of folders of
    pictures that no video is paired with, see videos.find; lenient: leave out metrics that cannot
    be had, instead of an error.
    """

    fake: Path
    real: Path | None = None
    weights: tuple[str, ...] = ()
    metrics: str = "all"
    size: tuple[int, int] | str | None = None
    stride: int = 1
    fps: float | Mapping[str, float] = 15.0
    lenient: bool = False


@dataclass
class Score:
    """A metric of one side. by_clip: {name: value}; the rest is of Fréchet metrics."""

    value: float
    by_clip: dict[str, float] = field(default_factory=dict)
    clips: int = 0
    windows: int = 0
    interval: frechet.Interval | None = None
    floor: float | None = None  # real against real
    caution: str | None = None


@dataclass
class Results:
    """Numbers, {metric: Score} of the generated and of the real videos, and what was left out."""

    request: Request
    fake: dict[str, Score]
    real: dict[str, Score]
    skipped: dict[str, str]  # metric -> why
    digests: dict[str, str]  # network -> SHA-256 of its weights
    notes: list[str]  # sentences about the clips
    rates: dict[str, dict[str, float]]  # side -> clip -> frames per second that it was taken for


@dataclass(frozen=True)
class Plan:
    """A request that was checked: the clips, the metrics that run, where networks lie."""

    request: Request
    fake: dict[str, ClipFile]
    real: dict[str, ClipFile]
    metrics: tuple[str, ...]
    skipped: dict[str, str]
    networks: dict[str, str]  # name -> SHA-256
    notes: list[str]

    def size(self, side: str, name: str, metric: Metric) -> tuple[int, int]:
        """Height and width that a clip's frames are measured at for a metric."""
        truth = self.real.get(name) if side == "fake" else None
        return _size(self.request, metric, getattr(self, side)[name], truth)


def check(request: Request, say: Say = lambda line: None) -> Plan:
    """Look at everything that could go wrong, before any network runs.

    Raises ValueError with all of it in one sentence: misspelt metrics, networks that are missing
    for metrics asked for by name, unequal names, counts or sizes, unreadable frames, clips too
    short or too few.
    """
    names, unknown = parse(request.metrics)
    problems = [f"--metrics {name}: not one of {', '.join(METRICS)}, all" for name in unknown]
    if not names and not unknown:
        problems.append(f"--metrics is empty: name some of {', '.join(METRICS)}, or all")
    held = _held(request.weights, problems)
    say("reading the clips")
    fake, real = videos.find(request.fake, request.fps), Found({}, [], set())
    problems += fake.problems
    if request.real is not None:
        real = videos.find(request.real, request.fps)
        videos.pair_rates(real, fake)
        compared = any(METRICS[name].kind == "pair" for name in names)
        alike = request.size is not None or not compared
        problems += real.problems + videos.unequal(real, fake, alike)
    chosen, skipped = [], {}
    for name in names:
        reason = _reason(METRICS[name], request, held, fake.clips, real.clips)
        if reason is None:
            chosen.append(name)
        elif request.lenient:
            skipped[name] = reason
        else:
            problems.append(f"{name}: {reason}")
    videos.complain(problems)
    used = {net for name in chosen for net in METRICS[name].networks}
    digests = {net: held[net] for net in used}
    notes = videos.unlike(real, fake)
    for note in notes:
        say(f"warning: {note}")
    return Plan(request, fake.clips, real.clips, tuple(chosen), skipped, digests, notes)


def run(plan: Plan, say: Say = lambda line: None) -> Results:
    """Measure; say is told what is measured now."""
    request = plan.request
    rows: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    sides = {"fake": plan.fake, **({"real": plan.real} if plan.real else {})}
    caches = {side: Cache(getattr(request, side)) for side in sides}
    for kind in dict.fromkeys(METRICS[name].rows for name in plan.metrics):
        metric = _metric_of(kind)
        holder = _Weights(request.weights, metric.networks)
        for side in ("fake",) if metric.kind == "pair" else sides:
            rows[side, kind] = {
                name: _rows(plan, side, clip, kind, holder, caches[side], say)
                for name, clip in sides[side].items()
            }
    scores: dict[str, dict[str, Score]] = {"fake": {}, "real": {}}
    for name in plan.metrics:
        metric = METRICS[name]
        if metric.kind == "frechet":
            both = (rows["real", metric.rows], rows["fake", metric.rows])
            scores["fake"][name] = _frechet(metric, *both)
            continue
        for side in sides:
            if (side, metric.rows) in rows:
                found = rows[side, metric.rows]
                sizes = {name: plan.size(side, name, metric) for name in found}
                scores[side][name] = _averaged(metric, found, sizes)
    rates = {side: {name: clip.fps for name, clip in sides[side].items()} for side in sides}
    return Results(
        request, scores["fake"], scores["real"], plan.skipped, plan.networks, plan.notes, rates
    )


class _Weights:
    """Networks of a bundle, on the devices when they are first asked for."""

    def __init__(self, folders: Sequence[str], names: Sequence[str]):
        self._folders, self._names, self._loaded = folders, names, None

    def __call__(self):
        if self._loaded is None:
            shapes = {name: evaluation_networks.build(name).shapes for name in self._names}
            given = bundle.load(self._folders, shapes, model={}, quirks={}, dtype=np.float32)
            self._loaded = features.place(given)
        return self._loaded


def _held(folders: Sequence[str], problems: list[str]) -> dict[str, str]:
    """Evaluation networks that the bundles hold: {name: SHA-256}."""
    held = {}
    for folder in folders:
        try:
            content = bundle.describe(folder)["networks"]
        except ValueError as error:
            problems.append(str(error))
            continue
        held |= {n: e["sha256"] for n, e in content.items() if n in evaluation_networks.NAMES}
    return held


def _reason(metric: Metric, request: Request, held, fake, real) -> str | None:
    """Why a metric cannot be had of these clips with these weights, None if it can."""
    missing = [name for name in metric.networks if name not in held]
    if missing:
        return (
            f"no {' and no '.join(missing)} in --weights; "
            "python -m converters.download --only evaluation says where it is published"
        )
    if metric.needs_real and request.real is None:
        return "compares with the truth, and there is no --real"
    feature = features.FEATURES.get(metric.rows)
    least = feature.least if feature else 2 if metric.rows == "flickering" else 1
    smallest = feature.smallest if feature else _SMALLEST.get(metric.rows, 1)
    for clip in (*fake.values(), *real.values()):
        between = vbench.flow_interval(clip.fps) if metric.kind == "moving" else 1
        if clip.num_frames <= (least - 1) * between:
            has, needs = counted(clip.num_frames, "frame"), 1 + (least - 1) * between
            return f"{clip.path} has {has}, it needs {needs}"
    compared = [(clip, real.get(name)) for name, clip in fake.items()]
    for clip, truth in (*compared, *((clip, None) for clip in real.values())):
        size = _size(request, metric, clip, truth)
        if min(size) < smallest:
            return f"{clip.path} is measured at {size[1]} x {size[0]}, a side needs {smallest}"
    if metric.kind == "frechet":
        count = lambda clip: features.num_windows(metric.rows, clip.num_frames, request.stride)
        if min(sum(map(count, side.values())) for side in (fake, real)) < 2:
            return "a Fréchet distance needs two windows or more on both sides"
    return None


def _size(
    request: Request, metric: Metric, clip: ClipFile, truth: ClipFile | None
) -> tuple[int, int]:
    """Height and width that a clip's frames are measured at. truth: that of a generated clip.

    The truth's size is for frames that are compared one by one: what looks at a whole video has a
    size of its own, and would see frames that were resized twice.
    """
    if isinstance(request.size, tuple):
        return request.size
    at_truth = request.size == "real" and metric.kind == "pair" and truth is not None
    return truth.size if at_truth else clip.size


def _rows(
    plan: Plan, side: str, clip: ClipFile, kind: str, holder: _Weights, cache: Cache, say: Say
) -> np.ndarray:
    """A clip's rows of one kind, from the cache beside its folder if they were computed before."""
    depends_on = [clip.digest, _settings(plan, side, clip, kind)]
    found = cache.read(kind, depends_on)
    if found is not None:
        return found
    say(f"{kind} of {side} {clip.name} ({counted(clip.num_frames, 'frame')})")
    found = _computed(plan, side, clip, kind, holder)
    problem = cache.write(kind, depends_on, found)
    if problem:
        say(f"warning: features are not kept for a next time: {problem}")
    return found


def _settings(plan: Plan, side: str, clip: ClipFile, kind: str) -> dict[str, object]:
    """What a clip's rows of one kind depend on besides its content."""
    metric = _metric_of(kind)
    size = list(plan.size(side, clip.name, metric))
    own = {"networks": [plan.networks[name] for name in metric.networks], "size": size}
    if metric.kind == "pair":
        own["real"] = plan.real[clip.name].digest
    if metric.kind == "frechet":
        own["stride"] = plan.request.stride
    if metric.kind == "moving":
        own["interval"] = vbench.flow_interval(clip.fps)
    return own


def _computed(plan: Plan, side: str, clip: ClipFile, kind: str, holder: _Weights) -> np.ndarray:
    """A clip's rows of one kind."""
    metric = _metric_of(kind)
    size = plan.size(side, clip.name, metric)
    frames = videos.frames(clip, size)
    if metric.kind == "pair":
        pairs = zip(videos.frames(plan.real[clip.name], size), frames, strict=True)
        if kind not in _LPIPS:
            return np.array([_PAIRS[kind](*pair) for pair in pairs])
        trunk, misuse = _LPIPS[kind]
        return features.distances(trunk, holder(), pairs, published_misuse=misuse)
    if kind == "flickering":
        return 1 - vbench.differences(frames) / 255
    if metric.kind == "moving":
        frames = itertools.islice(frames, 0, None, vbench.flow_interval(clip.fps))
    stride = plan.request.stride if metric.kind == "frechet" else 1
    return features.extract(kind, holder(), frames, stride)


def _metric_of(kind: str) -> Metric:
    """A metric that is made of rows of this kind; all of them agree on what rows depend on."""
    return next(metric for metric in METRICS.values() if metric.rows == kind)


def _averaged(metric: Metric, rows: dict[str, np.ndarray], sizes) -> Score:
    by_clip = {name: clip_value(metric, found, sizes[name]) for name, found in rows.items()}
    value = set_value(metric, [*rows.values()], [sizes[name] for name in rows])
    return Score(value, by_clip, clips=len(rows))


def _frechet(metric: Metric, real: dict[str, np.ndarray], fake: dict[str, np.ndarray]) -> Score:
    """The distance of two sides' rows, {clip: rows}, with its interval and that of real clips among
    themselves."""
    names = [*fake]
    sides = [real[name] for name in names], [fake[name] for name in names]
    joined = [np.concatenate(side) for side in sides]
    # Minutes for many windows: each draw is a distance of as many as there are.
    draws = frechet.DRAWS + frechet.HALVINGS
    with closing(Bar(metric.title, draws, "draw")) as bar:
        interval = frechet.bootstrap(*sides, metric.ddof, progress=bar.update)
        floor = frechet.floor(sides[0], metric.ddof, progress=bar.update)
    return Score(
        frechet.distance(*joined, metric.ddof),
        clips=len(names),
        windows=len(joined[1]),
        interval=interval,
        floor=floor,
        caution=frechet.caution(len(names), joined[0].shape[1]),
    )
