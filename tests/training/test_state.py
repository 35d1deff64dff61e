"""What training starts from: given weights, copies of the U-Net, fresh ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from dispose_jax.models import networks
from dispose_jax.training import state
from tests import small

TRAINABLE = ("controlnet", "motion_encoder", "point_encoder")


@pytest.fixture(scope="module")
def built():
    return networks.build(small.config("full"), training=True)


@pytest.fixture(scope="module")
def unet(built):
    """Unlike a fresh one everywhere: no bias is 0, no scale 1."""
    unet = networks.random({"unet": built["unet"]}, seed=1)["unet"]
    return jax.tree.map(lambda x: x + np.float32(0.25), unet)


@pytest.fixture(scope="module")
def started(built, unet):
    given = {"unet": unet}
    return state.initial(built, TRAINABLE, given, seed=4, copy_add_embedding=True)


def flat(tree) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(tree, sep="/")


def test_the_controlnet_is_the_unet_s_encoder_leaf_by_leaf(built, unet, started):
    ours, theirs = flat(started["controlnet"]), flat(unet)
    copied = {
        path for path in theirs if not path.startswith(("up_blocks", "conv_norm", "conv_out"))
    }
    assert copied == {path for path in ours if not path.startswith("controlnet_")}
    assert {path.split("/")[0] for path in copied} == {"encoder", "time_embedding", "add_embedding"}
    for path in copied:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    assert started.keys() == set(TRAINABLE)
    for name in TRAINABLE:
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), built[name].shapes)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), started[name]) == shapes


def test_what_must_start_at_zero_does_and_nothing_else(started):
    zero = {
        f"{name}/{path}"
        for name, tree in started.items()
        for path, leaf in flat(tree).items()
        if path.endswith("kernel") and not leaf.any()
    }
    skips = len([name for name in started["controlnet"] if "down_blocks" in name])
    outputs = {f"controlnet/controlnet_down_blocks_{i}/kernel" for i in range(skips)}
    outputs |= {"controlnet/controlnet_mid_block/kernel"}
    towers = {f"motion_encoder/{field}/conv_out/kernel" for field in ("sparse", "dense")}
    assert zero == outputs | towers
    for path in zero:
        name, _, rest = path.partition("/")
        assert not flat(started[name])[rest.replace("kernel", "bias")].any()


def test_the_released_start_leaves_the_embedding_of_added_times_random(built, unet, started):
    given = {"unet": unet}
    released = state.initial(built, TRAINABLE, given, seed=4, copy_add_embedding=False)
    ours, theirs = flat(released["controlnet"]), flat(unet)
    changed = {path for path in ours if np.any(ours[path] != flat(started["controlnet"])[path])}
    assert changed == {path for path in ours if path.startswith("add_embedding")}
    assert all(np.any(ours[path] != theirs[path]) for path in changed)


def test_given_weights_win_over_copies_and_fresh_ones(built, unet):
    held = networks.random({"controlnet": built["controlnet"]}, seed=9, dtype=np.float16)
    started = state.initial(
        built, ("controlnet",), {"unet": unet, **held}, seed=4, copy_add_embedding=True
    )
    ours, theirs = flat(started["controlnet"]), flat(held["controlnet"])
    for path in theirs:
        assert ours[path].dtype == theirs[path].dtype, "what learns is read as the file has it"
        np.testing.assert_array_equal(ours[path], theirs[path])


def test_fresh_weights_follow_from_the_seed(built):
    draw = lambda seed: state.initial(
        built, ("point_encoder",), {}, seed=seed, copy_add_embedding=True
    )
    one, same, other = draw(4), draw(4), draw(5)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


def test_fresh_weights_follow_from_the_network_s_name_whatever_else_learns(built):
    """Ablations that leave out a network share the start of the others. The seed is the largest."""
    most = 2**32 - 1
    draw = lambda *names: state.initial(built, names, {}, seed=most, copy_add_embedding=True)
    alone, both = draw("point_encoder"), draw("motion_encoder", "point_encoder")
    jax.tree.map(np.testing.assert_array_equal, alone["point_encoder"], both["point_encoder"])


def test_a_shallow_autoencoder_begins_linear_and_with_quiet_latents(built):
    """Residual blocks add nothing, pictures keep their variance, and noise is far below 1."""
    draw = lambda start: state.initial(
        built, ("vae",), {}, seed=4, copy_add_embedding=True, start=start
    )["vae"]
    released, shallow = flat(draw("released")), flat(draw("shallow"))
    blocks = {path for path in shallow if path.endswith("conv2/kernel")}
    assert len(blocks) > 10 and not any(shallow[path].any() for path in blocks)
    np.testing.assert_allclose(
        shallow["encoder/conv_in/kernel"], 3**0.5 * released["encoder/conv_in/kernel"], rtol=1e-6
    )
    for path in released:
        if not path.endswith("kernel") and not path.startswith("quant_conv"):
            np.testing.assert_array_equal(shallow[path], released[path])
    vae = built["vae"].module
    pictures = np.random.default_rng(0).uniform(-1, 1, (1, 2, 16, 16, 3)).astype(np.float32)
    tree = traverse_util.unflatten_dict(shallow, sep="/")
    encode = jax.jit(partial(vae.apply, method="encode"))  # one program, not one per operation
    mean, logvar = encode({"params": tree}, pictures)
    assert np.all(logvar == state.QUIET) and np.exp(state.QUIET / 2) < 0.2 * np.std(mean)


@pytest.mark.full
def test_a_controlnet_beside_a_fresh_unet_starts_as_its_copy(built):
    names = ("controlnet", "unet")
    started = state.initial(built, names, {}, seed=4, copy_add_embedding=True)
    ours, theirs = flat(started["controlnet"]), flat(started["unet"])
    path = "encoder/conv_in/kernel"
    np.testing.assert_array_equal(ours[path], theirs[path])


def test_the_first_state_has_done_no_step_and_remembers_no_gradient():
    params = {"net": {"w": jnp.ones((2, 3))}}
    first = state.create(params, optax.adam(1e-3))
    assert first.step.dtype == jnp.int32 and int(first.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(first.opt_state))
    assert first.average is None and first.result is first.params


def test_an_average_starts_as_the_parameters_and_is_what_the_run_is_for():
    params = {"net": {"w": jnp.arange(6.0).reshape(2, 3)}}
    first = state.create(params, optax.adam(1e-3), averaged=True)
    np.testing.assert_array_equal(first.average["net"]["w"], params["net"]["w"])
    assert first.result is first.average


def test_the_average_weighs_every_step_by_the_decays_after_it():
    """Against the sum written out: weights of all parameters there were, which add up to 1."""
    rng, decay = np.random.default_rng(0), 0.9
    values = rng.normal(size=(201, 4))  # the start, then what each step gave
    average = jnp.float32(values[0])
    for step, value in enumerate(values[1:]):
        average = state.averaged(average, jnp.float32(value), jnp.int32(step), decay)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(200)]
    weights = [np.prod(decays)]
    weights += [(1 - decays[i]) * np.prod(decays[i + 1 :]) for i in range(200)]
    assert sum(weights) == pytest.approx(1) and decays[0] == 0.1 and decays[-1] == decay
    np.testing.assert_allclose(average, weights @ values, atol=1e-5)
