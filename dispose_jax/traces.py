"""The programs of a sampling run as traces: of shapes alone, nothing is read, computed or compiled.

What they need is counted by flops.py and told by dry_run.py. Parameters are shapes too, as
models/networks.py gives them; sizes are (height, width) in pixels.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from dispose_jax import control_signals
from dispose_jax.control_signals import Recipe, Trajectories
from dispose_jax.correspondence import dift
from dispose_jax.diffusion import guidance
from dispose_jax.models.protocol import Model, condition
from dispose_jax.networks.cmp import CMP, ImageFeatures
from dispose_jax.pose.people import NUM_BODY
from dispose_jax.types import Conditioning, ControlSignals, Impulses, Params

_struct = jax.ShapeDtypeStruct


def is_guided(config) -> bool:
    """Whether every window is denoised twice, with and without its conditions."""
    return bool((guidance.scales(config.sample.guidance_scale, 2) != 1).any())


def signal_shapes(config, f: int, height: int, width: int) -> ControlSignals | None:
    """Shapes of what control_signals.for_sampling gives; None for the base model alone."""
    motion, points = config.control.motion, config.control.points
    if not motion and not points:
        return None
    flow = _struct((1, f, height, width, 2), jnp.float32)
    features = _struct((1, NUM_BODY, config.model.dift.channels[-2]), jnp.float32)
    return ControlSignals(
        sparse_flow=flow,
        dense_flow=flow if "dense" in motion else None,
        cells=_struct((1, f, NUM_BODY, 2), jnp.int32),
        visible=_struct((1, f, NUM_BODY), jnp.bool_),
        point_features=features if points else None,
    )


def conditioning(
    model: Model,
    params: Params,
    signals: ControlSignals | None,
    f: int,
    height: int,
    width: int,
) -> tuple[Jaxpr, Conditioning]:
    """All that no step changes, of a whole clip of f frames: the trace, and shapes of the result.

    signals: what `signal_shapes` gives.
    """
    pictures = [_struct((1, *shape, height, width, 3), jnp.float32) for shape in ((), (f,))]
    trace = jax.make_jaxpr(partial(condition, model), return_shape=True)
    made, shapes = trace(params, *pictures, signals, _key())
    return made.jaxpr, shapes


def reference(model: Model, params: Params, size: tuple[int, int]) -> Jaxpr:
    """What the reference alone decides."""
    picture = _struct((1, *size, 3), jnp.float32)
    return _jaxpr(model.condition_reference, params, picture, _key())


def diffusion_features(recipe: Recipe, params: Params, size: tuple[int, int]) -> Jaxpr | None:
    """Diffusion features of the reference; None without DIFT."""
    if recipe.dift is None:
        return None
    picture = _struct((*size, 3), jnp.float32)
    return _jaxpr(partial(dift.features, recipe.dift), params, picture, _key())


def completion(recipe: Recipe, params: Params) -> tuple[Jaxpr, Jaxpr] | None:
    """What CMP computes of the reference, and of each frame; None without CMP."""
    if recipe.cmp is None:
        return None
    encode = jax.make_jaxpr(partial(_encode_picture, recipe), return_shape=True)
    picture, features = encode(params, _square(recipe, 3))
    field = _square(recipe, 2), _square(recipe)
    complete = lambda p, *given: recipe.cmp.apply({"params": p["cmp"]}, *given, method=CMP.complete)
    return picture.jaxpr, _jaxpr(complete, params, features, *field)


def frames(
    model: Model,
    recipe: Recipe,
    params: Params,
    signals: ControlSignals | None,
    size: tuple[int, int],
) -> Jaxpr:
    """A chunk of frames: the fields, and the encoders of skeletons, fields and points."""
    chunk = recipe.chunk
    skeletons = _struct((1, chunk, *size, 3), jnp.float32)
    if signals is None:
        return _jaxpr(lambda p, x: model.condition_frames(p, x, None), params, skeletons)
    joints = np.zeros((1, chunk, NUM_BODY))
    impulses = Impulses(np.zeros((*joints.shape, 2), int), joints[..., None] + [0, 0], joints > 0)
    paths = Trajectories(impulses, impulses, impulses.pixels, joints > 0, joints[..., 0] > 0)
    picture = None
    if recipe.cmp is not None:
        picture = jax.eval_shape(partial(_encode_picture, recipe), params, _square(recipe, 3))

    def call(params, picture, points, skeletons):
        made = control_signals.of_frames(recipe, size, params, picture, points, paths)
        return model.condition_frames(params, skeletons, made)

    return _jaxpr(call, params, picture, signals.point_features, skeletons)


def denoising(
    model: Model,
    params: Params,
    conditioning: Conditioning,
    latents: jax.ShapeDtypeStruct,
    rows: int,
    window: int,
    *,
    finest: bool = False,
) -> Jaxpr:
    """A call of model.denoise on `rows` windows of `window` frames.

    conditioning and latents (1, f, h/8, w/8, c) of the whole clip. finest: of a call that takes the
    deep features of another one.
    """

    def call(params, conditioning, latents):
        one = conditioning.at(np.arange(window))
        many = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), model.hoist(params, one))
        x = jnp.zeros((rows, window, *latents.shape[2:]))
        return params, x, jnp.zeros(rows), many

    arguments = jax.eval_shape(call, params, conditioning, latents)
    if not finest:
        return _jaxpr(model.denoise, *arguments)
    _, deep = jax.eval_shape(partial(model.denoise, keep=True), *arguments)
    with_deep = lambda params, x, t, rows, deep: model.denoise(params, x, t, rows, deep=deep)
    return _jaxpr(with_deep, *arguments, deep)


def decoded(model: Model, params: Params, latents: jax.ShapeDtypeStruct, count: int) -> Jaxpr:
    """So many frames of the clip's latents (1, f, h/8, w/8, c), decoded together."""
    part = _struct((1, count, *latents.shape[2:]), latents.dtype)
    return _jaxpr(model.decode, params, part)


def _encode_picture(recipe: Recipe, params: Params, picture) -> ImageFeatures:
    return recipe.cmp.apply({"params": params["cmp"]}, picture, method=CMP.encode_image)


def _square(recipe: Recipe, *channels: int) -> jax.ShapeDtypeStruct:
    """What CMP sees."""
    return _struct((1, recipe.cmp_size, recipe.cmp_size, *channels), jnp.float32)


def _jaxpr(function, *arguments) -> Jaxpr:
    return jax.make_jaxpr(function)(*arguments).jaxpr


def _key():
    return jax.eval_shape(lambda: jax.random.key(0))
