"""What is compared: variants of the model with their weights, and the same with wrong inputs.

An arm samples clips as sample.py does, with the same public functions. Its controls give it
something that must not help: another joint's features, another clip's motion, skeletons or
reference. If a signal is used, they fall behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import prod

import jax
import numpy as np

from dispose_jax import control_signals, decoding, sampling
from dispose_jax.evaluation.ablation.clips import TrialClip
from dispose_jax.models import networks, registry
from dispose_jax.ops.levels import to_float
from dispose_jax.types import ControlSignals, Params
from dispose_jax.weights import RANDOM, Weights, offered

BASE, FULL = "base", "full"
SHUFFLED = "full, shuffled point features"
OTHER_FLOW = "full, another clip's flow"
OTHER_POSES = "base, another clip's poses"
OTHER_REFERENCE = "base, another clip's reference"
CONTROLS = {FULL: (SHUFFLED, OTHER_FLOW), BASE: (OTHER_POSES, OTHER_REFERENCE)}

# Which stage of the small world (docs/training.md) makes a network.
STAGES = {
    "vae": ("vae", "dift_vae"),
    "cmp": ("cmp",),
    "image": ("dift_unet", "dift_text_encoder"),
    "base": ("unet", "reference", "pose_encoder", "image_encoder"),
    "motion": ("motion_modules",),
    "dispose": ("controlnet", "motion_encoder", "point_encoder"),
}
_SIGNALS, _CONDITION, _LATENTS = range(3)  # purposes of a clip's key


def parse(texts: Sequence[str], variants: Collection[str]) -> list[tuple[str, str | None]]:
    """`--arms` -> (variant, bundle or None) each: every text is VARIANT[=BUNDLE],...

    A variant that comes again is another training seed of it. Raises ValueError for anything else.
    """
    found = []
    for text in texts:
        for part in text.split(","):
            variant, equals, folder = part.partition("=")
            if variant not in variants:
                raise ValueError(
                    f"--arms {text}: {variant!r} is no variant; expected VARIANT or "
                    f"VARIANT=BUNDLE, a variant being one of {', '.join(variants)}"
                )
            if equals and not folder:
                raise ValueError(f"--arms {text}: no folder after {part!r}; name a bundle")
            if (variant, folder or None) in found:
                raise ValueError(
                    f"--arms: {part!r} comes twice; a second seed needs a bundle of its own"
                )
            found.append((variant, folder or None))
    if not found:
        raise ValueError(
            "--arms is missing: name what to compare, such as --arms base --arms "
            "full=runs/full1/bundle; or videos to measure with --fake FOLDER"
        )
    return found


def check_own(flag: str, variant: str, folder: str, config, built: Collection[str]) -> None:
    """Raise ValueError unless a bundle that a flag names for a variant can come from its training.

    config: the variant's own; built: names of its networks. Else networks that were trained with
    other signals would stand for it, or the bundle would change nothing.
    """
    held = offered([folder], config)
    learnt = [name for name in STAGES["dispose"] if name in held]
    # The base is the same in the bundle of any variant.
    foreign = [] if variant == BASE else [name for name in learnt if name not in built]
    if foreign or not held & {*built}:
        raise ValueError(
            f"{flag} {variant}={folder}: that bundle is of another variant or base, as it holds "
            f"{', '.join(foreign or sorted(held) or ['nothing of use here'])}; name one that was "
            f"trained with variant={variant}"
        )


def check_bundles(arms: Sequence[Arm], own: Sequence[str | None]) -> None:
    """Raise ValueError unless each arm's own bundle, where it has one, is of its variant, and arms
    of one variant have different weights: one training that stands for several seeds agrees with
    itself."""
    known: dict[tuple, str] = {}
    for arm, folder in zip(arms, own):
        if folder is not None:
            check_own("--arms", arm.variant, folder, arm.config, arm.networks)
        name = arm.variant if folder is None else f"{arm.variant}={folder}"
        weights = arm.variant, *sorted(arm.weights.digests.items())
        if weights in known:
            raise ValueError(
                f"--arms {known[weights]} and {name} have the same weights, which are no two "
                "training seeds; name bundles of two trainings"
            )
        known[weights] = name


class Arm:
    """A variant with weights.

    config: its own, `control` that of the variant. given: bundles, a later one overriding an
    earlier one; RANDOM first if what they lack may be random. frames: of a clip, the reference
    included. Raises ValueError for what no bundle holds.
    """

    def __init__(self, variant: str, config, given: Sequence[str]):
        self.variant, self.config, self.given = variant, config, tuple(given)
        built = networks.build(config, networks.compute_dtype(config.sample.dtype))
        self.networks = built
        _check_held(variant, given, config, built)
        self.model = registry.build(config, built)
        self.recipe = control_signals.build(config, built)
        self.weights = Weights(given, built, config)
        sample = config.sample
        # One window is generated; where that leaves out the reference, the clip has a frame more.
        self.frames = sample.window + (not self.model.generates_reference)
        self.sampler = replace(sampling.Sampler.of(sample), overlap=0)
        sampling.check(self.model, self.frames, self.sampler)

    @property
    def parameters(self) -> dict[str, int]:
        """How many numbers each network has."""
        leaves = {name: jax.tree.leaves(net.shapes) for name, net in self.networks.items()}
        return {name: sum(prod(leaf.shape) for leaf in found) for name, found in leaves.items()}

    @property
    def added(self) -> int:
        """How many numbers DisPose adds to the base."""
        return sum(self.parameters.get(name, 0) for name in STAGES["dispose"])

    def sample(self, clips: Sequence[TrialClip]) -> Iterator[tuple[str, int, np.ndarray]]:
        """(row, clip number, frames (f - 1, h, w, 3) uint8) of the arm and its controls.

        Noise depends on the config's seed and the clip alone, so it is the same for every arm.
        Raises ValueError for numbers that are not finite.
        """
        params = self.weights.load(self.networks)
        signals = lru_cache(maxsize=2)(lambda i: self._signals(params, clips[i], i))
        for i, clip in enumerate(clips):
            other = (i + 1) % len(clips)
            yield self.variant, i, self._frames(params, clip, signals(i), i)
            if self.variant == FULL:
                shuffled = shuffle(signals(i), np.random.default_rng([self.config.seed, i]))
                yield SHUFFLED, i, self._frames(params, clip, shuffled, i)
                moved = signals(i).replace(
                    sparse_flow=signals(other).sparse_flow, dense_flow=signals(other).dense_flow
                )
                yield OTHER_FLOW, i, self._frames(params, clip, moved, i)
            if self.variant == BASE:
                wrong = clip._replace(skeletons=clips[other].skeletons)
                yield OTHER_POSES, i, self._frames(params, wrong, None, i)
                wrong = clip._replace(reference=clips[other].reference)
                yield OTHER_REFERENCE, i, self._frames(params, wrong, None, i)

    def through_codec(self, clips: Sequence[TrialClip]) -> Iterator[np.ndarray]:
        """The true frames through the autoencoder alone: what a perfect model would give."""
        params = self.weights.load(["vae"])
        for i, clip in enumerate(clips):
            frames = clip.truth.frames
            if self.model.generates_reference:
                frames = np.concatenate([clip.reference[None], frames])
            frames = frames[None]
            latents = _encode(self.model, params, frames, self._key(i, _LATENTS))
            yield self._decode(params, latents)

    def _signals(self, params: Params, clip: TrialClip, i: int) -> ControlSignals | None:
        if self.variant == BASE:
            return None
        key = self._key(i, _SIGNALS)
        return control_signals.for_sampling(self.recipe, params, clip.reference, clip.pose, key)

    def _frames(
        self, params: Params, clip: TrialClip, signals: ControlSignals | None, i: int
    ) -> np.ndarray:
        """A clip sampled, (f - 1, h, w, 3) uint8. Raises ValueError for numbers that are not
        finite."""
        model = self.model
        # A clip is one window: more devices would have nothing to do.
        devices = jax.local_devices()[:1]
        conditioning = sampling.condition(
            model,
            params,
            clip.reference,
            clip.skeletons,
            signals,
            self._key(i, _CONDITION),
            devices=devices,
        )
        count, shape = len(clip.skeletons), model.latent_shape(*clip.reference.shape[:2])
        noise = sampling.initial_noise(model, self._key(i, _LATENTS), count, shape, count)
        latents = sampling.sample(model, params, conditioning, noise, self.sampler, devices=devices)
        if not np.isfinite(latents).all():
            raise ValueError(
                f"arm {self.variant}: sampling clip {i} gave numbers that are not finite; try "
                "--config.sample.dtype=float32, and look at the training's metrics"
            )
        return self._decode(params, latents)

    def _decode(self, params: Params, latents) -> np.ndarray:
        chunk, rest = self.config.sample.decode_chunk, self.config.sample.decode_rest
        latents, devices = np.asarray(latents), jax.local_devices()[:1]
        parts = decoding.decode(self.model, params, latents, chunk, rest=rest, devices=devices)
        return np.concatenate(list(parts))

    def _key(self, clip: int, purpose: int):
        return jax.random.fold_in(
            jax.random.fold_in(jax.random.key(self.config.seed), purpose), clip
        )


def shuffle(signals: ControlSignals, rng: np.random.Generator) -> ControlSignals:
    """Every joint gets the features of another one."""
    joints = signals.point_features.shape[1]
    order = rng.permutation(joints)
    source = np.empty(joints, int)
    source[order] = np.roll(order, 1)  # a cycle through all joints: none keeps its own
    return signals.replace(point_features=signals.point_features[:, source])


@partial(jax.jit, static_argnums=0)
def _encode(model, params: Params, frames, key):
    """Frames (1, f, h, w, 3) uint8 -> a draw of the latents that a model learns to make."""
    pictures = to_float(frames)
    return model.latents(model.encode(params, pictures), key)


def _check_held(variant: str, given: Sequence[str], config, built: Collection[str]) -> None:
    """Raise ValueError unless every network is in a bundle, or random ones are wanted."""
    if RANDOM in given:
        return
    held = offered(given, config)
    lacking = [
        f"stage={stage} makes {', '.join(missing)}"
        for stage, names in STAGES.items()
        if (missing := [name for name in names if name in built and name not in held])
    ]
    if lacking:
        raise ValueError(
            f"arm {variant}: its bundles ({', '.join(given) or 'none'}) lack networks: "
            f"{'; '.join(lacking)} (docs/training.md, The small world)"
        )
