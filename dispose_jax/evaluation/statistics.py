"""Whether one arm is better than another: paired differences over training seeds and clips.

Both arms are measured on the same clips from the same noise, so differences are taken clip by
clip. A claim about a method needs several training seeds; with one, it is about these weights
(host code).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
COVERED = 0.95  # of the interval
AGREEING = 0.8  # share of seeds that must have the sign of the mean
SIGNIFICANT = 0.05
FEWEST_SEEDS = 5  # of a claim about a method; where it does nothing, two agree every second time


class Difference(NamedTuple):
    """A paired difference: its mean over seeds and clips, and what is known of it."""

    mean: float
    low: float  # of the 95 % interval
    high: float
    p: float  # two-sided, from the same draws; at least what a sign test of the clips can reach
    agreeing: float  # share of seeds whose mean has the sign of the whole's
    seeds: int
    clips: int


def paired(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Differences one - other of measurements (seeds, clips), as many seeds as both have.

    An arm of a single row stands against every seed of the other if it was not trained (the
    caller repeats it). Clips that either could not measure (NaN) are left out.
    """
    seeds = min(len(one), len(other))
    difference = np.asarray(one[:seeds], np.float64) - other[:seeds]
    return difference[:, ~np.isnan(difference).any(0)]


def bootstrap(differences: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Hierarchical bootstrap of differences (seeds, clips): seeds are drawn again, then clips.

    A draw of clips serves all seeds of that draw: every seed was measured on the same clips, whose
    difficulty they share. Raises ValueError if there is nothing to draw from.
    """
    seeds, clips = differences.shape
    if not seeds or not clips:
        raise ValueError(f"differences of {seeds} seeds and {clips} clips: nothing to compare")
    rng = np.random.default_rng(seed)
    # How often each is drawn, so that a draw's mean is one product.
    weights = [
        rng.multinomial(count, np.full(count, 1 / count), size=draws) / count
        for count in (seeds, clips)
    ]
    means = np.einsum("ds,sc,dc->d", weights[0], differences, weights[1], optimize=True)
    tail = (1 - COVERED) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    beyond = min((means <= 0).mean(), (means >= 0).mean())
    # Of two clips that agree every draw agrees too, yet by chance every second pair does.
    least = max(1 / draws, 2.0 ** (1 - clips))
    whole, each = differences.mean(), differences.mean(1)
    return Difference(
        mean=float(whole),
        low=float(low),
        high=float(high),
        p=float(min(1, max(2 * beyond, least))),
        agreeing=float((np.sign(each) == np.sign(whole)).mean()),
        seeds=seeds,
        clips=clips,
    )


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p of several tests, {name: p}: at most SIGNIFICANT where one may be
    claimed."""
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}


def separated(difference: Difference, adjusted: float | None = None) -> bool:
    """Whether an ordering may be claimed: the interval excludes 0, p is small, and enough seeds
    agree.

    adjusted: Holm's p, for a test that is one of several fixed beforehand; it must be small too.
    """
    excludes = difference.low > 0 or difference.high < 0
    significant = max(difference.p, adjusted or 0.0) <= SIGNIFICANT
    return excludes and difference.agreeing >= AGREEING and significant
