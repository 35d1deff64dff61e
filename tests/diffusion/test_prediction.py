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
