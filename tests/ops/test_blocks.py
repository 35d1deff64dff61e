"""Tokens by blocks give what they give at once, and so do gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from dispose_jax import flops
from dispose_jax.networks import layers
from dispose_jax.ops import blocks

close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def work_of(function, *arguments):
    return flops.work(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.fixture
def network():
    module = layers.FeedForward()
    x = jax.random.normal(jax.random.key(0), (2, 3, 48, 8))
    return module, module.init(jax.random.key(1), x)["params"], x


@pytest.mark.parametrize("sizes", [(1, 1), (16, 8), (48, 16), (48, 48)])
def test_blocks_and_their_gradients_equal_the_whole(network, sizes):
    module, params, x = network
    whole = lambda params, x: module.apply({"params": params}, x)
    some = lambda params, x: blocks.in_blocks(whole, params, x, blocks.Blocks(*sizes))
    np.testing.assert_allclose(some(params, x), whole(params, x), rtol=0, atol=1e-6)
    loss = lambda function: lambda *args: jnp.sin(function(*args)).sum()
    ours, expected = (jax.grad(loss(f), argnums=(0, 1))(params, x) for f in (some, whole))
    jax.tree.map(close, ours, expected)


def test_gradients_of_what_does_not_learn_are_not_made(network):
    module, params, x = network
    whole = lambda params, x: module.apply({"params": params}, x)

    some = lambda params, x: blocks.in_blocks(whole, params, x, blocks.Blocks(16, 8))

    def gradient(function):
        loss = lambda learnt, x: jnp.sin(function(params | learnt, x)).sum()
        return jax.grad(loss, argnums=(0, 1))

    learnt = {"net_2": params["net_2"]}
    jax.tree.map(close, gradient(some)(learnt, x), gradient(whole)(learnt, x))
    # The large matrix of the first layer has no gradient, and its product is missing.
    count = lambda *learnt: work_of(gradient(some), {n: params[n] for n in learnt}, x).executed
    first = 2 * x[..., 0].size * params["net_0"]["proj"]["kernel"].size
    assert count("net_0", "net_2") - count("net_2") == first


@pytest.mark.parametrize("shared", [("data",), (None, "data"), ()])
def test_on_a_mesh_gradients_are_those_of_one_device(network, shared):
    """With clips, or frames, on different devices; sums over them are left to the compiler."""
    module, params, _ = network
    x = jax.random.normal(jax.random.key(2), (4, 4, 48, 8))
    whole = lambda params, x: module.apply({"params": params}, x)
    some = lambda params, x: blocks.in_blocks(whole, params, x, blocks.Blocks(16, 8))
    gradient = lambda f: jax.jit(jax.grad(lambda *given: jnp.sin(f(*given)).sum(), argnums=(0, 1)))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    held = jax.device_put(params, place()), jax.device_put(x, place(*shared))
    jax.tree.map(close, gradient(some)(*held), gradient(whole)(params, x))


def test_what_gradients_by_blocks_compute_again_is_not_useful_work(network):
    module, params, x = network
    whole = lambda params, x: module.apply({"params": params}, x)
    some = lambda params, x: blocks.in_blocks(whole, params, x, blocks.Blocks(16, 8))

    def work(function):
        gradient = jax.grad(lambda *given: function(*given).sum(), argnums=(0, 1))
        return work_of(gradient, params, x)

    assert work(some).useful == work(whole).useful
    assert work(some).again == work_of(whole, params, x).executed


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
    ("platform", "shape", "devices", "sizes"),
    [
        ("tpu", (2, 16, 9216, 320), 1, (256, 256)),  # 48 MiB hold 307 positions of 32 frames
        ("tpu", (2, 16, 9216, 320), 2, (512, 512)),
        ("tpu", (2, 16, 576, 1280), 1, (64, 64)),
        ("tpu", (2, 16, 9217, 320), 1, None),  # a prime number of positions has no blocks
        ("tpu", (2, 4, 16, 320), 1, None),
        ("cuda", (2, 16, 9216, 320), 1, (4608, 1536)),  # 1 GiB, and a quarter
        ("cuda", (1, 16, 12288, 320), 1, (12288, 3072)),
        ("cuda", (2, 4, 2304, 320), 1, None),
        ("cpu", (2, 16, 9216, 320), 1, None),
    ],
)
def test_blocks_fill_what_a_platform_has_for_them(platform, shape, devices, sizes):
    assert blocks.blocks_of(on(platform, shape, devices), 8 * shape[-1]) == sizes
