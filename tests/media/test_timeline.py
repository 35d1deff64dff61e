"""Rates and choices from the times of frames alone."""

from fractions import Fraction

import numpy as np
import pytest

from dispose_jax.media import timeline

RATES = [24, 25, 30, 48, 50, 60, 120, Fraction(24000, 1001), Fraction(30000, 1001), 12.5, 7]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("rounding", [0, 3, 2])
def test_a_constant_rate_gives_the_released_frames_however_times_are_rounded(fps, rounding):
    for n in (2, 3, 59, 500, 20_000):
        times = 1.234 + np.arange(n) / float(fps)
        if rounding == 2 and (n / float(fps) < 1 or fps > 30):  # GIF
            continue
        times = np.round(times, rounding) if rounding else times
        stated = Fraction(fps)
        found = timeline.rate(times, stated)
        for stride in (1, 2, 5):
            np.testing.assert_array_equal(
                timeline.numbers(times, found, stride), np.arange(0, n, stride)
            )
        if rounding != 2:
            assert found == stated and not timeline.varies(times, found)


def test_a_rate_that_the_times_contradict_is_not_believed():
    times = np.arange(90) / 29.8
    for stated in (None, Fraction(1000), Fraction(30), Fraction(1)):
        assert float(timeline.rate(times, stated)) == pytest.approx(29.8)


@pytest.mark.parametrize("fps", [240, 480, 960, 1000])
def test_a_rate_of_slow_motion_is_that_of_the_times(fps):
    times = np.round(np.arange(300) / fps, 6)
    for stated in (None, Fraction(fps), Fraction(650), Fraction(2 * fps, 3)):
        assert timeline.rate(times, stated) == fps
        assert len(timeline.numbers(times, Fraction(fps), 20)) == 15
    if fps != 960:  # which in whole thousandths of a second are 1000 with some missing
        rounded = timeline.rate(np.round(times, 3), Fraction(fps))
        assert float(rounded) == pytest.approx(fps, rel=4e-3)


def test_whole_and_film_rates_are_recognised_without_being_stated():
    assert timeline.rate(np.round(np.arange(90) / 48, 3), None) == 48
    film = Fraction(30000, 1001)
    assert timeline.rate(np.round(np.arange(3000) / float(film), 3), None) == film


def test_lost_frames_do_not_lower_the_rate():
    rng = np.random.default_rng(0)
    kept = np.sort(rng.choice(np.arange(1, 199), 190, replace=False))
    times = np.concatenate([[0], kept, [199]]) / 30
    assert timeline.rate(times, Fraction(30)) == 30
    numbers = timeline.numbers(times, Fraction(30), 2)
    assert len(numbers) == 100
    assert np.abs(times[numbers] - np.arange(100) / 15).max() <= 1.01 / 30


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_taken_evenly_in_time_whatever_the_intervals(seed):
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 5) + np.cumsum(rng.exponential(rng.uniform(0.01, 0.1), 120))
    fps = timeline.rate(times, None)
    assert float(fps) == pytest.approx(119 / (times[-1] - times[0]), rel=1e-3)
    stride = int(rng.integers(1, 5))
    numbers = timeline.numbers(times, fps, stride)
    assert (np.diff(numbers) >= 0).all() and len(numbers) == -(-120 // stride)
    wanted = times[0] + np.arange(len(numbers)) * stride / float(fps)
    nearest = np.abs(times - wanted[:, None])
    nearest[times - wanted[:, None] > timeline.LEAD] = np.inf
    np.testing.assert_allclose(np.abs(times[numbers] - wanted), nearest.min(1))


def test_faults_of_the_clock_are_closed_up():
    times = np.arange(40) / 20
    broken = times + np.where(np.arange(40) >= 25, 3600, 0)
    broken[7] = np.nan
    mended, leaps = timeline.mended(broken, 1, may_pause=False)
    np.testing.assert_allclose(mended, times, atol=1e-6)
    assert [round(by) for _, by in leaps] == [3600]
    decoded = times.copy()
    decoded[[4, 5, 6]] = decoded[[6, 4, 5]]
    np.testing.assert_allclose(timeline.mended(decoded, 1, may_pause=False)[0], times)
    far = (np.arange(60) / 15)[np.r_[0, 17:1:-1, 1, 18:60]]  # sixteen pictures before their turn
    mended, leaps = timeline.mended(np.round(far, 3), 1, may_pause=False)
    assert not leaps and np.abs(mended - np.arange(60) / 15).max() < 2e-3
    joined = np.concatenate([times, times])  # files one after the other, each from its own 0
    mended, leaps = timeline.mended(joined, 1, may_pause=False)
    np.testing.assert_allclose(mended, np.arange(80) / 20, atol=1e-6)
    assert len(leaps) == 1
    mended, leaps = timeline.mended(np.full(4, np.nan), 0.25, may_pause=False)
    np.testing.assert_allclose(mended, [0, 0.25, 0.5, 0.75])
    assert timeline.mended(np.array([3.0]), 1, may_pause=False)[0].tolist() == [0]


def test_a_long_pause_of_a_clock_that_may_pause_is_kept_and_slows_down_no_rate():
    times = np.arange(60) / 30
    times[20:] += 61.234
    times[40:] += 3.021
    kept, leaps = timeline.mended(times, 1, may_pause=True)
    np.testing.assert_allclose(kept, times)
    assert not leaps and timeline.rate(kept, Fraction(1)) == 30
    numbers = timeline.numbers(kept, Fraction(30), 2)
    assert len(numbers) == round(kept[-1] * 30) // 2 + 1  # the still fills its time
    early = kept[numbers] - np.arange(len(numbers)) / 15
    assert early.max() <= timeline.LEAD, "no picture is shown before the still is over"
    assert set(numbers[30:900]) == {19} and set(numbers[950:970]) == {39}
    slides = np.arange(5) * 20.0
    kept, leaps = timeline.mended(slides, 1, may_pause=True)
    assert not leaps and kept.tolist() == slides.tolist()
    assert float(timeline.rate(kept, None)) == pytest.approx(1 / 20)
    assert timeline.rate(np.array([0, 0, 0, 5.0]), None) == Fraction(3, 5)


def test_a_pause_beyond_an_hour_is_no_pause():
    times = np.arange(60) / 20 + np.where(np.arange(60) >= 20, 1e9, 0)
    mended, leaps = timeline.mended(times, 1, may_pause=True)
    np.testing.assert_allclose(mended, np.arange(60) / 20, atol=1e-6)
    assert len(leaps) == 1


def test_a_clock_that_goes_back_is_not_believed_to_pause():
    times = np.arange(60) / 20
    broken = times + np.where((np.arange(60) >= 20) & (np.arange(60) < 40), 500, 0)
    mended, leaps = timeline.mended(broken, 1, may_pause=True)
    np.testing.assert_allclose(mended, times, atol=1e-6)
    assert [round(by) for _, by in leaps] == [500, -500]
