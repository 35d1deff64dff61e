"""What CMP minimises: the wrong bins of the exact flow of drawn people (Zhan et al. 2019, eq. 2).

This makes the small CMP of `size=small`; the released one has its own training. Guidance is that of
sampling, the displacements of joints, and for some clips the flow of random pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dispose_jax.networks.cmp import CMP, expected_flow
from dispose_jax.networks.norms import BatchNorm
from dispose_jax.ops import gather, resize
from dispose_jax.ops.levels import to_float
from dispose_jax.types import Array, Batch, Params

JOINT_DROPPED, JOINT_NOISE = 0.1, 0.5  # probability; pixels of the displacements
POINTS, POINT_RATE = 0.5, 0.004  # share of clips also guided by pixels; how many of them, at most
DISTANCE_WEIGHT = 0.2  # of the expected flow's error in pixels, beside the cross-entropy


class Task(NamedTuple):
    """A picture, guidance and the flow to find, in CMP's square; n = b (f - 1)."""

    image: Array  # (b, side, side, 3)
    guidance: Array  # (n, side, side, 2)
    guided: Array  # (n, side, side) bool
    flow: Array  # (n, side, side, 2)
    figure: Array  # (n, side, side) bool: the person

    @property
    def frames(self) -> int:
        """Flows per picture."""
        return len(self.flow) // len(self.image)


@dataclass(frozen=True)
class CompletionLoss:
    """Cross-entropy of the true flow's bins, plus the distance of the expected flow.

    side: of CMP's square. figure_weight: of the person's pixels, which are few.
    """

    cmp: CMP
    side: int
    figure_weight: float

    def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        task = make_task(batch, self.side, key)
        with batch_norms({}):
            scores = logits(self.cmp, params["cmp"], task)
        # The original enlarges the scores to the picture; here the truth is read where the scores
        # are, which is a quarter of the work.
        half = scores.shape[1]
        at = np.rint(np.arange(half) * (self.side - 1) / (half - 1)).astype(int)  # aligned corners
        flow, figure = (x[:, at[:, None], at] for x in (task.flow, task.figure))
        bins, fmax = self.cmp.bins, self.cmp.fmax
        inside = jnp.clip(flow, 1e-3 - fmax, fmax - 1e-3)
        target = jnp.clip(jnp.floor((inside + fmax) * bins / (2 * fmax)), 0, bins - 1)
        split = scores.reshape(*scores.shape[:-1], 2, bins)
        # Comparing with all bins, not indexing one: a gather's gradient is a slow scatter on a CPU.
        right = jnp.where(jnp.arange(bins) == target[..., None], split, 0).sum(-1)
        entropy = (jax.nn.logsumexp(split, -1) - right).sum(-1)
        distance = jnp.abs(expected_flow(scores, fmax) - inside).sum(-1)
        weight = jnp.where(figure, self.figure_weight, 1.0)
        mean = lambda x: (weight * x).sum() / weight.sum()
        value = mean(entropy) + DISTANCE_WEIGHT * mean(distance)
        return value, {"entropy": mean(entropy), "distance": mean(distance)}


def make_task(batch: Batch, side: int, key: Array | None) -> Task:
    """Drawn clips as CMP sees them; key None: guided by all joints, exactly as in sampling.

    With a key joints are dropped and displaced, and random pixels guide some clips, as in the
    original's training.
    """
    b, f, height, width = batch.flow.shape[:4]
    scale = jnp.array([side / width, side / height], jnp.float32)
    flow = resize.nearest(batch.flow[:, 1:], (side, side)) * scale
    figure = resize.nearest(batch.figure[:, :1, ..., None], (side, side))[..., 0]
    figure = jnp.repeat(figure, f - 1, axis=1)
    pixels, vectors, valid = (leaf[:, 1:] for leaf in batch.guides)
    if key is not None:
        drop_key, noise_key, rate_key, point_key = jax.random.split(key, 4)
        valid = valid & jax.random.bernoulli(drop_key, 1 - JOINT_DROPPED, valid.shape)
        vectors = vectors + JOINT_NOISE * jax.random.normal(noise_key, vectors.shape)
    guidance, guided = gather.scatter(vectors, pixels, valid, (side, side))
    if key is not None:
        chosen, rate = jax.random.uniform(rate_key, (2, b, 1, 1, 1))
        rate = jnp.where(chosen < POINTS, POINT_RATE * rate, 0)
        more = jax.random.bernoulli(point_key, rate, guided.shape) & ~guided
        guidance, guided = jnp.where(more[..., None], flow, guidance), guided | more
    merge = lambda x: x.reshape(b * (f - 1), *x.shape[2:])
    image = resize.nearest(to_float(batch.frames[:, 0]), (side, side))
    return Task(image, *map(merge, (guidance, guided, flow, figure)))


def logits(cmp: CMP, params: Params, task: Task) -> Array:
    """Scores of the bins at half size, (n, side/2, side/2, 2 bins)."""
    return _call(cmp, params, task, CMP.logits)


def complete(cmp: CMP, params: Params, task: Task) -> Array:
    """The flow that CMP finds, (n, side, side, 2)."""
    return _call(cmp, params, task, CMP.complete)


def _call(cmp: CMP, params: Params, task: Task, method: Callable) -> Array:
    """A method of CMP on all flows of a task; each picture's branch runs once."""
    variables = {"params": params}
    features = cmp.apply(variables, task.image, method=CMP.encode_image)
    features = jax.tree.map(lambda x: jnp.repeat(x, task.frames, axis=0), features)
    return cmp.apply(variables, features, task.guidance, task.guided, method=method)


def batch_norms(seen: dict[tuple[str, ...], dict]):
    """A context in which CMP's norms use the batch's own mean and variance and report them.

    The network itself only knows stored averages. Constants in their place, even right ones at the
    start, let activations drift until nothing is learnt.
    """

    def normalise(call, args, kwargs, context):
        module = context.module
        if not isinstance(module, BatchNorm) or context.method_name != "__call__":
            return call(*args, **kwargs)
        x, params = args[0], module.variables["params"]
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        seen[module.path] = {"mean": mean, "var": var}
        scaled = (x - mean) * jax.lax.rsqrt(var + module.epsilon) * params["scale"]
        return scaled + params["bias"]

    return nn.intercept_methods(normalise)


def with_averages(loss: CompletionLoss, params: Params, batches: Iterable[Batch]) -> Params:
    """CMP's params with the mean of the averages that its norms see in some batches."""

    @jax.jit
    def look(params: Params, batch: Batch, key: Array) -> dict:
        seen: dict = {}
        with batch_norms(seen):
            logits(loss.cmp, params, make_task(batch, loss.side, key))
        return traverse_util.unflatten_dict(seen)

    found = [look(params, batch, jax.random.key(i)) for i, batch in enumerate(batches)]
    mean = jax.tree.map(lambda *values: np.mean(jax.device_get(values), axis=0), *found)
    flat = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(mean)
    return traverse_util.unflatten_dict(flat)


def nearest_joint(task: Task) -> Array:
    """The guidance of the closest guided pixel, everywhere: (n, side, side, 2). What CMP has to
    beat."""
    side = task.flow.shape[1]
    rows = jnp.arange(side)

    def one(guidance: Array, guided: Array) -> Array:
        index = jnp.nonzero(guided.ravel(), size=18, fill_value=-1)[0]
        row, column = index // side, index % side
        distance = (rows[:, None, None] - row) ** 2 + (rows[:, None] - column) ** 2
        closest = jnp.where(index >= 0, distance, 2 * side**2).argmin(-1)
        return guidance.reshape(-1, 2)[index[closest]]

    return jax.lax.map(lambda x: one(*x), (task.guidance, task.guided))


@partial(jax.jit, static_argnums=(0, 1))
def errors(cmp: CMP, side: int, params: Params, batch: Batch) -> dict[str, Array]:
    """Mean end-point errors on one batch guided by joints, in pixels of the square."""
    task = make_task(batch, side, None)
    found = complete(cmp, params, task)

    def error(flow: Array, where: Array) -> Array:
        distance = jnp.linalg.norm(flow - task.flow, axis=-1)
        return (distance * where).sum() / where.sum()

    return {
        "zero flow, person": error(jnp.zeros_like(found), task.figure),
        "nearest joint's flow, person": error(nearest_joint(task), task.figure),
        "CMP, person": error(found, task.figure),
        "CMP, background": error(found, ~task.figure),
    }
