"""A step of training on a loss whose gradient is known."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from dispose_jax.training import state
from dispose_jax.training.step import make_step

KEY = jax.random.key(3)
FROZEN = {"base": {"offset": jnp.float32(0.5)}}
PARAMS = {"learner": {"w": jnp.float32([1.0, -2.0]), "unused": jnp.float32([4.0])}}


@struct.dataclass
class Clips:
    """Stands for a batch: four clips, one part that this run does not use."""

    x: jax.Array
    absent: jax.Array | None = None


CLIPS = Clips(jnp.float32([[1, 2], [0, 1], [3, -1], [2, 2]]))


def square(params, batch, key):
    """Mean square of x . w + offset."""
    value = jnp.square(batch.x @ params["learner"]["w"] + params["base"]["offset"]).mean()
    return value, {"largest": jnp.abs(batch.x).max()}


def draw(params, batch, key):
    """A loss that tells which key it was given."""
    value = params["learner"]["w"].sum() * jax.random.normal(key, ())
    return value, {"drawn": jax.random.normal(key, ())}


def begin(transform, averaged: bool = False) -> SimpleNamespace:
    first = state.create(PARAMS, transform, averaged=averaged)
    return SimpleNamespace(transform=transform, state=first)


def gradient_of(clips: np.ndarray) -> np.ndarray:
    x, w = np.float64(clips), np.float64(PARAMS["learner"]["w"])
    return 2 * ((x @ w + 0.5)[:, None] * x).mean(0)


def test_a_step_follows_the_gradient_of_the_trainable_networks_alone():
    run = begin(optax.sgd(0.1))
    after, scalars = jax.jit(make_step(square, run.transform))(run.state, FROZEN, CLIPS, KEY)
    assert after.params.keys() == {"learner"}
    expected = np.array([1.0, -2.0]) - 0.1 * gradient_of(CLIPS.x)
    np.testing.assert_allclose(after.params["learner"]["w"], expected, rtol=1e-6)
    np.testing.assert_array_equal(after.params["learner"]["unused"], [4.0])
    assert int(after.step) == 1
    residual = np.float64(CLIPS.x) @ [1.0, -2.0] + 0.5
    assert float(scalars["loss"]) == pytest.approx((residual**2).mean(), rel=1e-6)
    norm = np.linalg.norm(gradient_of(CLIPS.x))
    assert float(scalars["gradient_norm"]) == pytest.approx(norm, rel=1e-6)
    assert float(scalars["largest"]) == 3


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_the_mean_of_the_parts(parts):
    run = begin(optax.sgd(0.1))
    whole, told = jax.jit(make_step(square, run.transform))(run.state, FROZEN, CLIPS, KEY)
    step = jax.jit(make_step(square, run.transform, accumulate=parts))
    after, scalars = step(run.state, FROZEN, CLIPS, KEY)
    np.testing.assert_allclose(after.params["learner"]["w"], whole.params["learner"]["w"], 1e-6)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(scalars[name], told[name], rtol=1e-6)
    halves = [np.abs(CLIPS.x[i::parts]).max() for i in range(parts)]  # every parts-th clip
    np.testing.assert_allclose(scalars["largest"], np.mean(halves), rtol=1e-6)


def test_parts_draw_from_different_keys():
    run = begin(optax.sgd(0.1))
    step = jax.jit(make_step(draw, run.transform, accumulate=2))
    _, scalars = step(run.state, FROZEN, CLIPS, KEY)
    own = jax.random.fold_in(KEY, 0)
    parts = [jax.random.normal(jax.random.fold_in(own, i), ()) for i in range(2)]
    assert float(scalars["drawn"]) == pytest.approx(float(np.mean(parts)), rel=1e-6)
    assert parts[0] != parts[1]


def test_what_is_drawn_depends_on_the_run_s_key_and_the_step_alone():
    run = begin(optax.adam(0.1))
    step = jax.jit(make_step(draw, run.transform))
    second, first_drawn = step(run.state, FROZEN, CLIPS, KEY)
    _, second_drawn = step(second, FROZEN, CLIPS, KEY)
    assert first_drawn["drawn"] != second_drawn["drawn"]
    # A run that continues from the count alone, with other numbers in its state and another batch.
    other = begin(optax.adam(0.1)).state.replace(step=jnp.int32(1))
    _, again = step(other, FROZEN, jax.tree.map(jnp.zeros_like, CLIPS), KEY)
    assert again["drawn"] == second_drawn["drawn"]


def test_a_loss_that_is_not_finite_changes_nothing_but_the_count():
    run = begin(optax.adam(0.1), averaged=True)
    step = jax.jit(make_step(square, run.transform, average=0.9))
    once, _ = step(run.state, FROZEN, CLIPS, KEY)
    broken = CLIPS.replace(x=CLIPS.x.at[1, 0].set(jnp.nan))
    after, scalars = step(once, FROZEN, broken, KEY)
    assert not np.isfinite(scalars["loss"])
    jax.tree.map(np.testing.assert_array_equal, after.params, once.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, once.opt_state)
    jax.tree.map(np.testing.assert_array_equal, after.average, once.average)
    assert int(after.step) == 2
    further, _ = step(after, FROZEN, CLIPS, KEY)
    assert np.isfinite(further.params["learner"]["w"]).all()
    assert np.any(further.params["learner"]["w"] != after.params["learner"]["w"])


def test_an_update_that_is_not_finite_is_not_applied():
    run = begin(optax.adam(0.1, b2=1.0))  # whose correction divides by zero
    after, scalars = jax.jit(make_step(square, run.transform))(run.state, FROZEN, CLIPS, KEY)
    assert np.isfinite(scalars["loss"]) and np.isfinite(scalars["gradient_norm"])
    np.testing.assert_array_equal(after.params["learner"]["w"], PARAMS["learner"]["w"])


def test_an_average_follows_the_parameters_and_changes_nothing_of_the_descent():
    plain, run = begin(optax.adam(0.1)), begin(optax.adam(0.1), averaged=True)
    step = jax.jit(make_step(square, plain.transform))
    averaging = jax.jit(make_step(square, run.transform, average=0.15))
    alone, beside, expected = plain.state, run.state, np.float64([1.0, -2.0])
    for count in range(4):
        alone, _ = step(alone, FROZEN, CLIPS, KEY)
        beside, _ = averaging(beside, FROZEN, CLIPS, KEY)
        decay = 0.1 if count == 0 else 0.15  # 1 / 10, then 2 / 11 and more
        expected = decay * expected + (1 - decay) * np.float64(alone.params["learner"]["w"])
    np.testing.assert_array_equal(beside.params["learner"]["w"], alone.params["learner"]["w"])
    np.testing.assert_allclose(beside.average["learner"]["w"], expected, rtol=1e-6)
    assert alone.average is None


def test_a_gradient_that_is_not_finite_is_not_applied_either():
    def root(params, batch, key):  # its value is 0, its gradient infinite
        return jnp.sqrt(jnp.abs(params["learner"]["w"] * 0).sum()), {}

    run = begin(optax.sgd(0.1))
    after, scalars = jax.jit(make_step(root, run.transform))(run.state, FROZEN, CLIPS, KEY)
    assert float(scalars["loss"]) == 0 and not np.isfinite(scalars["gradient_norm"])
    np.testing.assert_array_equal(after.params["learner"]["w"], PARAMS["learner"]["w"])
