"""Optical flow of a clip, from the reference to every frame: RAFT, or DIS without any weights.

Both take frames (f, h, w, 3) uint8, frame 0 the reference, and give (f, h, w, 2) float32 in pixels,
x first, frame 0 zero: what training samples its guidance points from (DisPose section 4.1). RAFT is
device code, DIS host code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.networks.raft import RAFT, SMALLEST
from dispose_jax.ops import resize
from dispose_jax.ops.levels import to_float
from dispose_jax.types import Params

Array = jax.Array
Estimator = Callable[[np.ndarray], np.ndarray | Array]  # partial(raft, network, params) is one

SMALLEST_DIS = 16  # pixels: OpenCV's search ends the whole process on smaller pictures


def dis(frames: np.ndarray) -> np.ndarray:
    """Flow by dense inverse search (Kroeger et al. 2016), frame by frame and then as a whole.

    A limb is soon too far from where it was for one search, so the steps between neighbouring
    frames are chained; each chain is where a direct search then starts. frames (f, h, w, 3) uint8
    RGB -> (f, h, w, 2). Raises ValueError for frames of another kind or under 16 pixels.
    """
    _check(frames)
    height, width = frames.shape[1:3]
    if min(height, width) < SMALLEST_DIS:
        raise ValueError(
            f"frames of {height} x {width} pixels; DIS needs {SMALLEST_DIS} or more: enlarge them"
        )
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grays = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    rest = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    chain = np.zeros((height, width, 2), np.float32)
    flows = [chain]
    for before, after in zip(grays, grays[1:]):
        step = search.calc(before, after, None)
        places = rest + chain
        chain = chain + cv2.remap(
            step, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        flows.append(search.calc(grays[0], after, chain.copy()))
    return np.stack(flows)


@partial(jax.jit, static_argnames=("network", "short_side", "updates"))
def raft(
    network: RAFT, params: Params, frames: Array, *, short_side: int = 384, updates: int = 12
) -> Array:
    """Flow by RAFT, one pair at a time: frames (f, h, w, 3) uint8 RGB -> (f, h, w, 2).

    short_side: larger frames are shrunk to it, which bounds the memory of a pair (50 MB at 384 x
    512, growing with the fourth power). Frames too small for RAFT are enlarged. Raises ValueError
    for frames of another kind or an impossible short_side.
    """
    _check(frames)
    if short_side < SMALLEST:
        raise ValueError(f"short_side is {short_side}; RAFT needs {SMALLEST} or more")
    size = frames.shape[1:3]
    small = working_size(size, short_side)
    resized = resize.area if small[0] < size[0] else resize.bilinear
    sides = [(-n % 8 // 2, -n % 8 - -n % 8 // 2) for n in small]

    def prepared(frame: Array) -> Array:  # (h, w, 3) uint8 -> (1, h', w', 3) in -1..1
        picture = resized(to_float(frame), small)
        return jnp.pad(picture, (*sides, (0, 0)), mode="edge")[None]

    variables = {"params": params}
    reference = network.apply(variables, prepared(frames[0]), method=RAFT.encode_reference)

    def to_frame(frame: Array) -> Array:  # (h, w, 3) uint8 -> (h, w, 2)
        options = {"updates": updates, "method": RAFT.flow_to}
        flow = network.apply(variables, reference, prepared(frame), **options)[0]
        (top, _), (left, _) = sides
        flow = resize.bilinear(flow[top : top + small[0], left : left + small[1]], size)
        return flow * jnp.array([size[1] / small[1], size[0] / small[0]], flow.dtype)

    flows = jax.lax.map(to_frame, frames[1:])
    return jnp.concatenate([jnp.zeros((1, *size, 2), flows.dtype), flows])


def working_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width of the frames that RAFT sees: their short side at most short_side, and at
    least 128."""
    shortest = min(size)
    wanted = max(SMALLEST, min(short_side, shortest))
    height, width = (max(wanted, round(side * wanted / shortest)) for side in size)
    return height, width


def _check(frames) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames) or frames.dtype != np.uint8:
        raise ValueError(
            f"frames of shape {frames.shape} and type {frames.dtype}; expected uint8 pictures"
            " (frames, height, width, 3)"
        )
