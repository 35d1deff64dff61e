"""CMP's step from bins to flow; the network itself is tested in tests/parity and tests/motion."""

import numpy as np

from dispose_jax.networks.cmp import expected_flow


def test_expected_flow_is_a_bin_centre_when_one_bin_is_certain_and_zero_when_none_is():
    certain = np.full((2, 5), -1e4, np.float32)
    certain[0, 4], certain[1, 0] = 0, 0
    np.testing.assert_allclose(expected_flow(certain.reshape(1, 10), 10), [[8, -8]], atol=1e-5)
    np.testing.assert_allclose(expected_flow(np.ones((1, 10)), 10), [[0, 0]], atol=1e-5)


def test_expected_flow_stays_inside_the_outermost_bin_centres():
    logits = np.random.default_rng(0).normal(0, 50, (100, 2 * 99)).astype(np.float32)
    flow = np.asarray(expected_flow(logits, 50))
    assert np.abs(flow).max() <= 50 - 50 / 99 + 1e-4
    assert flow.std() > 5
