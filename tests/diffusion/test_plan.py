"""What each call of a run computes."""

from types import SimpleNamespace

import numpy as np

from dispose_jax.diffusion.plan import computed, plan
from dispose_jax.diffusion.samplers import Ddim, Euler

EXACT = {"steps": 4, "solver": "euler", "guidance_interval": (0.0, np.inf), "cache_interval": 1}


def planned(schedule, guided=True, **changed):
    return plan(schedule, SimpleNamespace(**EXACT | changed), guided)


def test_by_default_every_call_computes_both_halves_and_keeps_nothing():
    for schedule in (Euler(), Ddim()):
        assert {one[1:] for one in planned(schedule)} == {(2, True, False)}
        assert {one[1:] for one in planned(schedule, guided=False)} == {(1, True, False)}


def test_an_interval_cuts_the_second_half_and_what_is_kept_with_it():
    schedule = Euler(sigma_min=0.1, sigma_max=100.0)
    found = planned(schedule, steps=6, guidance_interval=(1.0, 30.0), cache_interval=3)
    sigmas = [float(one.call.at) for one in found]
    assert [one.halves for one in found] == [2 if 1 < s <= 30 else 1 for s in sigmas]
    changes = [i for i in range(1, 6) if found[i].halves != found[i - 1].halves]
    assert changes and all(found[i].fresh and not found[i - 1].keep for i in changes)


def test_every_nth_call_computes_everything():
    assert computed([2] * 7, 3) == [True, False, False, True, False, False, True]
    assert computed([2] * 4, 1) == [True] * 4
    assert computed([1], 9) == [True]
    found = planned(Euler(), steps=5, cache_interval=3)
    assert [one.fresh for one in found] == [True, False, False, True, False]
    assert [one.keep for one in found] == [True, False, False, True, False]


def test_features_of_other_rows_of_guidance_do_not_serve():
    assert computed([1, 2, 2, 2, 1, 1, 1], 3) == [True, True, False, False, True, False, False]
