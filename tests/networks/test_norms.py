"""Norms against plain formulas in NumPy."""

import jax
import numpy as np
import pytest

from dispose_jax.networks import norms
from tests.drawn import draw, random_params


@pytest.mark.parametrize(("over", "shape"), [(1, (2, 5, 12)), (2, (2, 3, 4, 5, 12))])
@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_group_norm_is_the_formula_over_the_last_axes_and_a_group(over, shape, epsilon):
    check_group_norm(draw(*shape) * 3 + 1, over, epsilon)


def test_group_norm_over_a_clip_shares_statistics_between_frames():
    x = draw(2, 3, 4, 5, 12)
    x[:, 1] += 10  # frames differ: statistics per picture would remove it
    check_group_norm(x, over=3, epsilon=1e-5)


def check_group_norm(x, over, epsilon, groups=4):
    module = norms.GroupNorm(epsilon, groups, over)
    params = random_params(module, x)
    ours = module.apply({"params": params}, x)
    split = x.astype(np.float64).reshape(*x.shape[:-1], groups, -1)
    axes = (*range(x.ndim - 1 - over, x.ndim - 1), -1)
    mean, variance = split.mean(axes, keepdims=True), split.var(axes, keepdims=True)
    expected = ((split - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_group_norm_keeps_its_digits_far_from_zero():
    """One pass over squares would lose a deviation of 1 beside a mean of 10000."""
    x = draw(1, 400, 2) + 10_000
    module = norms.GroupNorm(1e-6, 1, 1)
    params = {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}
    ours = np.asarray(module.apply({"params": params}, x))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(ours, (exact - exact.mean()) / exact.std(), atol=5e-3)


def test_group_norm_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="10 channels do not divide into 4 norm groups"):
        norms.GroupNorm(1e-5, 4).init(jax.random.key(0), np.zeros((1, 2, 2, 10)))


def test_batch_norm_uses_the_stored_averages():
    x = draw(2, 3, 4)
    module = norms.BatchNorm()
    params = random_params(module, x)
    params["var"] = np.abs(params["var"])
    ours = module.apply({"params": params}, x)
    normal = (x - params["mean"]) / np.sqrt(params["var"] + 1e-5)
    np.testing.assert_allclose(ours, normal * params["scale"] + params["bias"], atol=1e-4)


def test_layer_norm_has_the_released_epsilon():
    x = draw(3, 8) * 1e-3  # so small that epsilon counts
    module = norms.layer_norm(name="norm")
    params = random_params(module, x)
    ours = module.apply({"params": params}, x)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(ours, expected * params["scale"] + params["bias"], rtol=1e-4)
