"""Tokens by blocks give what they give at once, and so do gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from dispose_jax.networks import layers
from dispose_jax.ops import blocks


@pytest.fixture
def network():
    module = layers.FeedForward()
    x = jax.random.normal(jax.random.key(0), (2, 3, 48, 8))
    return module, module.init(jax.random.key(1), x)["params"], x


@pytest.mark.parametrize("size", [1, 16, 48])
def test_blocks_and_their_gradients_equal_the_whole(network, size):
    module, params, x = network
    whole = lambda params, x: module.apply({"params": params}, x)
    some = lambda params, x: blocks.in_blocks(whole, params, x, size)
    np.testing.assert_allclose(some(params, x), whole(params, x), rtol=0, atol=1e-6)
    loss = lambda function: lambda *args: jnp.sin(function(*args)).sum()
    ours, expected = (jax.grad(loss(f), argnums=(0, 1))(params, x) for f in (some, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def on(platform: str, shape: tuple[int, ...], devices: int = 1) -> jax.Array:
    """An array of a mesh that is not here, as it is seen while traced."""
    device = AbstractDevice("kind", 1, platform)
    mesh = AbstractMesh((devices,), ("data",), (AxisType.Auto,), abstract_device=device)
    seen = []
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    struct = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)
    jax.eval_shape(lambda x: seen.append(x) or x, struct)
    return seen[0]


@pytest.mark.parametrize(
    ("platform", "shape", "devices", "size"),
    [
        ("tpu", (2, 16, 9216, 320), 1, 256),  # 48 MiB hold 307 positions of 32 frames
        ("tpu", (2, 16, 9216, 320), 2, 512),
        ("tpu", (2, 16, 576, 1280), 1, 64),
        ("tpu", (2, 16, 9217, 320), 1, 0),  # a prime number of positions has no blocks
        ("tpu", (2, 4, 16, 320), 1, 0),
        ("cuda", (2, 16, 9216, 320), 1, 4608),  # 1 GiB
        ("cuda", (2, 16, 2304, 640), 1, 0),
        ("cpu", (2, 16, 9216, 320), 1, 0),
    ],
)
def test_blocks_fill_what_a_platform_has_for_them(platform, shape, devices, size):
    x = on(platform, shape, devices)
    assert blocks.block_of(x, 8 * shape[-1]) == size
