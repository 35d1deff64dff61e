"""Paired differences and what may be claimed of them: against calculations by hand."""

import itertools

import numpy as np
import pytest

from dispose_jax.evaluation import statistics
from dispose_jax.evaluation.statistics import Difference, bootstrap, holm, paired, separated


def test_differences_pair_seeds_and_leave_out_clips_without_a_number():
    one = np.array([[1.0, 2, np.nan, 4], [5, 6, 7, 8], [0, 0, 0, 0]])
    other = np.array([[1.0, 1, 1, 1], [2, np.nan, 2, 2]])
    np.testing.assert_array_equal(paired(one, other), [[0, 3], [3, 6]])


def test_the_bootstrap_draws_from_the_distribution_of_all_draws():
    """Two seeds and three clips have few enough draws to list them all."""
    values = np.array([[1.0, 2, 6], [0, 1, -1]])
    means = [
        np.mean([values[seed, clip] for seed in seeds for clip in clips])
        for seeds in itertools.product(range(2), repeat=2)
        for clips in itertools.product(range(3), repeat=3)
    ]
    found = bootstrap(values, draws=40_000)
    assert found.mean == pytest.approx(values.mean()) and (found.seeds, found.clips) == (2, 3)
    # The list is of few values: quantiles are one of them, and which depends on the draws.
    least, most = np.quantile(means, [0.02, 0.03]), np.quantile(means, [0.97, 0.98])
    assert least.min() <= found.low <= least.max() and most.min() <= found.high <= most.max()
    beyond = np.mean(np.array(means) <= 0)
    assert found.p == pytest.approx(2 * beyond, abs=0.01)
    assert found.agreeing == 0.5  # the means of the seeds are 3 and 0


def test_the_interval_of_clips_alone_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(0.3, 2, (1, 400))
    found = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert bootstrap(values) == found, "the same every time"


def test_seeds_that_differ_widen_the_interval_however_many_clips_there_are():
    effect = np.array([-1.0, 3, 1, 0, 2])[:, None]
    many = np.repeat(effect, 200, axis=1) + np.random.default_rng(2).normal(0, 0.01, (5, 200))
    found = bootstrap(many)
    assert found.high - found.low > 2 and found.agreeing == pytest.approx(0.6)


def test_a_certain_difference_has_the_least_p():
    assert bootstrap(np.full((2, 16), -0.5)) == Difference(-0.5, -0.5, -0.5, 1e-4, 1.0, 2, 16)


@pytest.mark.parametrize("clips", [1, 2, 5, 6, 9])
def test_a_few_clips_that_agree_by_chance_are_no_claim(clips):
    """Of pure noise: no smaller p than that of a sign test, which nothing can be below."""
    rng, trials = np.random.default_rng(clips), 300
    noise = rng.normal(0, 1, (trials, 1, clips))
    found = [bootstrap(one, draws=1000) for one in noise]
    agree = (np.sign(noise) == np.sign(noise[:, :, :1])).all((1, 2))
    for one, agreeing in zip(found, agree):
        assert not agreeing or one.p >= 2 * 0.5**clips  # of a sign test
    if clips < 6:  # then no sign test can be significant
        assert not any(separated(one) or separated(one, one.p) for one in found)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="2 seeds and 0 clips: nothing to compare"):
        bootstrap(np.zeros((2, 0)))


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    found = holm({"a": 0.03, "b": 0.01, "c": 0.02, "d": 0.9})
    assert list(found) == ["a", "b", "c", "d"]
    assert found == pytest.approx({"b": 0.04, "c": 0.06, "a": 0.06, "d": 0.9})
    assert holm({"a": 0.5, "b": 0.6}) == {"a": 1.0, "b": 1.0}


def test_a_claim_needs_interval_seeds_and_the_corrected_p():
    sure = Difference(-0.2, -0.3, -0.1, 1e-4, agreeing=0.8, seeds=5, clips=9)
    assert separated(sure) and separated(sure._replace(mean=0.2, low=0.1, high=0.3))
    assert separated(sure, adjusted=0.05) and not separated(sure, adjusted=0.051)
    assert not separated(sure._replace(high=0.0))
    assert not separated(sure._replace(agreeing=0.75))
    assert statistics.AGREEING == 0.8
