"""The inference driver: poses and a reference to frames, whatever the base model.

Three stages, each with its own networks so that weights can be dropped between them: `condition`
(once per clip), `sample` (steps x windows), `decode` (some frames at a time). Windows and the two
halves of guidance are one batch axis, spread over all devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dispose_jax.diffusion import guidance, windows
from dispose_jax.models.protocol import Model, generated
from dispose_jax.types import Array, Conditioning, ControlSignals, Params

Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Sampling:
    """Numbers of a sampling run, `config.sample` (configs/svd.py says what they mean)."""

    steps: int
    window: int
    overlap: int
    guidance_scale: float | tuple[float, float]
    window_batch: int = 1
    features_on_host: bool = False


def condition(
    model: Model,
    params: Params,
    reference: np.ndarray,
    skeletons: np.ndarray,
    signals: ControlSignals | None,
    key: Array,
) -> Conditioning:
    """What no step changes, for one clip: reference (h, w, 3), skeletons (f, h, w, 3), both
    uint8."""

    return _condition(model, params, reference[None], skeletons[None], signals, key)


def check(model: Model, num_frames: int, sampling: Sampling) -> None:
    """Raise ValueError for numbers that `sample` cannot work with, before any long work.

    num_frames: of the clip, the reference included.
    """
    made = generated(model, num_frames)
    model.windows(made, sampling.window, sampling.overlap)
    guidance.scales(sampling.guidance_scale, made)
    model.schedule.levels(sampling.steps)
    if sampling.window_batch < 1:
        raise ValueError(f"sample.window_batch is {sampling.window_batch}: expected 1 or more")


def initial_noise(
    model: Model, key: Array, num_frames: int, latent_shape: tuple[int, int, int], window: int
) -> Array:
    """Standard normal latents (1, f, h, w, c) of the frames that are generated; one window long
    and repeated where the model says so.

    num_frames: of the clip, the reference included; latent_shape: h, w, c of a frame.
    """
    made = generated(model, num_frames)
    length = min(window, made) if model.repeats_noise else made
    noise = jax.random.normal(key, (1, length, *latent_shape))
    return noise[:, np.arange(made) % length]


def sample(
    model: Model,
    params: Params,
    conditioning: Conditioning,
    noise: Array,
    sampling: Sampling,
    progress: Progress | None = None,
    inspect: Callable[[int, Array], None] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Array:
    """Denoise a clip: noise (1, f, h, w, c) -> latents of the same shape, float32.

    progress(done, steps) is called after every step, inspect(step, latents) too. devices: those
    that share the windows, all by default. Raises ValueError for impossible windows, steps or
    guidance.
    """
    num_frames = noise.shape[1]
    plan = model.windows(num_frames, sampling.window, sampling.overlap)
    scale = guidance.scales(sampling.guidance_scale, num_frames)
    halves = 2 if scale.max() > 1 else 1
    levels = model.schedule.levels(sampling.steps)
    total = windows.total_weight(plan, num_frames)

    devices = jax.devices() if devices is None else devices
    count = len(devices)
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    spread = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(params, whole)
    batches = list(_batches(plan, min(sampling.window_batch * count, _round_up(plan, count))))

    hoisted = jax.device_put(_hoist(model, halves, params, conditioning.shared), whole)
    if sampling.features_on_host:
        conditioning = conditioning.replace(**jax.device_get(conditioning.per_frame))

    x = jax.device_put(model.schedule.start(noise, levels), whole)
    zeros = np.zeros((halves, *noise.shape[1:]), np.float32)
    for step, (level, lower) in enumerate(levels):
        blend = jax.device_put(zeros, whole)
        for frames, weights in batches:
            rows = jax.device_put(_rows(conditioning, frames), spread)
            places = jax.device_put((frames, weights), spread)
            blend = _predict(model, halves, params, blend, x, *places, level, rows, hoisted)
        x = _finish(model.schedule, blend, x, total, scale, level, lower)
        if progress is not None:
            jax.block_until_ready(x)
            progress(step + 1, sampling.steps)
        if inspect is not None:
            inspect(step, x)
    return x


def guided(model: Model, conditioning: Conditioning, halves: int) -> Conditioning:
    """Rows for guidance: each becomes two adjacent ones, the unconditional one first."""
    if halves == 1:
        return conditioning
    rows = len(conditioning.context)
    twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), conditioning)
    return model.unconditional(twice, jnp.arange(2 * rows) % 2 == 0)


def decode(
    model: Model,
    params: Params,
    latents: Array,
    chunk: int,
    progress: Progress | None = None,
    *,
    rest: str = "short",
) -> Iterator[np.ndarray]:
    """Latents (1, f, h, w, c) -> frames (n, h, w, 3) uint8, some at a time, without a generated
    reference.

    Frames decoded together see each other, so the chunk is part of the result. rest: the frames
    after the last whole chunk are decoded alone ("short", as released), or as the end of a whole
    one ("whole"). Levels are truncated, as released.
    """

    num_frames = latents.shape[1]
    for start in range(0, num_frames, chunk):
        first = max(0, min(start, num_frames - chunk)) if rest == "whole" else start
        frames = np.asarray(_decode(model, params, latents[:, first : start + chunk]))
        frames = frames[start - first :]
        if start == 0 and model.generates_reference:
            frames = frames[1:]
        if progress is not None:
            progress(min(start + chunk, num_frames), num_frames)
        if len(frames):
            yield frames


@partial(jax.jit, static_argnums=0)
def _condition(model, params, reference, skeletons, signals, key) -> Conditioning:
    to_float = lambda x: x.astype(jnp.float32) / 127.5 - 1
    return model.condition(params, to_float(reference), to_float(skeletons), signals, key)


@partial(jax.jit, static_argnums=(0, 1))
def _hoist(model, halves: int, params, conditioning: Conditioning) -> dict | None:
    return model.hoist(params, guided(model, conditioning, halves)).cross


@partial(jax.jit, static_argnums=0)
def _decode(model, params, latents: Array) -> Array:
    frames = jnp.clip(model.decode(params, latents) / 2 + 0.5, 0, 1)
    return (frames[0] * 255).astype(jnp.uint8)


def _round_up(plan: windows.Windows, multiple: int) -> int:
    return -(-len(plan.frames) // multiple) * multiple


def _batches(plan: windows.Windows, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frame numbers and weights (size, t) of `size` windows at a time, padded with weight 0."""
    missing = -len(plan.frames) % size
    frames = np.concatenate([plan.frames, np.repeat(plan.frames[:1], missing, axis=0)])
    weights = np.repeat(plan.weights[None], len(frames), axis=0)
    weights[len(plan.frames) :] = 0
    for start in range(0, len(frames), size):
        yield frames[start : start + size], weights[start : start + size]


def _rows(conditioning: Conditioning, frames: np.ndarray) -> Conditioning:
    """Conditioning of one clip -> one row per window, frames (windows, t)."""
    picked = conditioning.at(frames).per_frame  # leaves are (1, windows, t, ...) now
    rows = jax.tree.map(lambda x: jnp.repeat(x, len(frames), axis=0), conditioning.shared)
    return rows.replace(**jax.tree.map(lambda x: x[0], picked))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _predict(
    model: Model,
    halves: int,
    params: Params,
    blend: Array,
    x: Array,
    frames: Array,
    weights: Array,
    level: Array,
    conditioning: Conditioning,
    hoisted: dict | None,
) -> Array:
    """Add the weighted predictions of some windows to blend (halves, f, h, w, c)."""
    windows_now = len(frames)
    rows = guided(model, conditioning, halves)
    tile = lambda value: jnp.tile(value, (windows_now, *[1] * (value.ndim - 1)))
    rows = rows.replace(cross=jax.tree.map(tile, hoisted))
    latents = jnp.repeat(model.schedule.scale_input(x[0][frames], level), halves, axis=0)
    t = jnp.broadcast_to(model.schedule.time(level), (len(latents),))
    output = model.denoise(params, latents, t, rows)  # (windows halves, t, h, w, c)
    output = output.reshape(windows_now, halves, *output.shape[1:]).swapaxes(0, 1)
    weighted = output * weights[..., None, None, None]
    return blend.at[:, frames].add(weighted)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _finish(
    schedule, blend: Array, x: Array, total: Array, scale: Array, level: Array, lower: Array
) -> Array:
    """Blend -> prediction -> guidance -> the latent at the lower level."""
    prediction = blend / total[:, None, None, None]
    if len(prediction) == 2:
        prediction = guidance.combine(*prediction, scale)[None]
    return schedule.step(x, prediction, level, lower)
