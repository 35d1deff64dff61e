"""What a base model and DisPose minimise: the error of the network's output on noised clips.

One noise level per clip, drawn as the config says; what is predicted and how much it weighs is the
model's schedule's. Conditions are dropped at random so that guidance has meaning. On SVD this is
EDM's loss (Karras et al. 2022), as SVD_Xtend, MOFA-Video and ControlNeXt train; on Stable Diffusion
MusePose's v-prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from dispose_jax import control_signals
from dispose_jax.diffusion import schedules
from dispose_jax.models.control_path import map_frames
from dispose_jax.models.protocol import Model, condition, generated_frames
from dispose_jax.ops.levels import to_float
from dispose_jax.types import Array, Batch, Conditioning, ControlSignals, Params


@dataclass(frozen=True)
class VideoLoss:
    """loss(params, batch, key) -> (value, scalars) of a model.

    Paper eq. 2 states diffusion's general form of it, the error of the noise; a frozen base needs
    its own target and weight, which are those of `model.schedule`.

    recipe: how control signals are made, None for the base model alone. train: `config.train`,
    frozen. share: what shares the generated frames, leaves (b, f, ..), out over devices.
    """

    model: Model
    recipe: control_signals.Recipe | None
    train: FrozenConfigDict
    share: Callable = lambda tree: tree

    def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        model, train = self.model, self.train
        keys = jax.random.split(key, 6)
        clean = self.latents(params, batch, keys[0])
        _, conditioning = self.condition(params, batch, keys[1])
        conditioning = drop(model, conditioning, keys[2], train.dropout, train.drop_rate)
        schedule, each = model.schedule, (-1, 1, 1, 1, 1)
        level = noise_levels(train, keys[3], len(clean))
        noise = jax.random.normal(keys[4], clean.shape)
        if train.noise_offset:
            shape = (len(clean), 1, 1, 1, clean.shape[-1])
            noise = noise + train.noise_offset * jax.random.normal(keys[5], shape)
        wide = level.reshape(each)
        seen = schedule.scale_input(schedule.noised(clean, noise, wide), wide)
        output = model.denoise(params, seen, schedule.time(level), conditioning)
        error = jnp.square(output.astype(jnp.float32) - schedule.target(clean, noise, wide))
        return self.mean(error * schedule.weight(wide), batch.region), {}

    def mean(self, error: Array, region: Array | None) -> Array:
        """Mean of (b, f, h, w, c), weighed by the region (b, f, h, w) if there is one.

        Frames are those that the model generates; the region always has the reference's too.
        """
        if region is not None:
            error = error * region[:, -error.shape[1] :, ..., None]
        has_reference = self.model.generates_reference
        return (error[:, 1:] if self.train.skip_reference and has_reference else error).mean()

    def latents(self, params: Params, batch: Batch, key: Array) -> Array:
        """The generated frames as they are diffused, (b, f, h/8, w/8, c) float32; nothing here
        learns."""
        made = slice(generated_frames(self.model, batch.skeletons.shape[1]).start, None)
        if batch.posterior is None:
            encode = lambda frames: self.model.encode(params, to_float(frames))
            frames = self.share(batch.frames[:, made])
            posterior = map_frames(encode, frames, self.train.encode_chunk)
        else:
            posterior = self.share(batch.posterior[:, made])
        return jax.lax.stop_gradient(self.model.latents(posterior, key))

    def condition(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[ControlSignals | None, Conditioning]:
        """The clips' control signals, and all that the model is told of them."""
        signal_key, condition_key = jax.random.split(key)
        reference = to_float(batch.frames[:, 0])
        signals = None
        if self.recipe is not None:
            signals = control_signals.for_training(
                self.recipe,
                params,
                batch,
                reference,
                signal_key,
                point_drop_rate=self.train.point_drop_rate,
            )
        skeletons = to_float(batch.skeletons)
        conditioning = condition(
            self.model, params, reference, skeletons, signals, condition_key, self.share
        )
        return signals, conditioning


def noise_levels(train, key: Array, count: int) -> Array:
    """One level of the schedule per clip, (count,), of the distribution that `config.train`
    names."""
    draw: dict[str, Callable] = {
        "lognormal": partial(
            schedules.lognormal_sigmas, mean=train.sigma_mean, std=train.sigma_std
        ),
        "cosine": schedules.cosine_sigmas,
        "times": schedules.uniform_times,
    }
    return draw[train.sigmas](key, count)


def drop(
    model: Model, conditioning: Conditioning, key: Array, kind: str, rate: float
) -> Conditioning:
    """Conditions dropped at random, clip by clip, so that guidance can leave them out.

    "joint": all that sampling's unconditional half lacks, together, with probability rate.
    "svd_xtend": context and image latents each alone and both together, with probability rate each;
    the skeleton always stays (SVD_Xtend, MOFA-Video, ControlNeXt). Raises ValueError for
    "svd_xtend" if the model has no image latents.
    """
    chance = jax.random.uniform(key, (len(conditioning.context),))
    if kind == "joint":
        return model.unconditional(conditioning, chance < rate)
    if conditioning.image_latents is None:
        raise ValueError(
            f"train.dropout is {kind!r}, which drops latents of the reference beside those of "
            "every frame; this base has none: use 'joint'"
        )
    without_context = model.unconditional(conditioning, chance < 2 * rate)
    without_image = model.unconditional(conditioning, (chance >= rate) & (chance < 3 * rate))
    return conditioning.replace(
        context=without_context.context, image_latents=without_image.image_latents
    )
