"""Fréchet distance of two sets of features, exactly, and how far a number of it can be trusted.

FID, FVD and their relatives are this distance of Gaussians fitted to features of videos. With fewer
videos than dimensions, which is the rule in animation, the usual matrix square root is unreliable;
singular values of a small matrix give the same number exactly (host code, float64).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dispose_jax.counting import counted

DRAWS, HALVINGS = 200, 20  # of the interval, and of the floor


class _Sample(NamedTuple):
    """Rows of features (n, c), and how often each of them counts, (n,)."""

    rows: np.ndarray
    times: np.ndarray


class Interval(NamedTuple):
    """95 % of a bootstrap's draws lie in low..high."""

    low: float
    high: float


def distance(real: np.ndarray, fake: np.ndarray, ddof: int = 1) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) of features (n, c), (m, c).

    ddof: 1 divides covariances by n - 1 (DisCo's FVD and FID-VID), 0 by n (content-debiased FVD).
    The last trace is the sum of the singular values of A B^T, A and B being the centred features
    over the root of the divisor. Raises ValueError for fewer than two rows or unequal columns.
    """
    for name, rows in (("real", real), ("fake", fake)):
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(
                f"a Fréchet distance needs at least 2 {name} clips, found {len(rows)}: a single "
                "one has no covariance"
            )
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {fake.shape[1]} dimensions compared")
    return _distance(*(_Sample(x, np.ones(len(x))) for x in (real, fake)), ddof)


def _distance(one: _Sample, other: _Sample, ddof: int) -> float:
    """The distance of two samples, as `distance` has it."""
    (m1, a), (m2, b) = (_centred(sample, ddof) for sample in (one, other))
    between = _nuclear(a, b)
    total = np.square(m1 - m2).sum() + np.square(a).sum() + np.square(b).sum() - 2 * between
    return max(0.0, float(total))


def _centred(sample: _Sample, ddof: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and A with A^T A the covariance."""
    rows, total = np.asarray(sample.rows, np.float64), sample.times.sum()
    mean = np.average(rows, axis=0, weights=sample.times)
    return mean, (rows - mean) * np.sqrt(sample.times / (total - ddof))[:, None]


def _nuclear(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the singular values of A B^T, for matrices of c columns."""
    # More rows than columns: A = Q R, and the small R has the same singular values.
    a, b = (np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x for x in (a, b))
    return float(np.linalg.svd(a @ b.T, compute_uv=False).sum())


def floor(
    features: Sequence[np.ndarray],
    ddof: int = 1,
    *,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> float | None:
    """Real against real: the median distance between two random halves of the videos.

    features: one array (windows, c) per video; whole videos go into a half. What a perfect model
    would score with half as many videos. progress: is called after each of HALVINGS. None if there
    are fewer than four videos, or if a half could have fewer than two windows.
    """
    if len(features) < 4:
        return None
    rng, found = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        order = rng.permutation(len(features))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        found.append(distance(*(_rows(features, half) for half in halves), ddof))
        progress()
    return float(np.median(found))


def bootstrap(
    real: Sequence[np.ndarray],
    fake: Sequence[np.ndarray],
    ddof: int = 1,
    *,
    paired: bool = True,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Interval | None:
    """Interval of the distance over videos drawn again with replacement, not over windows.

    real, fake: one array (windows, c) per video; paired: both sides draw the same videos. Windows
    of one video are alike, so drawing windows would give intervals that are far too narrow. A draw
    repeats videos, which biases the distance upwards: read the width, not the place. progress: is
    called after each of DRAWS. None if there are fewer than three videos.
    """
    if min(len(real), len(fake)) < 3:
        return None
    rng, found = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        ours = rng.integers(len(real), size=len(real))
        theirs = ours if paired else rng.integers(len(fake), size=len(fake))
        found.append(_distance(_drawn(real, ours), _drawn(fake, theirs), ddof))
        progress()
    return Interval(*(float(q) for q in np.quantile(found, [0.025, 0.975])))


def caution(num_clips: int, dimensions: int) -> str | None:
    """Why a distance of so few clips cannot be compared with others', None if it can."""
    if num_clips >= 2 * dimensions:
        return None
    clips = counted(num_clips, "clip")
    if num_clips > dimensions:
        return f"{clips} for {dimensions} dimensions: biased upwards, compare equal counts"
    return (
        f"not comparable: {clips} cannot span {dimensions} dimensions, the covariances are singular"
    )


def _drawn(features: Sequence[np.ndarray], videos: np.ndarray) -> _Sample:
    """The windows of videos of which some are drawn several times: those stand once, as the time
    for a distance grows with the third power of the rows."""
    numbers, times = np.unique(videos, return_counts=True)
    lengths = [len(features[i]) for i in numbers]
    return _Sample(_rows(features, numbers), np.repeat(times, lengths))


def _rows(features: Sequence[np.ndarray], videos: np.ndarray) -> np.ndarray:
    return np.concatenate([features[i] for i in videos])
