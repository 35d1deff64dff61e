"""Features of whole videos, streamed: prepared frames, windows of them, batches over devices.

What a clip gives is an array with one row per window (networks over clips), frame (networks over
pictures) or pair of frames (flow). Memory does not depend on a video's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dispose_jax.evaluation import preprocess, vbench
from dispose_jax.models import evaluation_networks
from dispose_jax.networks.evaluation import lpips
from dispose_jax.networks.evaluation.i3d import I3D
from dispose_jax.networks.raft import SMALLEST
from dispose_jax.types import Array, Params

WINDOW = 16  # frames that the networks over clips see
_PREPARED = 8  # frames resized at once


class Feature(NamedTuple):
    """How a video becomes rows.

    forward(params, batch) -> rows, batch (n, window, h, w, 3) as prepare leaves frames, params
    {network: tree}. pads: a video shorter than a window repeats its last frame. least: frames that
    a video needs, those between which flow is measured. smallest: pixels that a side needs. finish:
    of a row, on the host.
    """

    networks: tuple[str, ...]
    prepare: Callable[[Array], Array]
    forward: Callable[[Params, Array], Array]
    window: int = 1
    least: int = 1
    smallest: int = 1
    pads: bool = False
    per_device: int = 4  # windows in a batch
    finish: Callable[[np.ndarray], np.ndarray | float] = lambda row: row


def _apply(name: str, params: Params, x: Array):
    return evaluation_networks.build(name).module.apply({"params": params[name]}, x)


def _aesthetic(params: Params, x: Array) -> Array:
    z = _apply("clip_l14", params, x[:, 0])
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    return _apply("aesthetic", params, z) / 10


def _i3d(params: Params, x: Array, **fields) -> Array:
    return I3D(**fields).apply({"params": params["i3d"]}, x)


def _flow(params: Params, x: Array) -> Array:
    raft = evaluation_networks.build("raft_things").module
    weights = {"params": params["raft_things"]}
    return raft.apply(weights, x[:, 0], x[:, 1], vbench.FLOW_UPDATES)


FEATURES = {
    "i3d": Feature(
        ("i3d",),
        preprocess.i3d_disco,
        lambda p, x: _i3d(p, x, epsilon=1e-3, pooled_frames=1),
        window=WINDOW,
    ),
    "i3d_common": Feature(
        ("i3d",),
        preprocess.i3d_common,
        lambda p, x: _i3d(p, x, epsilon=1e-5, pooled_frames=2),
        window=WINDOW,
        least=10,
    ),
    "resnet3d": Feature(
        ("resnet3d",),
        preprocess.resnet3d,
        lambda p, x: _apply("resnet3d", p, x)[0],
        window=WINDOW,
        pads=True,
    ),
    "videomae": Feature(
        ("videomae",),
        preprocess.cd_fvd,
        lambda p, x: _apply("videomae", p, x)[0],
        window=WINDOW,
        least=WINDOW,
        per_device=2,
    ),
    "dino": Feature(("dino",), preprocess.dino, lambda p, x: _apply("dino", p, x[:, 0]), least=2),
    "clip_b32": Feature(
        ("clip_b32",), preprocess.clip, lambda p, x: _apply("clip_b32", p, x[:, 0]), least=2
    ),
    "aesthetic": Feature(("clip_l14", "aesthetic"), preprocess.clip, _aesthetic),
    "flow": Feature(
        ("raft_things",),
        preprocess.raft,
        _flow,
        window=2,
        least=2,
        smallest=SMALLEST,
        per_device=1,
        finish=vbench.largest_motion,
    ),
}


def num_windows(name: str, num_frames: int, stride: int) -> int:
    """Rows that `extract` gives for a video that has the frames it needs: one if it is short."""
    return max(0, num_frames - FEATURES[name].window) // stride + 1


def extract(name: str, params: Params, frames: Iterable[np.ndarray], stride: int = 1) -> np.ndarray:
    """Rows of one video: frames (h, w, 3) uint8 of one size, windows at every stride-th frame.

    name: of FEATURES; params: {network: tree on the devices, see `place`}. Returns (rows, ...)
    float32, or float64 where the host finishes.
    """
    feature = FEATURES[name]
    windows = _windows(_prepared(name, frames), feature, stride)
    rows = []
    for batch, count in _batches(windows, feature.per_device * jax.device_count()):
        found = np.asarray(_forward(name)(params, _spread(batch)))[:count]
        rows += [np.asarray(feature.finish(row)) for row in found]
    return np.stack(rows)


def place(params: Params) -> Params:
    """Weights on every device, once per network."""
    return jax.device_put(params, NamedSharding(_mesh(), PartitionSpec()))


def distances(
    trunk: str,
    params: Params,
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    published_misuse: bool = False,
) -> np.ndarray:
    """LPIPS of every pair of frames (h, w, 3) uint8 of one size: (f,) float32.

    trunk: "alex" or "vgg"; published_misuse: see `lpips.scaled`.
    """
    rows = []
    stacked = (np.stack(pair) for pair in pairs)
    for batch, count in _batches(stacked, jax.device_count()):
        found = _lpips(trunk, published_misuse)(params, _spread(batch))
        rows.append(np.asarray(found)[:count])
    return np.concatenate(rows)


@cache
def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("rows",), (jax.sharding.AxisType.Auto,))


def _spread(batch: np.ndarray) -> Array:
    return jax.device_put(batch, NamedSharding(_mesh(), PartitionSpec("rows")))


@cache
def _forward(name: str):
    return _exact(FEATURES[name].forward)


@cache
def _prepare(name: str):
    return _exact(FEATURES[name].prepare)


@cache
def _lpips(trunk: str, published_misuse: bool):
    """Jitted distance of pairs (n, 2, h, w, 3) uint8 -> (n,)."""
    network = {"alex": "alexnet", "vgg": "vgg16"}[trunk]

    def run(params: Params, pairs: Array) -> Array:
        x = lpips.scaled(pairs, published_misuse=published_misuse)
        maps = [
            lpips.Trunk(trunk).apply({"params": params[network]}, x[:, side]) for side in (0, 1)
        ]
        heads = {"params": params[f"lpips_{trunk}"]}
        return lpips.Heads().apply(heads, *maps).sum(0)

    return _exact(run)


def _exact(function):
    """Jitted, with full float32 products: accelerators would round them otherwise."""

    def run(*inputs):
        with jax.default_matmul_precision("highest"):
            return function(*inputs)

    return jax.jit(run)


def _prepared(name: str, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames as the network wants them, one by one."""
    frames = iter(frames)
    while chunk := list(islice(frames, _PREPARED)):
        count = len(chunk)
        chunk += [chunk[-1]] * (_PREPARED - count)  # one shape, one program
        yield from np.asarray(_prepare(name)(np.stack(chunk)))[:count]


def _windows(frames: Iterable[np.ndarray], feature: Feature, stride: int) -> Iterator[np.ndarray]:
    """(window, h, w, 3) at every stride-th frame; of a shorter video the whole of it."""
    held: deque[np.ndarray] = deque(maxlen=feature.window)
    seen = 0
    for seen, frame in enumerate(frames, start=1):
        held.append(frame)
        if seen >= feature.window and (seen - feature.window) % stride == 0:
            yield np.stack(held)
    if 0 < seen < feature.window:
        if feature.pads:
            held.extend([held[-1]] * (feature.window - seen))
        yield np.stack(held)


def _batches(items: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """(batch of exactly so many, how many of them are items)."""
    items = iter(items)
    while group := list(islice(items, size)):
        count = len(group)
        yield np.stack(group + [group[-1]] * (size - count)), count
