"""CMP as a function: one picture for many guidance maps, the range of its flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.networks.cmp import CMP, expected_flow

SMALL = CMP(
    layers=(1, 1, 1, 1),
    image_features=8,
    sparse_features=4,
    bins=5,
    fmax=10,
    base_width=4,
    decoder_width=8,
)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (1, 64, 128, 3)), jnp.float32)
    sparse = jnp.asarray(rng.normal(size=(3, 64, 128, 2)), jnp.float32)
    mask = jnp.asarray(rng.random((3, 64, 128)) > 0.99)
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), image, sparse[:1], mask[:1])

    def draw(path, x):  # by hand: compiling an initialisation takes a minute
        if path[-1].key == "kernel":
            deviation = np.sqrt(1 / np.prod(x.shape[:-1]))
            return rng.normal(0, deviation, x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ("scale", "var"), np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return image, sparse * mask[..., None], mask, params


def test_one_picture_serves_many_guidance_maps(world):
    image, sparse, mask, params = world
    features = SMALL.apply(params, image, method=CMP.encode_image)
    together = SMALL.apply(params, features, sparse, mask, method=CMP.complete)
    apart = SMALL.apply(params, jnp.repeat(image, 3, 0), sparse, mask)
    assert together.shape == sparse.shape and together.std() > 0
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-4  # the guidance matters


def test_expected_flow_is_a_bin_centre_when_one_bin_is_certain_and_zero_when_none_is():
    certain = np.full((2, 5), -1e4, np.float32)
    certain[0, 4], certain[1, 0] = 0, 0
    np.testing.assert_allclose(expected_flow(certain.reshape(1, 10), 10), [[8, -8]], atol=1e-5)
    np.testing.assert_allclose(expected_flow(np.ones((1, 10)), 10), [[0, 0]], atol=1e-5)
