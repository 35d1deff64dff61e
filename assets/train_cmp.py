"""Train the small CMP that the demo's dense motion fields come from, on drawn people alone.

  python -m assets.train_cmp --output assets/svd_tiny

About 15 minutes of CPU; the same command gives the same weights on the same machine. The drawn
people are those of dispose_jax/data/synthetic.py; neither the demo's figure nor its dance is among
them. Writes a bundle of this one network in float16.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from configs import svd
from dispose_jax.data import synthetic
from dispose_jax.models import bundle, networks
from dispose_jax.networks.cmp import CMP
from dispose_jax.networks.layers import BatchNorm
from dispose_jax.ops import sample

Array = jax.Array
Params = dict

STAGES = (
    (64, 1200),
    (128, 600),
)  # side of the pictures and steps: small ones are four times faster
CLIPS, TARGETS = 8, 2  # of a step: references, and frames to reach for each
LEARNING_RATE = 2e-3
ASPECTS = (0.55, 1.0)  # width over height of the pictures that are squeezed into CMP's square
APART = 0.7  # share of clips that start in a stance of their own, as driven pictures do
JOINT_DROPPED, JOINT_NOISE = 0.1, 0.5  # probability; pixels
POINTS, POINT_RATE = 0.5, 0.004  # share of clips also guided by pixels; how many of them, at most
FIGURE_WEIGHT = 4.0  # of the person's pixels in the loss, of which there are few
AVERAGED, HELD_OUT = 16, 16  # batches that set the norms' averages; that the result is judged by


class Batch(NamedTuple):
    """Pictures, guidance and the flow to find; n = CLIPS * TARGETS."""

    image: Array  # (CLIPS, h, w, 3)
    guidance: Array  # (n, h, w, 2)
    guided: Array  # (n, h, w) bool
    flow: Array  # (n, h, w, 2)
    mask: Array  # (n, h, w) bool: the person


@partial(jax.jit, static_argnames="side")
def make_batch(key: Array, side: int, points: float) -> Batch:
    """Drawn people with the guidance that inference gives: displacements of the joints.

    points: share of the clips that also get the flow of random pixels, as in the training of the
    original, so that guidance of other kinds works too.
    """
    scene_key, aspect_key, drop_key, noise_key, rate_key, point_key = jax.random.split(key, 6)
    aspect = jax.random.uniform(aspect_key, (CLIPS,), minval=ASPECTS[0], maxval=ASPECTS[1])
    scene = synthetic.scenes(scene_key, CLIPS, 1 + TARGETS, aspect, apart=APART)
    image, labels = synthetic.paint(scene.at(slice(0, 1)), (side, side))
    flow = synthetic.flow(scene, labels[:, 0])[:, 1:]
    mask = jnp.repeat(labels != synthetic.GROUND, TARGETS, axis=1)

    # Joints of pictures that a detector sees are inside them, and not quite where they should be.
    joints = synthetic.keypoints(scene)
    inside = ((joints > 0) & (joints < 1)).all(-1)
    kept = jax.random.bernoulli(drop_key, 1 - JOINT_DROPPED, (CLIPS, TARGETS, joints.shape[2]))
    kept = kept & inside[:, :1] & inside[:, 1:]
    joints = side * joints + JOINT_NOISE * jax.random.normal(noise_key, joints.shape)
    start = jnp.broadcast_to(joints[:, :1], joints[:, 1:].shape)
    cells = jnp.clip(jnp.floor(start), 0, side - 1).astype(jnp.int32)
    same = (cells[..., :, None, :] == cells[..., None, :, :]).all(-1) & kept[..., None, :]
    kept = kept & ~jnp.triu(same, 1).any(-1)  # on a shared pixel the last joint wins
    guidance, guided = sample.scatter(joints[:, 1:] - start, cells, kept, (side, side))
    chosen, rate = jax.random.uniform(rate_key, (2, CLIPS, 1, 1, 1))
    rate = jnp.where(chosen < points, POINT_RATE * rate, 0)
    more = jax.random.bernoulli(point_key, rate, guided.shape) & ~guided
    guidance, guided = jnp.where(more[..., None], flow, guidance), guided | more
    merge = lambda x: x.reshape(CLIPS * TARGETS, *x.shape[2:])
    return Batch(image[:, 0], *map(merge, (guidance, guided, flow, mask)))


def logits(network: CMP, params: Params, batch: Batch) -> Array:
    """Scores of the bins at half size, (n, h/2, w/2, 2 bins)."""
    apply = partial(network.apply, {"params": params})
    features = apply(batch.image, method=CMP.encode_image)
    features = jax.tree.map(lambda x: jnp.repeat(x, TARGETS, axis=0), features)
    return apply(features, batch.guidance, batch.guided, method=CMP.logits)


def loss(network: CMP, params: Params, batch: Batch) -> Array:
    """Cross-entropy of the true flow's bin, the mean over pixels, those of the person weighted.

    The original enlarges the logits to the picture; here the truth is read where the logits are,
    which is a quarter of the work.
    """
    with batch_norms({}):
        scores = logits(network, params, batch)
    half, side = scores.shape[1], batch.flow.shape[1]
    at = np.rint(np.arange(half) * (side - 1) / (half - 1)).astype(int)  # corners are aligned
    flow, mask = (x[:, at[:, None], at] for x in (batch.flow, batch.mask))
    bins, fmax = network.bins, network.fmax
    flow = jnp.clip(flow, 1e-3 - fmax, fmax - 1e-3)
    target = jnp.clip(jnp.floor((flow + fmax) * bins / (2 * fmax)), 0, bins - 1)
    scores = scores.reshape(*scores.shape[:-1], 2, bins)
    # Comparing with all bins, not indexing one: a gather's gradient is a slow scatter on a CPU.
    right = jnp.where(jnp.arange(bins) == target[..., None], scores, 0).sum(-1)
    each = (jax.nn.logsumexp(scores, -1) - right).sum(-1)
    weight = jnp.where(mask, FIGURE_WEIGHT, 1.0)
    return (weight * each).sum() / weight.sum()


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


def store_averages(network: CMP, params: Params, batches: list[Batch]) -> Params:
    """Params with the mean of the averages that the norms see in some batches."""

    def look(params: Params, batch: Batch) -> dict:
        seen: dict = {}
        with batch_norms(seen):
            logits(network, params, batch)
        return traverse_util.unflatten_dict(seen)

    found = [jax.jit(look)(params, batch) for batch in batches]
    mean = jax.tree.map(lambda *values: jnp.stack(values).mean(0), *found)
    return _merge(params, mean)


def _merge(tree: Params, other: Params) -> Params:
    """A nested dict with some of its leaves replaced."""
    flat = traverse_util.flatten_dict(tree) | traverse_util.flatten_dict(other)
    return traverse_util.unflatten_dict(flat)


def nearest_joint(batch: Batch) -> Array:
    """The guidance of the closest guided pixel, everywhere: (n, h, w, 2). What CMP has to beat."""
    side = batch.flow.shape[1]
    rows = jnp.arange(side)

    def one(guidance: Array, guided: Array) -> Array:
        index = jnp.nonzero(guided.ravel(), size=18, fill_value=-1)[0]
        row, column = index // side, index % side
        distance = (rows[:, None, None] - row) ** 2 + (rows[:, None] - column) ** 2
        closest = jnp.where(index >= 0, distance, 2 * side**2).argmin(-1)
        return guidance.reshape(-1, 2)[index[closest]]

    return jax.lax.map(lambda x: one(*x), (batch.guidance, batch.guided))


def errors(network: CMP, params: Params, batch: Batch) -> dict[str, Array]:
    """Mean end-point errors in pixels on one batch, guided by joints only."""
    features = network.apply({"params": params}, batch.image, method=CMP.encode_image)
    features = jax.tree.map(lambda x: jnp.repeat(x, TARGETS, axis=0), features)
    complete = partial(network.apply, {"params": params}, method=CMP.complete)
    found = complete(features, batch.guidance, batch.guided)

    def error(flow: Array, where: Array) -> Array:
        distance = jnp.linalg.norm(flow - batch.flow, axis=-1)
        return (distance * where).sum() / where.sum()

    return {
        "zero flow, person": error(jnp.zeros_like(found), batch.mask),
        "nearest joint's flow, person": error(nearest_joint(batch), batch.mask),
        "CMP, person": error(found, batch.mask),
        "CMP, background": error(found, ~batch.mask),
    }


def train(config, seed: int) -> Params:
    """Trained weights; reports progress, CPU seconds and held-out errors."""
    built = networks.build(config)["cmp"]
    network, side = built.module, config.motion.cmp_size
    init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    params = jax.jit(built.init)(init_key)["params"]
    total = sum(steps for _, steps in STAGES)
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, 100, total)
    learn = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))
    state = learn.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state, batch: Batch):
        value, gradient = jax.value_and_grad(partial(loss, network))(params, batch)
        update, state = learn.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    values = []
    for size in (size for size, steps in STAGES for _ in range(steps)):
        batch = make_batch(jax.random.fold_in(train_key, len(values)), size, POINTS)
        params, state, value = step(params, state, batch)
        values.append(value)
        if len(values) % 50 == 0:
            recent = float(jnp.stack(values[-50:]).mean())
            spent = time.process_time()
            print(f"step {len(values)}/{total}: loss {recent:.4f}, {spent:.0f} CPU s", flush=True)
    draw = lambda key, i, points: make_batch(jax.random.fold_in(key, i), side, points)
    again = [draw(train_key, i, POINTS) for i in range(AVERAGED)]
    params = store_averages(network, params, again)
    measure = jax.jit(partial(errors, network))
    results = [measure(params, draw(test_key, i, 0.0)) for i in range(HELD_OUT)]
    print(f"held-out end-point errors, {HELD_OUT * CLIPS * TARGETS} flows at {side} x {side}:")
    for name in results[0]:
        print(f"  {name}: {np.mean([r[name] for r in results]):.2f} px")
    return jax.device_get(params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("assets/svd_tiny"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} already exists; remove it or choose another --output")
    config = svd.get_config("size=tiny")
    params = train(config, args.seed)
    belongs = bundle.Belongs(config.base, config.model, config.quirks, config.name)
    origin = bundle.Origin("assets/train_cmp.py", "Apache-2.0")
    bundle.write(args.output, {"cmp": params}, belongs, {"cmp": origin}, dtype=np.float16)
    print(f"wrote {args.output} after {time.process_time():.0f} CPU seconds")


if __name__ == "__main__":
    main()
