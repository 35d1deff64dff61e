"""Frames as each evaluation network wants them: resizing, cropping and scaling as published.

Each function takes frames (..., h, w, 3) in 0..255 of any size and is meant to be traced: sizes are
static. They differ in every detail, and each detail moves the numbers.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.networks.clip import PIXEL_MEAN, PIXEL_STD
from dispose_jax.ops import resize

Array = jax.Array

_KINETICS_MEAN = (114.7748, 107.7354, 99.4750)  # grey levels, red first
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resnet3d(frames: Array) -> Array:
    """FID-VID: stretched to 112 x 112 by Pillow's bicubic filter on floats, the mean taken out."""
    return _pillow(frames, 112) - jnp.asarray(_KINETICS_MEAN)


def i3d_disco(frames: Array) -> Array:
    """FVD as in DisCo: stretched to 224 x 224 by Pillow's bicubic filter on floats, -1..1."""
    return _pillow(frames, 224) / 127.5 - 1


def i3d_common(frames: Array) -> Array:
    """FVD as in VideoGPT and common_metrics_on_video_quality: the short side to 224, bilinear, the
    middle cut out, -1..1."""
    size = _short_side_up(frames.shape[-3:-1], 224)
    return 2 * _middle(resize.bilinear(frames.astype(jnp.float32) / 255, size), 224) - 1


def videomae(frames: Array) -> Array:
    """CD-FVD: stretched to 224 x 224, bilinear without antialias, 0..1; no mean, no deviation."""
    return resize.bilinear(frames.astype(jnp.float32) / 255, (224, 224))


def cd_fvd(frames: Array) -> Array:
    """What content-debiased-fvd's loader does to videos, then `videomae`: the short side to 256,
    bilinear with antialias, the middle cut out, levels rounded down; (..., 224, 224, 3), 0..1."""
    size = _short_side_up(frames.shape[-3:-1], 256)
    x = _middle(resize.bilinear_antialiased(frames.astype(jnp.float32) / 255, size), 256)
    return videomae(jnp.floor(255 * x))


def dino(frames: Array) -> Array:
    """Subject consistency: the short side to 224, bilinear without antialias, nothing cut off."""
    size = _short_side(frames.shape[-3:-1], 224)
    x = resize.bilinear(frames.astype(jnp.float32), size) / 255
    return (x - jnp.asarray(_IMAGENET_MEAN)) / jnp.asarray(_IMAGENET_STD)


def clip(frames: Array) -> Array:
    """Background consistency and aesthetic quality: the short side to 224, bicubic without
    antialias, overshoot kept, the middle cut out."""
    h, w = frames.shape[-3:-1]
    x = frames.astype(jnp.float32)
    size = _short_side((h, w), 224)
    if size != (h, w):
        x = resize.apply_matrices(x, *(_cubic(*axis) for axis in zip(size, (h, w))))
    top, left = (round((side - 224) / 2) for side in size)  # torchvision rounds
    x = x[..., top : top + 224, left : left + 224, :] / 255
    return (x - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)


def raft(frames: Array) -> Array:
    """Dynamic degree: sides grown to multiples of 8 by repeating the edge on both sides, -1..1."""
    sides = [(n // 2, n - n // 2) for n in (-side % 8 for side in frames.shape[-3:-1])]
    pad = [(0, 0)] * (frames.ndim - 3) + [*sides, (0, 0)]
    return jnp.pad(frames.astype(jnp.float32), pad, mode="edge") / 127.5 - 1


def _pillow(frames: Array, side: int) -> Array:
    x = frames.astype(jnp.float32)
    return resize.bicubic_antialiased(x, (side, side), -jnp.inf, jnp.inf)  # floats are never cut


def _cubic(out: int, length: int) -> np.ndarray:
    """PyTorch's bicubic without antialias: half-pixel centres, those beyond the edge included."""
    scale = np.float32(length) / np.float32(out)
    source = scale * (np.arange(out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    return resize.cubic_matrix(source, length)


def _middle(x: Array, side: int) -> Array:
    """The middle square of pictures (..., h, w, c)."""
    top, left = ((length - side) // 2 for length in x.shape[-3:-1])
    return x[..., top : top + side, left : left + side, :]


def _short_side_up(size: tuple[int, int], side: int) -> tuple[int, int]:
    """VideoGPT's rule: the other side is rounded up; of a square the height, which rounding makes a
    pixel more for some sizes."""
    h, w = size
    scale = side / min(h, w)
    return (side, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), side)


def _short_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """torchvision's rule: the long side is rounded down."""
    short = min(size)
    return tuple(side if length == short else int(side * length / short) for length in size)
