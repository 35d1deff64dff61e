"""Noise levels of training against their formulas, in float64 and written another way."""

import jax
import numpy as np
import pytest

from dispose_jax.diffusion import schedules


def cosine_level(t: float, sigma_data: float = 0.5) -> float:
    """Sigma at t of the interpolated cosine schedule, one number at a time (Hoogeboom et al. 2023).

    The limits are shifted out and back for each side.
    """
    ends = [-2 * np.log(sigma / sigma_data) for sigma in (0.002, 700.0)]

    def cosine(t, largest, smallest):
        low = np.arctan(np.exp(-smallest / 2))
        return -2 * np.log(np.tan(low + t * (np.arctan(np.exp(-largest / 2)) - low)))

    def of_side(side):
        shift = 2 * np.log(side / 64)
        return cosine(t, *(end - shift for end in ends)) + shift

    logsnr = t * of_side(64) + (1 - t) * of_side(32)
    return sigma_data / np.sqrt(np.exp(logsnr))


def test_cosine_levels_are_those_of_the_formula_at_stratified_times():
    count, key = 7, jax.random.key(5)
    t = (np.arange(count) + np.float64(jax.random.uniform(key, (count,)))) / count
    levels = schedules.cosine_sigmas(key, count)
    np.testing.assert_allclose(levels, [cosine_level(x) for x in t], rtol=2e-4)
    assert levels.dtype == np.float32


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_cosine_levels_end_at_the_least_and_the_greatest(monkeypatch, draw):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: np.full(shape, draw, np.float32))
    (level,) = schedules.cosine_sigmas(jax.random.key(0), 1)
    assert float(level) == pytest.approx(cosine_level(draw), rel=1e-3)
    assert float(level) == pytest.approx({0.0: 700.0, 1.0: 0.002}[draw], rel=1e-3)


def test_a_batch_has_one_cosine_level_in_each_share_of_the_schedule():
    count = 8
    borders = [cosine_level(i / count) for i in range(count + 1)]
    for seed in range(5):
        levels = np.asarray(schedules.cosine_sigmas(jax.random.key(seed), count))
        assert (levels <= np.array(borders[:-1]) * 1.001).all()
        assert (levels >= np.array(borders[1:]) * 0.999).all()


def test_the_middle_of_the_cosine_schedule_is_noisier_than_without_the_shift():
    """Side 32 against 64 moves the noisy half's log SNR by 2 ln(1/2), the interpolation half that:
    sigma grows by the square root of 2."""
    ends = [-2 * np.log(sigma / 0.5) for sigma in (0.002, 700.0)]
    angles = [np.arctan(np.exp(-end / 2)) for end in ends]
    plain = 0.5 * np.tan((angles[0] + angles[1]) / 2)
    assert cosine_level(0.5) == pytest.approx(plain * np.sqrt(2), rel=0.01)


def test_lognormal_levels_have_the_moments_and_the_distribution_that_are_asked_for():
    levels = schedules.lognormal_sigmas(jax.random.key(1), 40_000, mean=0.7, std=1.6)
    logs = np.log(np.float64(levels))
    assert logs.mean() == pytest.approx(0.7, abs=5 * 1.6 / 200)
    assert logs.std() == pytest.approx(1.6, rel=5 / np.sqrt(2 * 40_000))
    z = (logs - 0.7) / 1.6
    for bound, share in ((-1.0, 0.158655), (0.0, 0.5), (1.0, 0.841345), (2.0, 0.977250)):
        assert (z < bound).mean() == pytest.approx(share, abs=0.0125)


def test_levels_are_one_for_each_clip_and_follow_from_the_key():
    draw = lambda seed: schedules.lognormal_sigmas(jax.random.key(seed), 3, mean=0.0, std=1.0)
    np.testing.assert_array_equal(draw(4), draw(4))
    assert len(set(np.asarray(draw(4)).tolist() + np.asarray(draw(5)).tolist())) == 6


def test_ten_aligned_steps_are_the_published_ones():
    published = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0]
    np.testing.assert_allclose(schedules.ays_sigmas(10), published, rtol=1e-6)
    times = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    np.testing.assert_array_equal(schedules.ays_times(10), times)


def test_other_numbers_of_aligned_steps_lie_on_the_logarithmic_line_between():
    twenty = schedules.ays_sigmas(20)
    np.testing.assert_allclose(twenty[:-1:2], schedules.ays_sigmas(10)[:-1], rtol=1e-6)
    np.testing.assert_allclose(twenty[1], np.sqrt(700 * 54.5), rtol=1e-6)
    for steps in (1, 3, 10, 37, 73):
        sigmas, times = schedules.ays_sigmas(steps), schedules.ays_times(steps)
        assert len(sigmas) == steps + 1 and len(times) == steps
        assert (np.diff(sigmas) < 0).all() and (np.diff(times) < 0).all()
        assert (sigmas[0], sigmas[-1], times[0]) == (700, 0, 999)


def test_aligned_steps_of_a_narrower_range_follow_the_same_curve():
    narrow = schedules.ays_sigmas(8, sigma_min=0.05, sigma_max=50.0)
    assert narrow[0] == pytest.approx(50.0)
    rising = np.log(schedules.AYS_VIDEO[::-1])
    places = np.interp(np.log(narrow[:-1]), rising, np.arange(11))
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0], rtol=1e-4)
    assert narrow[-2] > 0.05


@pytest.mark.parametrize("make", [schedules.ays_sigmas, schedules.ays_times])
def test_no_aligned_steps_are_refused(make):
    with pytest.raises(ValueError, match="sample.steps is 0"):
        make(0)


def test_more_aligned_times_than_can_be_told_apart_are_refused():
    assert all((np.diff(schedules.ays_times(steps)) < 0).all() for steps in range(1, 74))
    with pytest.raises(ValueError, match="sample.steps is 74: expected 1 to 73"):
        schedules.ays_times(74)
