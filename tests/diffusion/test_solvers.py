"""Solvers on normal data, whose denoiser and whose solution are known in closed form."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.diffusion import prediction, solvers
from dispose_jax.diffusion.samplers import Ddim, Euler

MEAN, DEVIATION = 0.4, 0.7  # of the data
SCHEDULES = {
    "karras": Euler(sigma_min=0.02, sigma_max=80.0),
    "ays": Euler(sigma_min=0.02, sigma_max=80.0, spacing="ays"),
    "trailing": Ddim(),
    "ays times": Ddim(spacing="ays"),
}
STEPS = {"karras": (20, 40, 80), "ays": (20, 40, 80), "trailing": (25, 50, 100)}


def signal_and_noise(schedule, level):
    """(amplitude of the data, of the noise) of the latent at a level, float64."""
    sigma = float(schedule.sigmas(np.array(level)))
    if isinstance(schedule, Euler):
        return 1.0, sigma
    return (0.0, 1.0) if np.isinf(sigma) else tuple(np.array([1, sigma]) / np.hypot(1, sigma))


def network(schedule, x, level):
    """What an ideal network gives: the v or the clean latent's v form of the expected data."""
    signal, noise = signal_and_noise(schedule, level)
    variance = (signal * DEVIATION) ** 2 + noise**2
    clean = MEAN + signal * DEVIATION**2 * (x - signal * MEAN) / variance
    if isinstance(schedule, Euler):
        power = noise**2 + 1
        return (x / power - clean) * np.sqrt(power) / noise
    return (signal * x - clean) / noise  # clean = signal x - noise v


def go(schedule, x, output, call, last):
    """(latent after a call's move, (latent and estimate of this call))."""
    start, before = last
    moved, clean = solvers.advance(
        schedule,
        x,
        output,
        call,
        start=start if call.again else None,
        before=before if call.again or call.weight else None,
    )
    return moved, (x, clean)


def error(solver, schedule, steps, end=0.0):
    """Of the latent at the last level above `end`, over the exact one's deviation.

    The step to no noise is Euler's in all solvers.
    """
    with jax.enable_x64(True):
        z = jnp.array([0.3, -1.2, 2.0], jnp.float64)
        plan = solvers.calls(solver, schedule, steps)
        signal, noise = signal_and_noise(schedule, plan[0].level)
        spread = lambda signal, noise: np.hypot(signal * DEVIATION, noise)
        x = signal * MEAN + spread(signal, noise) * z
        last = (None, None)
        for call in plan:
            if schedule.sigmas(np.array(call.lower)) <= end:
                break
            x, last = go(schedule, x, network(schedule, x, call.at), call, last)
            lowest = call.lower
        signal, noise = signal_and_noise(schedule, lowest)
        exact = signal * MEAN + spread(signal, noise) * z
        return float(jnp.abs(x - exact).max()) / spread(signal, noise)


@pytest.mark.parametrize("name", ["karras", "ays", "trailing"])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_the_error_falls_with_the_order_of_the_solver(solver, order, name):
    schedule = SCHEDULES[name]
    # Evenly spaced times have no even scale near no noise, however many they are: the last steps'
    # share of the noise stays the same. Below time 199, which all have, no order is to be seen.
    end = schedule.sigmas(np.array(198)) if name == "trailing" else 0.0
    errors = [error(solver, schedule, steps, end) for steps in STEPS[name]]
    slopes = [np.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    print(f"{solver} over {name}: errors {np.array(errors)}, slopes {np.array(slopes)}")  # -s
    assert slopes[-1] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["karras", "ays", "trailing", "ays times"])
def test_ten_steps_of_second_order_are_closer_than_ten_of_euler(name):
    first, second = (error(solver, SCHEDULES[name], 10) for solver in ("euler", "dpmpp_2m"))
    assert second < 0.5 * first


@pytest.mark.parametrize("name", SCHEDULES)
def test_euler_is_the_released_step(name):
    schedule = SCHEDULES[name]
    x, output = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    plan = solvers.calls("euler", schedule, 9)
    assert [(c.level, c.lower) for c in plan] == [tuple(pair) for pair in schedule.levels(9)]
    for call in plan:
        assert (call.at, call.weight, call.again) == (call.level, 0.0, False)
        ours, clean = solvers.advance(schedule, x, output, call)
        released = schedule.step(x, output, call.level, call.lower)
        np.testing.assert_array_equal(ours, released)
        # A move is the same but for float reordering.
        moved = schedule.move(x, clean, call.level, call.lower)
        np.testing.assert_allclose(moved, released, atol=2e-5)


def test_the_noisiest_step_of_zero_terminal_signal_is_finite_in_every_solver():
    schedule = Ddim()
    assert schedule.sigmas(np.array([999, 0, -1])).tolist()[::2] == [np.inf, 0.0]
    x, output = np.random.default_rng(1).standard_normal((2, 5), np.float32)
    for solver in solvers.SOLVERS:
        last = (None, None)
        for call in solvers.calls(solver, schedule, 5)[:3]:
            x, last = go(schedule, x, output, call, last)
            assert np.isfinite(x).all() and np.isfinite(call.weight)


def test_heun_calls_twice_but_where_its_second_slope_does_not_exist():
    karras = [(call.step, call.again) for call in solvers.calls("heun", Euler(), 3)]
    assert karras == [(0, False), (0, True), (1, False), (1, True), (2, False)]
    zero_terminal = [(call.step, call.again) for call in solvers.calls("heun", Ddim(), 3)]
    assert zero_terminal == [(0, False), (1, False), (1, True), (2, False)]


def test_heun_s_step_is_the_mean_of_both_slopes():
    schedule, x = Euler(sigma_min=0.1, sigma_max=10.0), np.array([3.0, -2.0])
    first, second = solvers.calls("heun", schedule, 4)[:2]
    cleans = np.array([[0.5, 0.1], [0.9, -0.4]])
    v = lambda x, clean, s: (x / (s**2 + 1) - clean) * np.sqrt(s**2 + 1) / s
    with jax.enable_x64(True):
        middle, last = go(schedule, x, v(x, cleans[0], first.at), first, (None, None))
        output = v(np.asarray(middle), cleans[1], second.at)
        found, _ = go(schedule, middle, output, second, last)
    slopes = [(x - cleans[0]) / first.level, (np.asarray(middle) - cleans[1]) / first.lower]
    np.testing.assert_allclose(
        found, x + np.mean(slopes, axis=0) * (first.lower - first.level), rtol=1e-6
    )


def test_an_unknown_solver_is_named():
    with pytest.raises(ValueError, match="sample.solver is 'ddim': expected one of euler, heun"):
        solvers.calls("ddim", Ddim(), 4)


@pytest.mark.parametrize("kind", ["v", "epsilon"])
def test_clean_latent_and_move_agree_with_the_released_mixing(kind):
    schedule = Ddim(prediction=kind)
    clean, noise = np.random.default_rng(2).standard_normal((2, 6), np.float32)
    x = schedule.noised(clean, noise, 400)
    output = schedule.target(clean, noise, 400)
    np.testing.assert_allclose(schedule.clean(x, output, 400), clean, atol=1e-5)
    there = prediction.mix(clean, noise, schedule.alpha(100))
    np.testing.assert_allclose(schedule.move(x, clean, 400, 100), there, atol=1e-5)
