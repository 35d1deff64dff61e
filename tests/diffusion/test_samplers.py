"""Noise levels and Euler steps, checked on distributions whose solution is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.diffusion import schedules
from dispose_jax.diffusion.samplers import Euler, euler_step


def test_levels_fall_from_the_largest_to_the_smallest_and_end_at_0():
    schedule = Euler(sigma_min=0.01, sigma_max=80.0, rho=5.0)
    levels = schedule.levels(9)
    assert levels.dtype == np.float32
    np.testing.assert_array_equal(levels[1:, 0], levels[:-1, 1])  # each step goes on from there
    np.testing.assert_allclose([levels[0, 0], *levels[-1]], [80.0, 0.01, 0.0], rtol=1e-6)
    assert (np.diff(levels, axis=1) < 0).all()
    even = np.diff(np.float64(levels[:, 0]) ** (1 / 5))
    np.testing.assert_allclose(even, even[0], rtol=1e-5)  # evenly spaced in sigma^(1/rho)


def test_one_step_starts_at_the_largest_level():
    np.testing.assert_array_equal(Euler().levels(1), np.float32([[700.0, 0.0]]))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="sample.steps is 0"):
        Euler().levels(0)


def test_alphas_are_the_product_of_what_each_step_leaves():
    alphas = schedules.alphas_cumprod(5, start=0.01, end=0.25)
    betas = [(0.1 + i * 0.4 / 4) ** 2 for i in range(5)]
    left = 1.0
    for beta, alpha in zip(betas, alphas, strict=True):
        left *= 1 - beta
        assert alpha == pytest.approx(left, rel=1e-6)


def solve(schedule, steps, x, clean_of):
    """Integrate with a denoiser that knows the answer, in the network's v-parametrisation."""
    levels = schedule.levels(steps)
    x = schedule.start(x, levels)
    for level, lower in levels:
        clean = clean_of(x, level)
        # v of the scaled input, solved from its definition: clean = x / p - v sigma / sqrt(p)
        power = level**2 + 1
        v = (x / power - clean) * np.sqrt(power) / level
        x = schedule.step(x, v, level, lower)
    return x


def test_data_that_is_one_point_is_reached_whatever_the_steps():
    point, noise = np.random.default_rng(0).standard_normal((2, 2, 3), np.float32)
    for steps in (1, 4):
        x = solve(Euler(sigma_max=50.0), steps, noise, lambda x, level: point)
        np.testing.assert_allclose(x, point, atol=1e-5)


def test_normal_data_follows_its_exact_solution_to_first_order():
    """For data N(0, s^2) the flow is x(0) = x(sigma) s / sqrt(s^2 + sigma^2)."""
    s, noise = 1.5, jnp.array([0.3, -1.2, 2.0])
    schedule = Euler(sigma_min=0.002, sigma_max=50.0)
    start = schedule.start(noise, schedule.levels(1))
    exact = start * s / np.sqrt(s**2 + 50.0**2)

    def error(steps):
        x = solve(schedule, steps, noise, lambda x, level: x * s**2 / (s**2 + level**2))
        return float(jnp.abs(x / exact - 1).max())

    assert error(50) < 0.05
    assert error(100) < 0.6 * error(50), "Euler's error halves with the step"


def test_the_network_sees_unit_variance_at_every_level():
    schedule = Euler(sigma_max=20.0)
    levels = schedule.levels(4)
    data, noise = np.random.default_rng(0).standard_normal((2, 100_000), np.float32)
    assert float(schedule.start(noise, levels).std()) == pytest.approx((400 + 1) ** 0.5, rel=0.02)
    for level in levels[:, 0]:
        seen = schedule.scale_input(data + level * noise, level)
        assert float(seen.std()) == pytest.approx(1.0, rel=0.02)
        assert float(schedule.time(level)) == pytest.approx(np.log(level) / 4, abs=1e-6)


def test_an_euler_step_to_0_is_the_clean_latent_itself():
    x, clean = jnp.array([700.0, -3.0]), jnp.array([0.125, 0.5])
    np.testing.assert_array_equal(euler_step(x, clean, 700.0, 0.0), clean)
    np.testing.assert_allclose(euler_step(x, clean, 700.0, 700.0), x, rtol=1e-6)
