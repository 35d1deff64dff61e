"""The last stage: latents become frames, some at a time, whatever the base model.

Chunks of frames are decoded together and spread over the devices; one program serves clips of any
length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from dispose_jax.models.protocol import Model
from dispose_jax.types import Array, Params
from dispose_jax.windowed import Placement, placement


def decode(
    model: Model,
    params: Params,
    latents: np.ndarray,
    chunk: int,
    *,
    rest: str = "short",
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Latents (1, f, h, w, c) -> frames (n, h, w, 3) uint8, some at a time, without a generated
    reference.

    Frames decoded together see each other, so the chunk is part of the result. rest: the frames
    after the last whole chunk are decoded alone ("short", as released, by a program of their own),
    or as the end of a whole one ("whole"). Levels are truncated, as released. Chunks are spread
    over the devices, all by default. progress(done, total) counts frames.
    """
    num_frames, place = latents.shape[1], placement(devices)
    params = jax.device_put(params, place.whole)
    done, waiting = 0, None

    def finished(decoded: Array, group: list[Piece]) -> Iterator[np.ndarray]:
        nonlocal done
        frames = [row[new] for row, (_, new) in zip(np.asarray(decoded), group)]
        frames = np.concatenate(frames)
        start, done = done, done + len(frames)
        if progress is not None:
            progress(done, num_frames)
        if start == 0 and model.generates_reference:
            frames = frames[1:]
        if len(frames):
            yield frames

    for group in _groups(pieces(num_frames, chunk, rest), place.rows):
        numbers = np.stack([numbers for numbers, _ in group])
        rows = jax.device_put(latents[0][numbers], place.spread)  # (rows, n, h, w, c)
        decoded = _decode(model, place.whole, params, rows)
        if waiting is not None:  # the devices work while the caller does with frames what it wants
            yield from finished(*waiting)
        waiting = decoded, group
    yield from finished(*waiting)


def traced(
    model: Model, params: Params, latent_shape: tuple[int, int, int], chunk: int, place: Placement
) -> jax.stages.Traced:
    """The decoding of whole chunks, from shapes. What is compiled of it serves `decode`, as jit
    keeps it.

    params: shapes, whole on the devices; latent_shape: h, w, c of a frame.
    """
    shape = place.rows, chunk, *latent_shape
    rows = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place.spread)
    return _decode.trace(model, place.whole, params, rows)


def decode_pictures(
    model: Model, params: Params, latents: np.ndarray, device: jax.Device
) -> list[np.ndarray]:
    """Latents (n, h, w, c) -> n pictures (h, w, 3) uint8, each decoded alone on the device: what a
    video is to look like, at little cost."""
    place = placement([device])
    params = jax.device_put(params, place.whole)
    alone = lambda frame: jax.device_put(frame[None, None], place.spread)
    return [
        np.asarray(_decode(model, place.whole, params, alone(frame)))[0, 0] for frame in latents
    ]


Piece = tuple[np.ndarray, slice]  # frames that are decoded together, which of them are new


def pieces(num_frames: int, chunk: int, rest: str) -> list[Piece]:
    """How a clip is cut for decoding; see `decode`."""
    found = []
    for start in range(0, num_frames, chunk):
        left = num_frames - start
        if left >= chunk or rest == "short":
            found.append((np.arange(start, min(start + chunk, num_frames)), slice(None)))
        else:  # a clip shorter than a chunk ends with repetitions of its last frame
            first = max(0, num_frames - chunk)
            numbers = np.minimum(first + np.arange(chunk), num_frames - 1)
            found.append((numbers, slice(start - first, start - first + left)))
    return found


def _groups(pieces: list[Piece], rows: int) -> Iterator[list[Piece]]:
    """Pieces of one length, `rows` at a time; the last group ends with pieces without new
    frames."""
    for _, alike in groupby(pieces, key=lambda piece: len(piece[0])):
        alike = list(alike)
        for start in range(0, len(alike), rows):
            group = alike[start : start + rows]
            yield group + [(group[-1][0], slice(0))] * (rows - len(group))


def pictures(model: Model, params: Params, latents: Array) -> Array:
    """Latents (b, f, h, w, c) -> frames (b, f, 8 h, 8 w, 3) uint8 (device code); levels are
    truncated, as released."""
    frames = jnp.clip(model.decode(params, latents) / 2 + 0.5, 0, 1)
    return (frames * 255).astype(jnp.uint8)


@partial(jax.jit, static_argnums=(0, 1))
def _decode(model, whole: NamedSharding, params, latents: Array) -> Array:
    return jax.lax.with_sharding_constraint(pictures(model, params, latents), whole)
