"""The v-prediction against its definition."""

import numpy as np
import pytest

from dispose_jax.diffusion import prediction


@pytest.mark.parametrize("sigma", [0.002, 0.7, 12.0])
def test_clean_latents_come_back_from_v_as_it_is_defined(sigma):
    clean, noise = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
    signal, rest = 1 / np.sqrt(sigma**2 + 1), sigma / np.sqrt(sigma**2 + 1)
    v = signal * noise - rest * clean  # Salimans & Ho 2022, appendix D
    x = clean + sigma * noise
    ours = prediction.clean_from_v(x.astype(np.float32), v.astype(np.float32), np.float32(sigma))
    np.testing.assert_allclose(ours, clean, atol=2e-6 * (1 + sigma))


def test_input_scaling_and_v_use_one_normalisation():
    x = np.float32([3.0, -4.0])
    np.testing.assert_allclose(
        prediction.scale_input(x, np.float32(2.0)), x / np.sqrt(5), rtol=1e-6
    )
    # v = 0 means that the scaled input is the signal alone, once more scaled.
    no_v = prediction.clean_from_v(x, np.zeros(2, np.float32), np.float32(2.0))
    np.testing.assert_allclose(no_v, x / 5, rtol=1e-6)


def test_the_target_is_v_as_it_is_defined():
    clean, noise = np.random.default_rng(1).standard_normal((2, 2, 3, 4, 5, 6))
    sigma = np.array([0.01, 30.0])[:, None, None, None, None]  # one level per clip
    angle = np.arctan(sigma)
    expected = np.cos(angle) * noise - np.sin(angle) * clean  # Salimans & Ho 2022, appendix D
    ours = prediction.v_target(*(np.float32(x) for x in (clean, noise, sigma)))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_noise_is_added_in_the_variance_exploding_form():
    clean, noise = np.random.default_rng(2).standard_normal((2, 2, 3), np.float32)
    sigma = np.float32([[0.5], [700.0]])
    x = prediction.add_noise(clean, noise, sigma)
    np.testing.assert_allclose((x - clean) / sigma, noise, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(prediction.add_noise(clean, noise, np.float32(0)), clean)


def test_the_weighted_error_of_clean_latents_is_the_plain_error_of_v():
    """EDM's loss with its weight and coefficients written out, in float64 (Karras et al. 2022,
    table 1 with sigma_data = 1), against the form that training minimises."""
    rng = np.random.default_rng(3)
    clean, noise, v = rng.standard_normal((3, 6, 2, 3, 4, 5))
    sigma = np.exp(0.7 + 1.6 * rng.standard_normal(6))[:, None, None, None, None]
    x = clean + sigma * noise
    found = x / (sigma**2 + 1) - sigma / np.sqrt(sigma**2 + 1) * v
    edm = ((1 + sigma**2) / sigma**2 * (found - clean) ** 2).mean()
    target = prediction.v_target(*(np.float32(y) for y in (clean, noise, sigma)))
    ours = np.square(np.float32(v) - target).mean()
    assert abs(ours - edm) < 1e-5 * edm
    # The function that samplers use stands for the same clean latent.
    ours = prediction.clean_from_v(*(np.float32(y) for y in (x, v, sigma)))
    np.testing.assert_allclose(ours, found, atol=1e-5 * float(sigma.max()))
