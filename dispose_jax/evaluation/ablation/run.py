"""The synthetic check of the ablation order: every arm and control on the same clips, measured.

It can show that the parts of DisPose work in this implementation, on drawn people; it says nothing
of the paper's numbers, which are of real videos.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dispose_jax.evaluation import statistics
from dispose_jax.evaluation.ablation import clips as drawn_clips
from dispose_jax.evaluation.ablation import metrics
from dispose_jax.evaluation.ablation.clips import SETS, TrialClip
from dispose_jax.evaluation.ablation.metrics import METRICS, PRIMARY
from dispose_jax.evaluation.ablation.variants import BASE, CONTROLS, FULL, Arm
from dispose_jax.evaluation.statistics import Difference
from dispose_jax.media import image

TRUTH, COPY = "truth", "copy of the reference"
CODEC, SILHOUETTE = "truth through the autoencoder", "true silhouette, one colour"
DRIVING = "driving poses"
# What was expected of which ablation before anything was run; Holm's correction is over these.
EXPECTED = {("no_point", "identity"), ("no_motion", "joint_error")}
SHOWN = 3  # clips of each set whose frames are kept for pictures
Place = tuple[str, str, str]  # set, row, metric


@dataclass
class AblationResults:
    """What came out.

    scores: {set: {row: (seeds, clips, metrics)}}, metrics in the order of METRICS, NaN where there
    was nothing to measure. pictures: {set: {row: frames of the first clips}}, of the first seed.
    """

    arms: Sequence[Arm]
    num_clips: int
    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    pictures: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        return list(self.scores[SETS[0]])

    def of(self, kind: str, row: str, metric: str) -> np.ndarray:
        """Values (seeds, clips)."""
        return self.scores[kind][row][..., list(METRICS).index(metric)]


def check(config, num_clips: int) -> None:
    """Raise ValueError for what `run` cannot work with, before any long work."""
    if num_clips < 2:
        raise ValueError(
            f"--clips is {num_clips}: expected 2 or more, as controls take another clip's motion"
        )
    if config.data.source != "synthetic":
        raise ValueError(
            f"data.source is {config.data.source!r}: only drawn people have true frames to compare "
            "with; use a config of the small world or --config.data.source=synthetic"
        )
    if not config.sample.height:
        raise ValueError(
            "sample.height is 0: give the size of the drawn pictures, such as "
            "--config.sample.height=64 --config.sample.width=64"
        )
    image.check_size(config.sample.height, config.sample.width)


def run(arms: Sequence[Arm], num_clips: int, say: Callable[[str], None] = print) -> AblationResults:
    """Draw the clips, sample every arm, measure.

    Clips follow the first arm's config, which `check` accepts and which differs from the others'
    in `control` alone. Raises ValueError for samples that are not finite.
    """
    config, num_frames = arms[0].config, arms[0].frames
    say(f"drawing {num_clips} clips of {num_frames} frames ...")
    sets = drawn_clips.draw(config, num_clips, num_frames)
    results = AblationResults(arms, num_clips)
    for kind, clips in sets.items():
        collected = _Collected(clips)
        for i, arm in enumerate(arms):
            start = time.perf_counter()
            for row, clip, frames in arm.sample(clips):
                collected.add(row, i, clip, frames)
            seconds = time.perf_counter() - start
            say(f"{kind}: {arm.variant} ({i + 1} of {len(arms)} arms), {seconds:.1f} s")
        for row, clip, frames in _without_model(arms[0], clips):
            collected.add(row, 0, clip, frames)
        results.scores[kind], results.pictures[kind] = collected.scores(), collected.pictures
        results.scores[kind][DRIVING] = _driving(clips)
    return results


class _Collected:
    """Scores of one set's clips as they come, and the frames to show."""

    def __init__(self, clips: Sequence[TrialClip]):
        self._clips = clips
        self._scores: dict[str, dict[int, list]] = {}
        self.pictures: dict[str, list[np.ndarray]] = {}

    def add(self, row: str, seed: int, clip: int, frames: np.ndarray) -> None:
        """Frames of the next clip of a row's seed: any number that tells its seeds apart."""
        seeds = self._scores.setdefault(row, {})
        found = metrics.measure(frames, self._clips[clip].truth)
        seeds.setdefault(seed, []).append([found[name] for name in METRICS])
        if len(seeds) == 1 and clip < SHOWN:
            self.pictures.setdefault(row, []).append(frames)

    def scores(self) -> dict[str, np.ndarray]:
        return {row: np.array(list(seeds.values())) for row, seeds in self._scores.items()}


def _without_model(arm: Arm, clips: Sequence[TrialClip]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Rows that no arm takes part in but with its autoencoder: bounds for the others."""
    through = arm.through_codec(clips)
    for i, clip in enumerate(clips):
        true, mask = clip.truth.frames, clip.truth.mask
        yield COPY, i, np.broadcast_to(clip.reference, true.shape)
        color = true[mask].mean(0) if mask.any() else np.zeros(3)
        plain = np.where(mask[..., None], np.rint(color).astype(np.uint8), true)
        yield SILHOUETTE, i, plain
        yield CODEC, i, next(through)
        yield TRUTH, i, true


def _driving(clips: Sequence[TrialClip]) -> np.ndarray:
    """How far the poses that drive are from the true ones, where joints are visible: the part of
    the joint error that no model can make good. (1, clips, metrics), NaN but for joints."""
    scores = np.full((1, len(clips), len(METRICS)), np.nan)
    error, correct = (list(METRICS).index(name) for name in ("joint_error", "pck"))
    for i, clip in enumerate(clips):
        height, width = clip.reference.shape[:2]
        given = clip.pose.body[1:, 0] * [width, height]
        shown = clip.truth.visible & (clip.pose.body_score[1:, 0] > 0)
        distance = np.linalg.norm(given - clip.truth.points, axis=-1)
        near = distance <= metrics.PCK_SHARE * np.asarray(metrics.heights(clip.truth.mask))[:, None]
        if shown.any():
            scores[0, i, error], scores[0, i, correct] = distance[shown].mean(), near[shown].mean()
    return scores


@dataclass(frozen=True)
class Contrast:
    """The full model against another row, for one set and metric."""

    kind: str
    row: str
    metric: str
    difference: Difference  # full minus the row
    adjusted: float | None  # Holm's p of the contrasts that were expected beforehand

    @property
    def verdict(self) -> str:
        if not statistics.separated(self.difference, self.adjusted):
            return "not separated"
        good = "lower" if self.difference.mean < 0 else "higher"
        return "separated, " + (
            "full better" if METRICS[self.metric].better == good else "full worse"
        )


def contrasts(results: AblationResults) -> list[Contrast]:
    """Full minus every other row that a model made, by the primary metrics; none without full."""
    if FULL not in results.rows:
        return []
    made = [arm.variant for arm in results.arms]
    others = [row for row in dict.fromkeys([*made, *CONTROLS[FULL]]) if row != FULL]
    found: dict[Place, Difference] = {}
    for kind, row, metric in itertools.product(SETS, others, PRIMARY):
        full, other = results.of(kind, FULL, metric), results.of(kind, row, metric)
        if row == BASE and len(other) == 1:  # nothing of it was trained: no seed of its own
            other = np.repeat(other, len(full), axis=0)
        differences = statistics.paired(full, other)
        if differences.size:
            found[kind, row, metric] = statistics.bootstrap(differences)
    expected = {place: found[place].p for place in found if place[1:] in EXPECTED}
    adjusted = statistics.holm(expected)
    return [
        Contrast(*place, difference, adjusted.get(place)) for place, difference in found.items()
    ]


def dropped(results: AblationResults) -> list[tuple[str, str]]:
    """(set, metric) where a copy of the reference is better than the base: no measure of
    quality there."""
    if BASE not in results.rows:
        return []
    found = []
    for kind in SETS:
        for name, metric in METRICS.items():
            both = [results.of(kind, row, name) for row in (COPY, BASE)]
            if np.isnan(both[0]).all():  # as the flicker of one frame
                continue
            copy, base = map(np.nanmean, both)
            if copy < base if metric.better == "lower" else copy > base:
                found.append((kind, name))
    return found
