"""The stages of sampling as functions of arrays, whatever the base model.

`condition_reference` and `condition_frames` (once per clip) and `sample` (steps x windows), each
with its own networks so that weights can be dropped between them; decoding.py has the last stage.
Programs see windows and blocks of a fixed size and never the clip's length: what grows with the
clip stays on the host, but for the features that `cache_interval` keeps. Rows of a program (windows
with the two halves of guidance, blocks of frames) are spread over all devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from dispose_jax.diffusion import guidance, solvers, windows
from dispose_jax.diffusion.plan import plan
from dispose_jax.diffusion.samplers import Schedule
from dispose_jax.diffusion.solvers import Call
from dispose_jax.models.protocol import Model, generated, generated_frames
from dispose_jax.ops.levels import to_float
from dispose_jax.types import Array, Conditioning, ControlSignals, Params
from dispose_jax.windowed import WindowedNetwork, placement

Progress = Callable[[int, int], None]  # done, total
# Numbers of frames (rows, n) -> skeletons (rows, n, h, w, 3) uint8 and the signals of these frames.
FrameSource = Callable[[np.ndarray], tuple[np.ndarray, ControlSignals | None]]
# Step, latents (1, f, h, w, c) after it, and what it takes for the latents without noise.
Watch = Callable[[int, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Sampler:
    """Numbers of `config.sample` that `sample` needs (configs/common.py says what they mean)."""

    steps: int
    window: int
    overlap: int
    guidance_scale: float | tuple[float, float]
    window_batch: int = 1
    solver: str = "euler"
    guidance_interval: tuple[float, float] = (0.0, math.inf)
    cache_interval: int = 1

    @classmethod
    def of(cls, sample) -> Sampler:
        """Of a `config.sample`."""
        return cls(
            steps=sample.steps,
            window=sample.window,
            overlap=sample.overlap,
            guidance_scale=sample.guidance_scale,
            window_batch=sample.window_batch,
            solver=sample.solver,
            guidance_interval=tuple(sample.guidance_interval),
            cache_interval=sample.cache_interval,
        )


def check(model: Model, num_frames: int, sampler: Sampler) -> None:
    """Raise ValueError for numbers that `sample` cannot work with, before any long work.

    num_frames: of the clip, the reference included.
    """
    made = generated(model, num_frames)
    model.windows(made, sampler.window, sampler.overlap)
    guidance.scales(sampler.guidance_scale, made)
    plan(model.schedule, sampler, guided=True)
    if sampler.window_batch < 1:
        raise ValueError(f"sample.window_batch is {sampler.window_batch}: expected 1 or more")


def condition(
    model: Model,
    params: Params,
    reference: np.ndarray,
    skeletons: np.ndarray,
    signals: ControlSignals | None,
    key: Array,
    *,
    chunk: int = 8,
    devices: Sequence[jax.Device] | None = None,
) -> Conditioning:
    """What no step changes, on the host, for a clip whose pictures and signals are at hand.

    reference (h, w, 3) and skeletons (f, h, w, 3), both uint8; signals of the f frames, None for
    the base model alone. chunk: frames encoded together on each device.
    """

    def source(frames: np.ndarray) -> tuple[np.ndarray, ControlSignals | None]:
        if signals is None:
            return skeletons[frames], None
        taken = jax.tree.map(lambda x: np.asarray(x)[0][frames], signals.per_frame)
        points = signals.point_features
        if points is not None:
            points = np.repeat(points, len(frames), axis=0)
        return skeletons[frames], signals.replace(point_features=points, **taken)

    shared = condition_reference(model, params, reference, key)
    parts = condition_frames(model, params, len(skeletons), source, chunk, devices=devices)
    return shared.replace(**parts)


def condition_reference(
    model: Model, params: Params, reference: np.ndarray, key: Array
) -> Conditioning:
    """What the reference (h, w, 3) uint8 alone decides, on the host; per-frame parts are None."""
    return jax.device_get(_condition_reference(model, params, reference[None], key))


def condition_frames(
    model: Model,
    params: Params,
    num_frames: int,
    source: FrameSource,
    chunk: int,
    *,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """The per-frame parts of a Conditioning, encoded chunk by chunk and kept on the host.

    num_frames: of the clip, the reference included; source gives what is to be encoded of the
    frames that it is asked for; chunk: frames at a time on each device. Leaves are (1, f, ..) in
    the type that the networks compute in. progress(done, total) counts frames.
    """
    frames, place = generated_frames(model, num_frames), placement(devices)
    params = jax.device_put(params, place.whole)
    kept, done, waiting = None, 0, None

    def keep(parts: dict[str, object], count: int) -> None:
        nonlocal kept, done
        parts = jax.device_get(parts)  # leaves (rows, n, ..)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], parts)
        if kept is None:
            kept = jax.tree.map(lambda x: np.empty((1, len(frames), *x.shape[1:]), x.dtype), flat)
        for array, new in zip(jax.tree.leaves(kept), jax.tree.leaves(flat)):
            array[0, done : done + count] = new
        done += count
        if progress is not None:
            progress(done, len(frames))

    for numbers, count in windows.blocks(frames, place.rows, chunk):
        inputs = jax.device_put(source(numbers), place.spread)
        parts = _condition_frames(model, place.whole, params, *inputs)
        if waiting is not None:  # while the device computes the next ones
            keep(*waiting)
        waiting = parts, count
    keep(*waiting)
    return kept


def initial_noise(
    model: Model, key: Array, num_frames: int, latent_shape: tuple[int, int, int], window: int
) -> np.ndarray:
    """Standard normal latents (1, f, h, w, c) float32 of the frames that are generated; one window
    long and repeated where the model says so.

    num_frames: of the clip, the reference included; latent_shape: h, w, c of a frame.
    """
    made = generated(model, num_frames)
    length = min(window, made)
    while length < made and not model.repeats_noise:
        length *= 2  # few programs for all lengths: a longer draw begins as a shorter one
    noise = np.asarray(jax.random.normal(key, (1, length, *latent_shape)))
    return noise[:, np.arange(made) % length]


def sample(
    model: Model,
    params: Params,
    conditioning: Conditioning,
    noise: np.ndarray,
    sampler: Sampler,
    *,
    spare: int = 0,
    progress: Progress | None = None,
    watch: Watch | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """Denoise a clip: noise (1, f, h, w, c) -> latents of the same shape, float32, on the host.

    spare: frames at the end that only fill windows, guided as the last one before them.
    progress(done, steps) and watch are called after every step. devices: those that share the
    windows, all by default. Raises ValueError for impossible windows, steps or guidance.
    """
    num_frames, schedule = noise.shape[1], model.schedule
    tiles = model.windows(num_frames, sampler.window, sampler.overlap)
    scale = guidance.scales(sampler.guidance_scale, num_frames - spare)
    scale = np.pad(scale, (0, spare), mode="edge")
    total = windows.total_weight(tiles, num_frames)
    calls = plan(schedule, sampler, guided=(scale != 1).any())

    place = placement(devices)
    network = WindowedNetwork(model, params, conditioning, tiles, sampler.window_batch, place)
    x = np.asarray(schedule.start(noise, schedule.levels(sampler.steps)), np.float32)
    seen, clean = None, None  # by the call before
    for i, (call, halves, fresh, keep) in enumerate(calls):
        blend = network(x, call.at, halves, reuse=not fresh, keep=keep)
        start = seen if call.again else None
        before = clean if call.again or call.weight else None
        seen = x
        move = _Move(blend, x, total, scale, start, before)
        x, clean = _moved(schedule, call, move, tiles.frames.shape[1], place.first)
        if i + 1 < len(calls) and calls[i + 1].call.step == call.step:
            continue
        if progress is not None:
            progress(call.step + 1, sampler.steps)
        if watch is not None:
            watch(call.step, x, clean)
    return x


@partial(jax.jit, static_argnums=0)
def _condition_reference(model, params, reference, key) -> Conditioning:
    return model.condition_reference(params, to_float(reference), key)


@partial(jax.jit, static_argnums=(0, 1))
def _condition_frames(model, whole: NamedSharding, params, skeletons, signals) -> dict:
    parts = model.condition_frames(params, to_float(skeletons), signals)
    return jax.lax.with_sharding_constraint(parts, whole)


class _Move(NamedTuple):
    """What the move after a call is made of."""

    blend: np.ndarray  # (halves, f, h, w, c) weighted sum of predictions
    x: np.ndarray  # (1, f, h, w, c) latents that the network saw
    total: np.ndarray  # (f,) sum of the weights
    scale: np.ndarray  # (f,) of guidance
    start: np.ndarray | None  # (1, f, h, w, c), as is before: see solvers.advance
    before: np.ndarray | None

    def at(self, frames: np.ndarray) -> _Move:
        """That of some frames."""
        return jax.tree.map(lambda x: x[frames] if x.ndim == 1 else x[:, frames], self)


def _moved(
    schedule: Schedule, call: Call, move: _Move, size: int, device: jax.Device
) -> tuple[np.ndarray, np.ndarray]:
    """The latents after a call's move, and without noise, (1, f, h, w, c): `size` frames at a time
    on the device."""
    after, clean = np.empty_like(move.x), np.empty_like(move.x)
    done = 0
    for numbers, count in windows.blocks(range(move.x.shape[1]), 1, size):
        found = _finish(schedule, call, jax.device_put(move.at(numbers[0]), device))
        for array, part in zip((after, clean), found):
            array[:, done : done + count] = np.asarray(part)[:, :count]
        done += count
    return after, clean


@partial(jax.jit, static_argnums=0)
def _finish(schedule: Schedule, call: Call, move: _Move) -> tuple[Array, Array]:
    """Blend -> prediction -> guidance -> the latents after the move, and without noise."""
    prediction = move.blend / move.total[:, None, None, None]
    if len(prediction) == 2:
        prediction = guidance.combine(*prediction, move.scale)[None]
    return solvers.advance(schedule, move.x, prediction, call, start=move.start, before=move.before)
