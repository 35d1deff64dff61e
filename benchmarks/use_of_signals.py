"""Whether a trained DisPose reads its signals, and whether its base would need them.

  python -m benchmarks.use_of_signals                                          # the bundled model
  python -m benchmarks.use_of_signals --config configs/sd15.py:size=small --weights BASE,RUN/bundle

The training loss inside the figure of drawn clips that no training saw, with the same noise for all
that is compared: far more sensitive than sampled videos, and it asks for one call of the networks.
First each signal is spoilt: if it is used, the loss rises. Then the base's own inputs are: a
skeleton without forearms and shins leaves room for motion, a blurred reference for points. If
DisPose gains no more there, what it knows is not in its signals or was not learnt from them.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageFilter

from configs import common
from dispose_jax import control_signals, settings
from dispose_jax.evaluation import statistics
from dispose_jax.evaluation.ablation import clips as drawn_clips
from dispose_jax.evaluation.ablation import run
from dispose_jax.evaluation.ablation.clips import TrialClip
from dispose_jax.evaluation.ablation.variants import BASE, FULL, Arm, shuffle
from dispose_jax.models.protocol import Model, condition, generated_frames
from dispose_jax.ops.levels import to_float
from dispose_jax.pose import draw
from dispose_jax.training.losses.video import noise_levels
from dispose_jax.types import Array, ControlSignals, Params
from dispose_jax.weights import choose

LEVELS = (1 / 6, 1 / 2, 5 / 6)  # shares of training's noise levels that are below
DRAWS = 4096  # of levels, to know those
OUTER_JOINTS = (4, 7, 10, 13)  # wrists and ankles
BLUR = 1 / 16  # deviation as a share of the picture's side
FIELDS = ("sparse_flow", "dense_flow", "point_features")  # of the signals, what is no index
UNITS = 1e4  # tables are in parts of 10,000
SPOILT = {
    "another joint's features": lambda own, other, rng: shuffle(own, rng),
    "no points": lambda own, other, rng: own.replace(visible=jnp.zeros_like(own.visible)),
    "another clip's flow": lambda own, other, rng: own.replace(
        sparse_flow=other.sparse_flow, dense_flow=other.dense_flow
    ),
    "no flow": lambda own, other, rng: own.replace(
        sparse_flow=jnp.zeros_like(own.sparse_flow), dense_flow=jnp.zeros_like(own.dense_flow)
    ),
}


def thinned(clip: TrialClip, skeleton) -> TrialClip:
    """The skeletons without forearms and shins."""
    style = replace(draw.style_of(skeleton), hidden=OUTER_JOINTS)
    size = clip.reference.shape[:2]
    return clip._replace(skeletons=draw.draw(clip.pose, *size, canvas=skeleton.canvas, style=style))


def blurred(clip: TrialClip, skeleton) -> TrialClip:
    """The reference as the base sees it blurred: large colours stay, limbs and patterns go."""
    picture = Image.fromarray(clip.reference)
    blur = ImageFilter.GaussianBlur(BLUR * min(picture.size))
    return clip._replace(reference=np.asarray(picture.filter(blur)))


# What the base is given: {name: clip, config.skeleton -> clip}. Signals are of the clip itself.
GIVEN: dict[str, Callable] = {
    "all": lambda clip, skeleton: clip,
    "skeletons without forearms and shins": thinned,
    "a blurred reference": blurred,
}


@partial(jax.jit, static_argnums=0)
def losses(
    model: Model,
    params: Params,
    clip: dict[str, Array],
    signals: ControlSignals | None,
    levels: Array,
    key: Array,
) -> Array:
    """Loss inside the figure at each level, (n,).

    clip: reference, true frames (f, h, w, 3) uint8 the unspoilt reference first, skeletons, and the
    share of every latent that the figure covers (f, h/8, w/8).
    """
    encode_key, condition_key, noise_key = jax.random.split(key, 3)
    made = slice(generated_frames(model, len(clip["frames"])).start, None)
    posterior = model.encode(params, to_float(clip["frames"][None, made]))
    clean = model.latents(posterior, encode_key)
    reference, skeletons = (to_float(clip[name])[None] for name in ("reference", "skeletons"))
    told = condition(model, params, reference, skeletons, signals, condition_key)
    many = lambda tree: jax.tree.map(lambda x: jnp.repeat(x, len(levels), 0), tree)
    clean, told, wide = many(clean), many(told), levels.reshape(-1, 1, 1, 1, 1)
    noise = jax.random.normal(noise_key, clean.shape)
    seen = model.schedule.scale_input(model.schedule.noised(clean, noise, wide), wide)
    output = model.denoise(params, seen, model.schedule.time(levels), told)
    error = jnp.square(output - model.schedule.target(clean, noise, wide))
    error = (error * model.schedule.weight(wide)).mean(-1)
    share = clip["share"][made]
    return (error * share).sum((1, 2, 3)) / share.sum()


def inputs(clip: TrialClip, given: TrialClip) -> dict[str, np.ndarray]:
    """What `losses` is told of a clip, of which the base sees what is given."""
    mask = np.concatenate([np.zeros_like(clip.truth.mask[:1]), clip.truth.mask])
    f, h, w = mask.shape
    return {
        "reference": given.reference,
        "skeletons": given.skeletons,
        "frames": np.concatenate([clip.reference[None], clip.truth.frames]),
        "share": mask.reshape(f, h // 8, 8, w // 8, 8).mean((2, 4), dtype=np.float32),
    }


class Trial(NamedTuple):
    """What everything is measured on: the same clips, levels and noise."""

    clips: list[TrialClip]
    signals: list[ControlSignals]
    levels: Array  # (n,) of the schedule
    keys: list[Array]  # of each clip's noise

    @classmethod
    def of(cls, full: Arm, count: int) -> Trial:
        """So many held-out clips, with the signals that the whole model makes of them."""
        config, params = full.config, full.weights.load(full.recipe.networks)
        clips = drawn_clips.draw(config, count, full.frames)["same"]
        level_key, signal_key, noise_key = jax.random.split(jax.random.key(config.seed), 3)
        levels = jnp.quantile(noise_levels(config.train, level_key, DRAWS), jnp.array(LEVELS))
        keys = lambda key: [jax.random.fold_in(key, i) for i in range(count)]
        make = partial(control_signals.for_sampling, full.recipe, params)
        signals = [make(c.reference, c.pose, key) for c, key in zip(clips, keys(signal_key))]
        return cls(clips, signals, levels, keys(noise_key))


def measure(trial: Trial, base: Arm, full: Arm) -> Iterator[tuple[str, str, np.ndarray]]:
    """(what the base is given, signals, losses of all clips (clips,)), means over the levels."""
    params = {arm: arm.weights.load(arm.networks) for arm in (base, full)}
    own, others = trial.signals, trial.signals[1:] + trial.signals[:1]
    for given, spoil in GIVEN.items():
        told = [inputs(clip, spoil(clip, full.config.skeleton)) for clip in trial.clips]

        def of(arm: Arm, signals: list, told=told) -> np.ndarray:
            every = zip(told, signals, trial.keys, strict=True)
            one = partial(losses, arm.model, params[arm])
            return np.mean([one(t, s, trial.levels, key) for t, s, key in every], axis=1)

        yield given, BASE, of(base, [None] * len(own))
        yield given, FULL, of(full, own)
        for name, change in SPOILT.items():
            rngs = [np.random.default_rng([full.config.seed, i]) for i in range(len(own))]
            yield given, name, of(full, [change(*each) for each in zip(own, others, rngs)])


def slopes(trial: Trial, full: Arm) -> dict[str, float]:
    """How much the loss would change, to first order, if a signal vanished: the mean over clips of
    |gradient| |signal| / loss, for each signal."""
    params = full.weights.load(full.networks)

    def value(floats: dict, signals: ControlSignals, told: dict, key: Array) -> Array:
        whole = signals.replace(**floats)
        return losses(full.model, params, told, whole, trial.levels, key).mean()

    of = jax.jit(jax.value_and_grad(value))
    found: dict[str, list[float]] = {name: [] for name in FIELDS}
    for clip, signals, key in zip(*trial[:2], trial.keys):
        floats = {name: getattr(signals, name) for name in FIELDS}
        loss, gradient = of(floats, signals, inputs(clip, clip), key)
        for name in FIELDS:
            size = np.linalg.norm(gradient[name]) * np.linalg.norm(floats[name])
            found[name].append(float(size / loss))
    return {name: float(np.mean(sizes)) for name, sizes in found.items()}


def table(found: dict[str, dict[str, np.ndarray]]) -> Iterator[str]:
    """Lines of Markdown: the losses, and what every other column has more than `full`."""
    columns = [BASE, *SPOILT]
    yield "| the base is given | full: loss | " + " | ".join(f"{c}: more" for c in columns) + " |"
    yield "|---|---|" + "---|" * len(columns)
    for given, row in found.items():
        cells = [f"{row[FULL].mean():.4f}"]
        for name in columns:
            difference = statistics.bootstrap(statistics.paired(row[name][None], row[FULL][None]))
            mean, low, high = (UNITS * x for x in difference[:3])
            cells.append(f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
        yield f"| {given} | " + " | ".join(cells) + " |"


def open_arms(config: str, weights: tuple[str, ...] | None, clips: int) -> tuple[Arm, Arm]:
    """The base and the whole. Raises ValueError or OSError for what cannot be measured."""
    loaded = settings.load(config)
    run.check(loaded, clips)
    given = choose(weights, loaded)
    arms = []
    for variant in (BASE, FULL):
        own = copy.deepcopy(loaded)
        own.control.update(common.control(variant))
        arms.append(Arm(variant, own, given))
    return arms[0], arms[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/svd.py:size=small")
    folders = lambda text: tuple(text.split(","))
    parser.add_argument("--weights", type=folders, help="bundles, a later one overriding others")
    parser.add_argument("--clips", type=int, default=48)
    args = parser.parse_args(settings.at_home())
    try:
        arms = open_arms(args.config, args.weights, args.clips)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    trial = Trial.of(arms[1], args.clips)
    found: dict[str, dict[str, np.ndarray]] = {}
    for given, name, each in measure(trial, *arms):
        found.setdefault(given, {})[name] = each
    print("\n".join(table(found)))
    print(f"{args.clips} clips; parts of 10,000, 95 % intervals over clips")
    for name, size in slopes(trial, arms[1]).items():
        print(f"{name}: |gradient| |signal| / loss = {size:.4f}")


if __name__ == "__main__":
    main()
