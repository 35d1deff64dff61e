"""One step of training: gradient of an objective over the trainable networks, then an update."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dispose_jax.training import sharding
from dispose_jax.training.state import TrainState, averaged
from dispose_jax.types import Array, Batch, Params

Loss = Callable[[Params, Batch, Array], tuple[Array, dict[str, Array]]]


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, accumulate: int = 1, average: float = 0.0
):
    """train_step(state, frozen, batch, key) -> (state, scalars), to be jitted by the loop.

    key: that of the run; each step derives its own from the count of steps. The batch is worked
    through in `accumulate` parts whose gradients are averaged. average: the decay of the
    parameters' moving average, for a state that keeps one. A step whose loss, gradient or update is
    not finite changes nothing but the count, so that a broken state is never saved.
    """

    def train_step(state: TrainState, frozen: Params, batch: Batch, key: Array):
        key = jax.random.fold_in(key, state.step)
        evaluate = jax.value_and_grad(
            lambda params, *rest: loss({**frozen, **params}, *rest), has_aux=True
        )
        if accumulate == 1:
            (value, more), gradient = evaluate(state.params, batch, key)
        else:
            (value, more), gradient = _average(evaluate, state.params, batch, key, accumulate)
        norm = optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        change = optax.tree.norm(updates)
        finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(change)
        kept = state.average
        if kept is not None:
            kept = averaged(kept, params, state.step, average)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        held = (state.params, state.opt_state, state.average)
        return TrainState(state.step + 1, *keep((params, opt_state, kept), held)), {
            "loss": value,
            "gradient_norm": norm,
            **more,
        }

    return train_step


def jitted(loss: Loss, optimizer: optax.GradientTransformation, train, mesh: Mesh, layout):
    """The step of a run over its mesh, jitted: the memory of the state that it takes is given up.

    train: `config.train`. layout: the sharding of each leaf of the TrainState.
    """
    function = make_step(loss, optimizer, train.accumulate, train.average)
    results = layout, sharding.replicated(mesh)
    return jax.jit(function, donate_argnums=0, out_shardings=results)


def _average(evaluate, params: Params, batch: Batch, key: Array, parts: int):
    """Mean of what evaluate gives for each part of the batch."""

    def split(x: Array) -> Array:
        # Part j takes every parts-th clip, so that each device keeps working on its own clips.
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def add(total, part):
        clips, i = part
        return jax.tree.map(jnp.add, total, evaluate(params, clips, jax.random.fold_in(key, i)))

    batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(evaluate, params, first, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(lambda t, p: (add(t, p), None), zeros, (batches, jnp.arange(parts)))
    return jax.tree.map(lambda x: x / parts, total)
