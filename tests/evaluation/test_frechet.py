"""Fréchet distances: closed forms, invariances, and what is said of few clips."""

import numpy as np
import pytest
from scipy import linalg

from dispose_jax.evaluation import frechet


def exact_sample(rng, n: int, mean, root) -> np.ndarray:
    """Rows whose mean and covariance (ddof 1) are exactly mean and root root^T."""
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T
    return x @ np.asarray(root).T + mean


def test_gaussians_with_known_moments_have_the_distance_of_the_formula():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 5, 5))
    m1, m2 = rng.standard_normal((2, 5))
    real, fake = exact_sample(rng, 40, m1, one), exact_sample(rng, 70, m2, two)
    s1, s2 = one @ one.T, two @ two.T
    root = linalg.sqrtm(s1 @ s2).real
    expected = np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet.distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_commuting_covariances_give_the_difference_of_deviations():
    rng = np.random.default_rng(1)
    real = exact_sample(rng, 30, np.zeros(3), np.diag([1.0, 2, 3]))
    fake = exact_sample(rng, 30, np.array([0.0, 3, 4]), np.diag([2.0, 2, 1]))
    assert frechet.distance(real, fake) == pytest.approx(25 + 1 + 0 + 4)


def test_the_divisor_is_the_protocols():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6, 4))
    scaled = 2 * x  # tr S1 + tr S2 - 2 tr root = tr S (1 + 4 - 4)
    for ddof in (0, 1):
        shift = np.square(x.mean(0)).sum()
        assert frechet.distance(x, scaled, ddof) == pytest.approx(
            shift + x.var(0, ddof=ddof).sum(), rel=1e-9
        )


def test_order_does_not_matter_and_a_set_is_at_no_distance_from_itself():
    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((9, 30)), rng.standard_normal((8, 30))
    mixed = frechet.distance(real[::-1], rng.permutation(fake))
    assert mixed == pytest.approx(frechet.distance(real, fake))
    assert frechet.distance(fake, real) == pytest.approx(frechet.distance(real, fake))
    assert frechet.distance(real, real[::-1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rows", [(60, 50), (60, 5), (5, 50), (5, 6)])
def test_many_and_few_rows_are_one_distance(rows):
    rng = np.random.default_rng(4)
    real, fake = rng.standard_normal((rows[0], 7)), 1 + 2 * rng.standard_normal((rows[1], 7))
    root = linalg.sqrtm(np.cov(real.T) @ np.cov(fake.T)).real
    expected = np.square(real.mean(0) - fake.mean(0)).sum()
    expected += np.trace(np.cov(real.T) + np.cov(fake.T) - 2 * root)
    assert frechet.distance(real, fake) == pytest.approx(expected, rel=1e-5)


def test_windows_of_a_video_may_be_given_in_any_grouping():
    rng = np.random.default_rng(5)
    videos = [rng.standard_normal((n, 4)) for n in (2, 3, 4, 5, 2, 3)]
    joined = np.concatenate(videos)
    others = [v + 1 for v in videos]
    assert frechet.distance(joined, joined + 1) == pytest.approx(4)
    low, high = frechet.bootstrap(videos, others)
    assert low == pytest.approx(4) and high == pytest.approx(4)  # pairs stay together
    low, high = frechet.bootstrap(videos, others, paired=False)
    assert low < high
    assert frechet.floor(videos) > 0
    assert frechet.floor(videos[:3]) is None and frechet.bootstrap(videos[:2], videos[:2]) is None


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_interval_is_of_draws_in_which_videos_repeat(ddof, monkeypatch):
    """Against the distance of all windows of each draw, repeated ones included."""
    rng = np.random.default_rng(8)
    real = [rng.standard_normal((n, 30)) for n in (4, 1, 7, 5, 3, 6)]
    fake = [1 + 2 * rng.standard_normal((n, 30)) for n in (4, 1, 7, 5, 3, 6)]
    seeded, expected = np.random.default_rng(0), []
    for _ in range(frechet.DRAWS):
        videos = seeded.integers(6, size=6)
        sides = (np.concatenate([side[i] for i in videos]) for side in (real, fake))
        expected.append(frechet.distance(*sides, ddof))
    sizes, svd = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda x, **k: sizes.append(len(x)) or svd(x, **k))
    found = frechet.bootstrap(real, fake, ddof)
    np.testing.assert_allclose(found, np.quantile(expected, [0.025, 0.975]), rtol=1e-9)
    assert np.mean(sizes) < 0.75 * 26, "no window stands in a matrix twice"


def test_every_draw_is_told_as_they_take_minutes_of_many_windows():
    told = []
    videos = list(np.random.default_rng(7).standard_normal((5, 2, 3)))
    frechet.bootstrap(videos, videos, progress=lambda: told.append("draw"))
    frechet.floor(videos, progress=lambda: told.append("half"))
    assert (told.count("draw"), told.count("half")) == (frechet.DRAWS, frechet.HALVINGS)


def test_the_interval_over_videos_is_wider_than_one_over_windows_would_be():
    rng = np.random.default_rng(6)
    alike = [rng.standard_normal(3) + 0.01 * rng.standard_normal((20, 3)) for _ in range(6)]
    fakes = [v + 0.5 * rng.standard_normal(3) for v in alike]
    whole = frechet.bootstrap(alike, fakes, paired=False)
    single = lambda videos: [row[None] for video in videos for row in video]
    windows = frechet.bootstrap(single(alike), single(fakes), paired=False)
    assert whole.high - whole.low > 2 * (windows.high - windows.low)


def test_one_clip_is_an_error_that_says_so_and_few_are_a_caution():
    with pytest.raises(ValueError, match="at least 2 fake clips, found 1"):
        frechet.distance(np.zeros((3, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        frechet.distance(np.zeros((3, 2)), np.zeros((3, 3)))
    assert "not comparable: 24 clips cannot span 400" in frechet.caution(24, 400)
    assert "biased upwards" in frechet.caution(500, 400)
    assert frechet.caution(2048, 400) is None
