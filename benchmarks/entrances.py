"""How much a frozen base could be told at the places where points may enter it.

  python -m benchmarks.entrances --config configs/sd15.py:size=small

The base loses what guidance takes away, such as its reference. In place of point features, free
numbers are written to the cells of the joints, for each clip its own, and learnt with new noise in
every step. The loss that is left inside the figure, with noise that they were not learnt with, is
what an encoder of points could hope for there: no bound, as so many steps do not find the best
numbers, but if places differ under the same steps, that is not the features' doing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.use_of_signals import inputs
from configs import common
from dispose_jax import settings
from dispose_jax.correspondence import keypoints
from dispose_jax.evaluation.ablation import clips as drawn_clips
from dispose_jax.evaluation.ablation import run
from dispose_jax.models import networks, registry
from dispose_jax.models.networks import strides
from dispose_jax.models.protocol import Model, condition, generated_frames
from dispose_jax.networks.point_encoder import PointEncoder, enlarged
from dispose_jax.ops import gather
from dispose_jax.ops.levels import to_float
from dispose_jax.training.losses.video import noise_levels
from dispose_jax.types import Array, Conditioning, Params
from dispose_jax.weights import Weights, choose

RATE = 0.05  # of Adam
MEASURES = 16  # draws of noise and levels for the loss that is reported
CELL = keypoints.CELL


class Trial(NamedTuple):
    """The clips, for which the base is told a conditioning, and the cells that joints are in."""

    clean: Array  # (b, f, h, w, c) latents
    told: Conditioning
    share: Array  # (b, f, h, w) of each latent that the figure covers
    occupied: Array  # (b, f, h/2, w/2) cells of 16 pixels


def trial(model: Model, params: Params, clips: list, key: Array) -> Trial:
    """Of held-out clips; the base is told all."""
    given = [inputs(clip, clip) for clip in clips]
    joined = {name: jnp.stack([one[name] for one in given]) for name in given[0]}
    made = slice(generated_frames(model, joined["frames"].shape[1]).start, None)
    height, width = joined["reference"].shape[1:3]

    @jax.jit
    def make(params: Params, joined: dict):
        encode_key, condition_key = jax.random.split(key)
        posterior = model.encode(params, to_float(joined["frames"][:, made]))
        reference, skeletons = (to_float(joined[name]) for name in ("reference", "skeletons"))
        told = condition(model, params, reference, skeletons, None, condition_key)
        return model.latents(posterior, encode_key), told

    cells, visible = (
        np.stack(leaves)[:, made]
        for leaves in zip(*(keypoints.cells(clip.pose, (height, width)) for clip in clips))
    )
    nothing = jnp.zeros((*visible.shape, 1))
    occupied = gather.scatter(nothing, cells, visible, (height // CELL, width // CELL))[1]
    return Trial(*make(params, joined), joined["share"][:, made], occupied)


def loss(model: Model, train, params: Params, told: Conditioning, on: Trial, key: Array) -> Array:
    """Mean error inside the figures, at random levels."""
    level_key, noise_key = jax.random.split(key)
    level = noise_levels(train, level_key, len(on.clean))
    noise = jax.random.normal(noise_key, on.clean.shape)
    schedule, wide = model.schedule, level.reshape(-1, 1, 1, 1, 1)
    seen = schedule.scale_input(schedule.noised(on.clean, noise, wide), wide)
    output = model.denoise(params, seen, schedule.time(level), told)
    error = jnp.square(output - schedule.target(on.clean, noise, wide)) * schedule.weight(wide)
    return (error.mean(-1) * on.share).sum() / on.share.sum()


def after_each_level(told: Conditioning, on: Trial, channels: tuple[int, ...]) -> tuple:
    """(zeros to be learnt, what they make of a conditioning): the paper's place."""
    b, f, h, w = on.occupied.shape
    shapes = [(h * CELL // s, w * CELL // s) for s in strides(len(channels))]
    numbers = tuple(jnp.zeros((b, f, *size, c)) for size, c in zip(shapes, channels))

    def covered(size: tuple[int, int]) -> Array:
        cells = on.occupied.reshape(b, f, size[0], h // size[0], size[1], w // size[1])
        return cells.any((3, 5))[..., None]

    def tell(numbers: tuple) -> Conditioning:
        maps = zip(numbers, shapes)
        return told.replace(points=tuple(x * covered(size) for x, size in maps))

    return numbers, tell


def before_the_first(
    told: Conditioning, on: Trial, channels: tuple[int, ...], *, times: int
) -> tuple:
    """The same after the input convolution; a number for times x times latents."""
    size = on.clean.shape[2:4]
    numbers = jnp.zeros((*on.clean.shape[:2], *(side // times for side in size), channels[0]))
    covered = enlarged(on.occupied[..., None], size, 2)
    tell = lambda x: told.replace(
        pose_features=told.pose_features + enlarged(x, size, times) * covered
    )
    return numbers, tell


PLACES: dict[str, Callable] = {
    "after each level, as in the paper": after_each_level,
    "after the input convolution, one for each cell of 16 pixels": partial(
        before_the_first, times=2
    ),
    "after the input convolution, one for each latent": partial(before_the_first, times=1),
}


def measure(model: Model, train, params: Params, on: Trial, steps: int) -> Iterator[tuple]:
    """(what is told, numbers in a frame, loss) of the base told all, of it without what guidance
    takes away, and with numbers learnt at each place."""
    value = partial(loss, model, train)
    some = jax.random.split(jax.random.key(1), MEASURES)
    mean = jax.jit(
        lambda params, told, on: jax.lax.map(lambda key: value(params, told, on, key), some).mean()
    )
    yield "all", 0, float(mean(params, on.told, on))
    less = model.unconditional(on.told, jnp.ones(len(on.clean), bool))
    yield "nothing that guidance takes away", 0, float(mean(params, less, on))
    optimizer = optax.adam(RATE)
    for name, place in PLACES.items():
        numbers, tell = place(less, on, tuple(model.unet.channels))

        @jax.jit
        def step(numbers, state, params, on, key, tell=tell):
            gradient = jax.grad(lambda n: value(params, tell(n), on, key))(numbers)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(numbers, updates), state

        state, keys = optimizer.init(numbers), jax.random.split(jax.random.key(2), steps)
        for key in keys:
            numbers, state = step(numbers, state, params, on, key)
        # Where a joint's cells are not, the gradient is zero and so is the number.
        used = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(numbers))
        yield name, used / on.clean[..., 0, 0, 0].size, float(mean(params, tell(numbers), on))


def open_base(name: str, given: tuple[str, ...] | None, clips: int) -> tuple:
    """(config, model, params) of a base alone, whose U-Net takes points. Raises ValueError or
    OSError for what cannot be measured."""
    config = settings.load(name)
    config.control.update(common.control("base"))
    run.check(config, clips)
    built = networks.build(config, networks.compute_dtype(config.sample.dtype))
    params = Weights(choose(given, config), built, config).load(built)
    model = registry.build(config, built)
    points = PointEncoder(tuple(model.unet.channels), levels="paper")  # says what its maps mean
    control = replace(model.control, points_into="unet", point_encoder=points)
    return config, replace(model, control=control), params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/sd15.py:size=small")
    parser.add_argument("--weights", help="bundles with commas, a later one overriding others")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=1, help="of a clip after its reference")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args(settings.at_home())
    given = tuple(args.weights.split(",")) if args.weights else None
    if args.frames < 1 or args.steps < 1:
        sys.exit(f"--frames {args.frames} --steps {args.steps}: expected 1 or more")
    try:
        config, model, params = open_base(args.config, given, args.clips)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    clips = drawn_clips.draw(config, args.clips, args.frames + 1)["same"]
    on = trial(model, params, clips, jax.random.key(config.seed))
    print("| the base is told | free numbers in a frame | loss inside the figure |\n|---|---|---|")
    start = time.time()
    for name, numbers, left in measure(model, config.train, params, on, args.steps):
        print(f"| {name} | {numbers:.0f} | {left:.3f} |", flush=True)
    seconds = time.time() - start
    print(f"{args.clips} clips of {args.frames} frames, {args.steps} steps, {seconds:.0f} s")


if __name__ == "__main__":
    main()
