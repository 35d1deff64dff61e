"""The small layers against plain formulas in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.special import erf

from dispose_jax.networks import layers, norms
from tests.drawn import draw, random_params


def test_temporal_convolution_is_a_sum_over_three_frames():
    x = draw(2, 5, 7, 4)
    module = layers.temporal_conv(6, name="conv")
    params = random_params(module, x)
    ours = module.apply({"params": params}, x)
    kernel = params["kernel"][:, 0]  # (3, 4, 6)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    expected = sum(padded[:, i : i + 5] @ kernel[i] for i in range(3)) + params["bias"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_strided_convolution_pads_both_sides():
    """Flax's SAME would pad a 3 x 3 stride-2 convolution of even sizes on one side only."""
    x = draw(1, 4, 6, 2)
    module = layers.conv(3, stride=2, name="conv")
    params = random_params(module, x)
    ours = np.asarray(module.apply({"params": params}, x))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    assert ours.shape == (1, 2, 3, 3)
    for row in range(2):
        for column in range(3):
            patch = padded[0, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected = np.tensordot(patch, params["kernel"], 3) + params["bias"]
            np.testing.assert_allclose(ours[0, row, column], expected, atol=1e-5)


def test_sinusoids_are_cosines_then_sines_with_falling_frequencies():
    times = np.float32([-1.55, 0.0, 0.25, 261.0])
    ours = np.asarray(layers.sinusoid(jnp.asarray(times), 6))
    for t, row in zip(times, ours, strict=True):
        angles = [float(t) / 10000 ** (i / 3) for i in range(3)]
        expected = [*map(np.cos, angles), *map(np.sin, angles)]
        np.testing.assert_allclose(row, expected, atol=3e-5)


def test_sinusoids_are_float32_whatever_the_type_of_the_time():
    assert layers.sinusoid(jnp.arange(3), 4).dtype == jnp.float32
    assert layers.sinusoid(jnp.ones(2, jnp.bfloat16), 4).dtype == jnp.float32


def test_feed_forward_gates_the_first_half_with_the_exact_gelu_of_the_second():
    x = draw(2, 3, 4)
    module = layers.FeedForward()
    params = random_params(module, x)
    ours = module.apply({"params": params}, x)
    project, back = params["net_0"]["proj"], params["net_2"]
    hidden = x @ project["kernel"] + project["bias"]
    value, gate = hidden[..., :16], hidden[..., 16:]
    gelu = gate * (1 + erf(gate / np.sqrt(2))) / 2
    expected = (value * gelu) @ back["kernel"] + back["bias"]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_time_embedding_is_two_layers_with_silu_between():
    x = draw(2, 4)
    module = layers.TimeMLP(5, 6)
    params = random_params(module, x)
    first, second = params["linear_1"], params["linear_2"]
    hidden = x @ first["kernel"] + first["bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    expected = hidden @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


def test_initial_weights_have_pytorch_s_bounds():
    kernel = layers.torch_kernel(jax.random.key(0), (3, 3, 20, 64))
    bound = 1 / np.sqrt(3 * 3 * 20)
    assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
    bias = layers.torch_bias(3 * 3 * 20)(jax.random.key(1), (500,))
    assert 0.97 * bound < float(jnp.abs(bias).max()) <= bound


def test_quick_gelu_is_its_formula():
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    np.testing.assert_allclose(layers.quick_gelu(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)


@pytest.mark.parametrize("layer", [layers.conv(4), layers.dense(4), norms.GroupNorm(1e-5, 2)])
def test_a_parameter_that_is_there_is_taken_and_one_that_is_not_is_an_error(layer, monkeypatch):
    x = np.ones((1, 5, 5, 4), np.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    expected = layer.apply({"params": params}, x)
    forbidden = lambda *_, **__: pytest.fail("an initialiser was traced")
    monkeypatch.setattr(jax, "eval_shape", forbidden)  # how Flax asks for its shape
    np.testing.assert_array_equal(layer.apply({"params": params}, x), expected)
    with pytest.raises(errors.ScopeParamNotFoundError, match="bias"):
        layer.apply({"params": {k: v for k, v in params.items() if k != "bias"}}, x)


@pytest.mark.parametrize("layer", [layers.conv(4), layers.dense(4), norms.layer_norm(name=None)])
def test_a_parameter_of_another_shape_is_an_error_that_names_it(layer):
    x = np.ones((1, 5, 5, 4), np.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    wrong = params | {"bias": np.ones(1, np.float32)}  # would be broadcast
    with pytest.raises(errors.ScopeParamShapeError, match=r'"bias".*\(4,\).*\(1,\)'):
        layer.apply({"params": wrong}, x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("use_bias", [True, False])
def test_convolutions_and_linear_layers_are_those_of_flax_bit_for_bit(dtype, use_bias):
    shared = {"use_bias": use_bias, "dtype": dtype}
    padding = ((0, 2), (3, 1))
    wide = {"padding": padding, "dilation": 2, **shared}
    plain = {"padding": padding, "kernel_dilation": 2, **shared}
    alike = [
        (layers.conv(5, 3, 2, **wide), nn.Conv(5, (3, 3), strides=2, **plain)),
        (layers.dense(5, **shared), nn.Dense(5, **shared)),
    ]
    if use_bias:
        over_frames = nn.Conv(5, (3, 1), padding=((1, 1), (0, 0)), dtype=dtype)
        alike.append((layers.temporal_conv(5, name=None, dtype=dtype), over_frames))
    x = draw(2, 3, 9, 8, 6)
    for ours, theirs in alike:
        params = random_params(theirs, x)
        found = ours.apply({"params": params}, x)
        expected = theirs.apply({"params": params}, x)
        assert found.dtype == expected.dtype == dtype
        np.testing.assert_array_equal(found, expected)
        start = [layer.init(jax.random.key(0), x)["params"] for layer in (ours, theirs)]
        assert jax.tree.map(jnp.shape, start[0]) == jax.tree.map(jnp.shape, start[1])


@pytest.mark.parametrize("layer", ["conv", "dense"])
def test_the_gradient_of_a_bias_keeps_its_digits_in_bfloat16(layer):
    x = draw(4, 64, 64, 3)
    module = getattr(layers, layer)(6, dtype=jnp.bfloat16)
    params = random_params(module, x)
    above = jnp.asarray(draw(4, 64, 64, 6, seed=2), jnp.bfloat16)  # zero mean, 16384 terms
    _, pull = jax.vjp(lambda params: module.apply({"params": params}, x), params)
    found = np.asarray(pull(above)[0]["bias"])
    exact = np.asarray(above, np.float64).sum((0, 1, 2))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-3)  # of a size of 128


def test_devices_add_their_gradients_of_a_matrix_in_float32():
    """In bfloat16 the parts and their sum would be off by two in a thousand."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole, shared = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    module = layers.dense(6, dtype=jnp.bfloat16)
    x, above = (jnp.asarray(draw(8, 16, 16, c, seed=c), jnp.bfloat16) for c in (5, 6))
    params = random_params(module, x)

    @partial(jax.jit, out_shardings=whole)
    def gradient(params, x, above):
        return jax.vjp(lambda params: module.apply({"params": params}, x), params)[1](above)[0]

    placed = jax.device_put((x, above), shared)
    found = gradient(jax.device_put(params, whole), *placed)["kernel"]
    exact = np.einsum("bhwi,bhwo->io", *(np.asarray(a, np.float64) for a in (x, above)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())


def test_the_gradient_of_what_a_product_is_of_is_in_its_own_type():
    module = layers.dense(6, dtype=jnp.bfloat16)
    x, above = (jnp.asarray(draw(3, 4, c, seed=c), jnp.bfloat16) for c in (5, 6))
    params = random_params(module, x)
    of = lambda params: jax.vjp(lambda x: module.apply({"params": params}, x), x)[1](above)[0]
    cast = {**params, "kernel": params["kernel"].astype(jnp.bfloat16)}  # a frozen one
    assert of(params).dtype == jnp.bfloat16
    np.testing.assert_array_equal(of(params), of(cast))
    exact = np.asarray(above, np.float64) @ np.asarray(cast["kernel"], np.float64).T
    np.testing.assert_allclose(np.asarray(of(params), np.float64), exact, rtol=1e-2, atol=1e-2)
