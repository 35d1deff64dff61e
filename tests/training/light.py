"""A training run small enough to take steps of without compiling it whole.

The networks that DisPose trains and the U-Net are real (tests/small.py); those that only feed them
are stand-ins of a few operations.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dispose_jax.data import examples
from dispose_jax.models import networks
from dispose_jax.models.protocol import generated
from dispose_jax.networks.cmp import CMP
from dispose_jax.training import objectives, state
from dispose_jax.training.step import make_step
from dispose_jax.types import Batch, Params
from tests import small

B, F = 2, 3  # clips, frames
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
VARIANCE = 0.25  # of the autoencoder's posterior
FEATURES = 8  # of points, as in tests/small.py


def widen(x, channels: int):
    """The last axis repeated until it has so many channels."""
    return jnp.tile(x, -(-channels // x.shape[-1]))[..., :channels]


class Embed:
    """Stands for the image encoder."""

    def apply(self, _, pixels):
        return widen(pixels.mean((1, 2)), 8)


class Project:
    """Stands for PoseNet."""

    def apply(self, _, skeletons):
        return widen(skeletons[..., ::8, ::8, :], 8)


class Pool:
    """Stands for the autoencoder: latents are means over 8 x 8 pixels."""

    def apply(self, _, x, method):
        assert method == "encode"
        *rest, h, w, c = x.shape
        mean = widen(x.reshape(*rest, h // 8, 8, w // 8, 8, c).mean((-4, -2)), 4)
        return mean, jnp.full(mean.shape, jnp.log(VARIANCE))


class Repeat:
    """Stands for CMP: the flow is the guidance."""

    def apply(self, _, *inputs, method):
        return inputs[0] if method is CMP.encode_image else inputs[1]


def config(variant: str, base: str = "svd", **train):
    """A config of tests/small.py with a light training section."""
    quirks = {"time_context_order": "per_clip"} if base == "svd" else {}
    made = small.config(variant, base=base, **quirks)
    made.train.update(frames=F, batch=B, height=small.SIZE[0], width=small.SIZE[1], warmup=0)
    made.train.update(encode_chunk=2)
    made.train.trainable = tuple(
        name
        for name in ("controlnet", "motion_encoder", "point_encoder")
        if name in networks.build(made)
    )
    if variant == "base":
        made.train.trainable = ("unet",)
    made.train.update(train)
    return made


def run(variant: str, base: str = "svd", **train) -> SimpleNamespace:
    """config, networks, loss, and what it starts from: params of trainable networks, frozen."""
    made = config(variant, base, **train)
    built = networks.build(made, training=True)
    loss = objectives.build(made, built).loss
    stand_ins = {"vae": Pool(), "image_encoder": Embed(), "pose_encoder": Project()}
    recipe = loss.recipe and replace(loss.recipe, cmp=loss.recipe.cmp and Repeat())
    model = replace(loss.model, **stand_ins)
    frozen = dict.fromkeys((*stand_ins, "cmp", "dift_vae", "dift_unet", "dift_text_encoder"), {})
    denoisers = ("unet", "motion_modules", "reference")
    frozen |= networks.random({name: built[name] for name in denoisers if name in built}, seed=3)
    trainable = made.train.trainable
    params = {name: _started(name, built[name], frozen["unet"]) for name in trainable}
    return SimpleNamespace(
        config=made,
        networks=built,
        loss=replace(loss, model=model, recipe=recipe),
        params=params,
        frozen={name: tree for name, tree in frozen.items() if name not in trainable},
    )


def batch(config, clips: int = B) -> Batch:
    """Clips of noise pictures, each with a person of its own, for a config."""
    layout = examples.layout(config)
    rng = np.random.default_rng(0)
    made = [
        examples.make(
            layout,
            small.pictures(F, seed=i),
            small.pose(F, seed=i),
            point_features=rng.normal(size=(18, FEATURES)).astype(np.float32),
        )
        for i in range(clips)
    ]
    return examples.stack(made)


def everything(made: SimpleNamespace, params: Params | None = None) -> Params:
    return {**made.frozen, **(made.params if params is None else params)}


def steps(made: SimpleNamespace, batch: Batch, count: int) -> list[SimpleNamespace]:
    """What some steps of plain descent start from and give: params, gradient, and the loss."""
    descent = optax.chain(optax.trace(0.0), optax.scale(-1.0))  # its state is the gradient
    current = state.create(made.params, descent)
    key = jax.random.key(7)
    compiled = quick(make_step(made.loss, descent), current, made.frozen, batch, key)
    found = []
    for _ in range(count):
        before = current
        current, scalars = compiled(current, made.frozen, batch, key)
        found.append(
            SimpleNamespace(
                params=before.params,
                gradient=current.opt_state[0].trace,
                after=current.params,
                loss=float(scalars["loss"]),
            )
        )
    return found


def quick(function, *args):
    """The function compiled for these arguments without the optimisations that take longest."""
    return jax.jit(function).lower(*args).compile(compiler_options=QUICK)


def denoised(made: SimpleNamespace, params: Params, batch: Batch) -> np.ndarray:
    """The model's answer to noised clips that are conditioned as in training, block by block."""
    params = everything(made, params)
    _, conditioning = made.loss.condition(params, batch, jax.random.key(5))
    rng = np.random.default_rng(6)
    shape = (len(batch.frames), generated(made.loss.model, F), *small.LATENTS)
    x, t = rng.normal(size=shape).astype(np.float32), np.float32([0.4, -0.3])
    return np.asarray(small.eager(made.loss.model).denoise(params, x, t, conditioning))


def _started(name: str, network, unet: Params) -> Params:
    """Where training starts from; networks that variants have in common are initialised once."""
    key = name, network.module  # two networks may be parts of one module
    if key not in _KEPT:
        given = {} if name == "unet" else {"unet": unet}
        made = state.initial({name: network}, (name,), given, seed=1, copy_add_embedding=True)
        _KEPT[key] = made[name]
    return _KEPT[key]


_KEPT: dict = {}
