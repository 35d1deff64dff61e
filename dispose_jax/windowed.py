"""The network on a whole clip: its windows and the halves of guidance are rows of one batch.

What stands around a call and no solver needs to know: which frames are denoised together, where the
rows are computed, how their predictions are blended, and what earlier calls left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dispose_jax.diffusion import windows
from dispose_jax.models.protocol import Model
from dispose_jax.types import Array, Conditioning, Deep, Params


@dataclass(frozen=True)
class Placement:
    """Where arrays of a stage are: rows spread over the devices, or whole on each of them."""

    spread: NamedSharding
    whole: NamedSharding

    @property
    def rows(self) -> int:
        """How many devices there are."""
        return self.spread.mesh.size

    @property
    def first(self) -> jax.Device:
        """The first of this process's devices among them, for what is not shared out."""
        own = self.whole.addressable_devices
        return next(device for device in self.whole.mesh.devices.flat if device in own)


def placement(devices: Sequence[jax.Device] | None = None) -> Placement:
    """Of the devices that share a stage's rows, all of them by default."""
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return Placement(*(NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ())))


class WindowedNetwork:
    """A model as a function from a clip's latents to the blend of its windows' predictions.

    conditioning: of the clip, on the host. tiles: its windows, `batch` at a time on each device.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        conditioning: Conditioning,
        tiles: windows.Windows,
        batch: int,
        place: Placement,
    ):
        self.models, self.place = {1: model.unpaired(), 2: model}, place
        self.params, self.shared = jax.device_put((params, conditioning.shared), place.whole)
        self.per_frame = jax.tree.map(np.asarray, conditioning.per_frame)
        self.batches = list(_batches(tiles, batch * place.rows))
        self.placed: dict | None = None  # per_frame's rows of the only batch, on the devices
        self.left: list[Deep | None] = [None] * len(self.batches)  # by the last call that kept any
        self.cross: dict[int, dict | None] = {}  # constant cross-attentions by halves

    def __call__(
        self,
        x: np.ndarray,
        level: np.float32,
        halves: int,
        *,
        reuse: bool = False,
        keep: bool = False,
    ) -> np.ndarray:
        """Latents (1, f, h, w, c) -> the weighted sum of predictions, (halves, f, h, w, c) float32.

        halves: 2 with the unconditional half of guidance, first; 1 without. keep: deep features of
        this call stay on the devices, for calls of as many halves with reuse.
        """
        blend = np.zeros((halves, *x.shape[1:]), np.float32)
        model = self.models[halves]
        if halves not in self.cross:
            cross = _hoist(model, halves, self.params, self.shared)
            self.cross[halves] = jax.device_put(cross, self.place.whole)
        shared = self.shared.replace(cross=self.cross[halves])
        waiting = None
        for i, (frames, weights) in enumerate(self.batches):
            latents = jax.device_put(x[0][frames], self.place.spread)
            per_frame = self._rows(frames)
            deep = self.left[i] if reuse else None
            output, kept = _predict(
                model,
                halves,
                keep,
                self.place,
                self.params,
                shared,
                latents,
                per_frame,
                level,
                deep,
            )
            if keep:
                self.left[i] = kept
            if waiting is not None:  # while the device computes the next windows
                _add(blend, *waiting)
            waiting = output, frames, weights
        _add(blend, *waiting)
        return blend

    def _rows(self, frames: np.ndarray) -> dict:
        """per_frame of windows of these frames, (rows, t, ..) on the devices.

        Where all windows are one batch, every call sees the same rows, and they stay: a call holds
        them anyway, and nothing would work while they are picked and moved.
        """
        if self.placed is not None:
            return self.placed
        # Several times as fast as indexing, for types that NumPy does not have itself.
        picked = jax.tree.map(lambda leaf: np.take(leaf[0], frames, axis=0), self.per_frame)
        rows = jax.device_put(picked, self.place.spread)
        if len(self.batches) == 1:
            self.placed = rows
        return rows


def traced(
    model: Model,
    params: Params,
    conditioning: Conditioning,
    latent_shape: tuple[int, int, int],
    batch: int,
    place: Placement,
    halves: int,
) -> jax.stages.Traced:
    """The call of a WindowedNetwork, from shapes. What is compiled of it serves the first call of
    equal arguments, as jit keeps it.

    params: shapes, whole on the devices. conditioning: shapes of a clip of one window.
    latent_shape: h, w, c of a frame. batch: windows on each device.
    """
    model = model if halves == 2 else model.unpaired()
    shaped = lambda sharding: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    shared = jax.tree.map(shaped(place.whole), conditioning.shared)
    cross = jax.eval_shape(partial(_hoist, model, halves), params, shared)
    shared = shared.replace(cross=jax.tree.map(shaped(place.whole), cross))
    in_rows = lambda x: jax.ShapeDtypeStruct(
        (batch * place.rows, *x.shape[1:]), x.dtype, sharding=place.spread
    )
    per_frame = jax.tree.map(in_rows, conditioning.per_frame)
    window = jax.tree.leaves(per_frame)[0].shape[1]
    latents = in_rows(jax.ShapeDtypeStruct((1, window, *latent_shape), jnp.float32))
    level = jax.ShapeDtypeStruct((), jnp.float32)
    call = model, halves, False, place, params, shared, latents, per_frame, level, None
    return _predict.trace(*call)


def guided(model: Model, conditioning: Conditioning, halves: int) -> Conditioning:
    """Rows for guidance: each becomes two adjacent ones, the unconditional one first."""
    if halves == 1:
        return conditioning
    rows = len(conditioning.context)
    twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), conditioning)
    return model.unconditional(twice, jnp.arange(2 * rows) % 2 == 0)


@partial(jax.jit, static_argnums=(0, 1))
def _hoist(model, halves: int, params, shared: Conditioning) -> dict | None:
    return model.hoist(params, guided(model, shared, halves)).cross


def _batches(tiles: windows.Windows, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frame numbers and weights (size, t) of `size` windows at a time, padded with weight 0."""
    missing = -len(tiles.frames) % size
    frames = np.concatenate([tiles.frames, np.repeat(tiles.frames[:1], missing, axis=0)])
    weights = np.repeat(tiles.weights[None], len(frames), axis=0)
    weights[len(tiles.frames) :] = 0
    for start in range(0, len(frames), size):
        yield frames[start : start + size], weights[start : start + size]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _predict(
    model: Model,
    halves: int,
    keep: bool,
    place: Placement,
    params: Params,
    shared: Conditioning,
    latents: Array,
    per_frame: dict,
    level: Array,
    deep: Deep | None,
) -> tuple[Array, Deep | None]:
    """What the network predicts for windows: latents (rows, t, h, w, c) -> (rows, halves, t, h, w,
    c) float32; and what it leaves, if keep.

    shared: conditioning of the clip, with the constant cross-attentions of both halves; per_frame:
    leaves (rows, t, ..). deep: what an earlier call left.
    """
    count = len(latents)
    tile = lambda value: jnp.tile(value, (count, *[1] * (value.ndim - 1)))
    rows = jax.tree.map(tile, shared.replace(cross=None)).replace(**per_frame)
    rows = guided(model, rows, halves).replace(cross=jax.tree.map(tile, shared.cross))
    latents = jnp.repeat(model.schedule.scale_input(latents, level), halves, axis=0)
    t = jnp.broadcast_to(model.schedule.time(level), (len(latents),))
    kept = None
    if keep:
        output, kept = model.denoise(params, latents, t, rows, keep=True)
        kept = jax.lax.with_sharding_constraint(kept, place.spread)
    elif deep is not None:
        output = model.denoise(params, latents, t, rows, deep=deep)
    else:
        output = model.denoise(params, latents, t, rows)
    output = output.astype(jnp.float32).reshape(count, halves, *output.shape[1:])
    return jax.lax.with_sharding_constraint(output, place.whole), kept


def _add(blend: np.ndarray, output: Array, frames: np.ndarray, weights: np.ndarray) -> None:
    """Add the weighted predictions of windows (rows, halves, t, ..) to blend (halves, f, ..)."""
    for row, numbers, share in zip(np.asarray(output), frames, weights):
        for i in np.flatnonzero(share):  # one by one, as a window may hold a frame twice
            blend[:, numbers[i]] += row[:, i] * share[i]
