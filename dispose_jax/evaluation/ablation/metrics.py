"""How close generated frames are to the true ones, of drawn people whose pictures are exact.

One clip at a time, reference excluded: pixels of the person and of the whole picture, colours at
joints and limbs (identity), where the joints are found again (motion), and whether what should
stand still does. Device code with a host wrapper, `measure`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.pose.draw import LIMBS

Array = jax.Array

EXACT_PSNR = 100.0  # of equal pictures, as DisCo's evaluation counts them
PCK_SHARE = 0.05  # of the figure's height: a joint found within it is correct
# Of the picture's height: how far a joint is searched, and how far its patch reaches. 8 pixels and
# a patch of 9 x 9 at 64 pixels.
SEARCH_SHARE, PATCH_SHARE = 8, 16
_FAR = np.iinfo(np.int32).max


class AblationMetric(NamedTuple):
    """How a number is called and read."""

    title: str
    better: str  # "lower" or "higher"
    digits: int


METRICS = {
    "figure_l1": AblationMetric("L1 figure", "lower", 4),
    "figure_psnr": AblationMetric("PSNR figure, dB", "higher", 2),
    "identity": AblationMetric("colour error", "lower", 4),
    "joint_error": AblationMetric("joint error, px", "lower", 2),
    "pck": AblationMetric("PCK", "higher", 3),
    "picture_l1": AblationMetric("L1 picture", "lower", 4),
    "picture_psnr": AblationMetric("PSNR picture, dB", "higher", 2),
    "flicker": AblationMetric("flicker error", "lower", 4),
}
PRIMARY = ("figure_l1", "figure_psnr", "identity", "joint_error", "pck")


class Truth(NamedTuple):
    """The true frames of a clip, n of them, without the reference."""

    frames: np.ndarray  # (n, h, w, 3) uint8
    mask: np.ndarray  # (n, h, w) bool: the person
    points: np.ndarray  # (n, 18, 2) joints in pixels, column and row
    visible: np.ndarray  # (n, 18) bool: inside the picture and not covered


def measure(found: np.ndarray, truth: Truth) -> dict[str, float]:
    """Every metric of METRICS for generated frames (n, h, w, 3) uint8.

    NaN where the truth has nothing to compare: no person, no visible joint, or one frame alone for
    the flicker.
    """
    return {name: float(value) for name, value in jax.device_get(_measure(found, truth)).items()}


@jax.jit
def _measure(found: Array, truth: Truth) -> dict[str, Array]:
    """Every metric of a clip, found (f - 1, h, w, 3) uint8 against the truth (device code)."""
    # Differences of whole numbers: equal frames have exactly none, however products are fused.
    ours, true = (x.astype(jnp.int32) for x in (found, truth.frames))
    error = (ours - true).astype(jnp.float32) / 255
    whole = jnp.ones_like(truth.mask)
    distance = joint_distances(found, truth)
    near = distance <= PCK_SHARE * heights(truth.mask)[:, None]
    return {
        "figure_l1": _l1(error, truth.mask),
        "figure_psnr": _psnr(error, truth.mask),
        "identity": color_error(ours, true, truth.points, truth.visible),
        "joint_error": _mean(distance, truth.visible),
        "pck": _mean(near, truth.visible),
        "picture_l1": _l1(error, whole),
        "picture_psnr": _psnr(error, whole),
        "flicker": flicker_error(ours, true, truth.mask),
    }


def color_error(ours: Array, true: Array, points: Array, visible: Array) -> Array:
    """Mean absolute difference of 3 x 3 mean colours at visible joints and limbs' middles, (), of
    1 for black against white.

    Pictures (n, h, w, 3) int32 in 0..255. A limb counts where both its joints are visible.
    """
    start, end = LIMBS.T
    spots = jnp.concatenate([points, (points[:, start] + points[:, end]) / 2], 1)
    shown = jnp.concatenate([visible, visible[:, start] & visible[:, end]], 1)
    difference = _patches(ours - true, _pixels(spots, true), 1).sum((2, 3)) / (9 * 255)
    return _mean(jnp.abs(difference).mean(-1), shown)


def joint_distances(found: Array, truth: Truth) -> Array:
    """How far from its true place each joint is found again, (n, 18) pixels.

    The patch of the true frame around a joint, its background left out, is looked for in the found
    frame: at the true place and all around it, the place of the least absolute difference counts.
    Where several places are equally good, their mean distance counts: nothing is found in a plain
    picture, so it is no better than a random guess. uint8, so equal means equal.
    """
    height, width = truth.mask.shape[1:]
    reach, half = max(1, height // SEARCH_SHARE), max(1, height // PATCH_SHARE)
    pixels = _pixels(truth.points, truth.frames)
    true = _patches(truth.frames, pixels, half).astype(jnp.int32)
    weight = _patches(
        jnp.pad(truth.mask, [(0, 0), (half, half), (half, half)]), pixels + half, half
    )
    steps = jnp.arange(-reach, reach + 1)
    offsets = jnp.stack(jnp.meshgrid(steps, steps), -1).reshape(-1, 2)  # x, y

    def cost(offset: Array) -> Array:  # (n, 18)
        place = pixels + offset
        inside = ((place >= 0) & (place < jnp.array([width, height]))).all(-1)
        difference = jnp.abs(_patches(found, place, half).astype(jnp.int32) - true).sum(-1)
        return jnp.where(inside, (difference * weight).sum((2, 3)), _FAR)

    costs = jax.lax.map(cost, offsets)  # (offsets, n, 18)
    best = costs == costs.min(0)
    lengths = jnp.hypot(*offsets.T.astype(jnp.float32))
    return jnp.einsum("o,onk->nk", lengths, best) / best.sum(0)


def flicker_error(ours: Array, true: Array, mask: Array) -> Array:
    """|TF(ours) - TF(true)|, (), TF the mean absolute difference of consecutive frames, of 1 for
    black against white, outside the person in both. Pictures (n, h, w, 3) int32 in 0..255."""
    still = ~(mask[1:] | mask[:-1])
    change = lambda x: jnp.abs(x[1:] - x[:-1]).sum(-1)
    return jnp.abs(_mean(change(ours) - change(true), still)) / (3 * 255)


def heights(mask: Array) -> Array:
    """Rows from the highest to the lowest pixel of the person (n, h, w) -> (n,)."""
    rows = mask.any(-1)
    first, last = jnp.argmax(rows, -1), rows.shape[-1] - 1 - jnp.argmax(rows[:, ::-1], -1)
    return jnp.where(rows.any(-1), last - first + 1, 0)


def _l1(error: Array, inside: Array) -> Array:
    """Mean over frames of the mean absolute error (n, h, w, 3) of the pixels inside."""
    return _over_frames(jnp.abs(error).mean(-1), inside)[0]


def _psnr(error: Array, inside: Array) -> Array:
    """Mean over frames of the signal-to-noise ratio of the pixels inside, dB."""
    _, square, shown = _over_frames(jnp.square(error).mean(-1), inside)
    ratio = jnp.where(square > 0, -10 * jnp.log10(jnp.maximum(square, 1e-30)), EXACT_PSNR)
    return _mean(ratio, shown)


def _over_frames(value: Array, inside: Array) -> tuple[Array, Array, Array]:
    """Means of (n, h, w) inside: over frames that have any such pixel, of each, which these are."""
    count = inside.sum((1, 2))
    each = (value * inside).sum((1, 2)) / jnp.maximum(count, 1)
    return _mean(each, count > 0), each, count > 0


def _mean(value: Array, counts: Array) -> Array:
    """The mean of those values that count, NaN if none does."""
    return jnp.sum(value * counts) / counts.sum()


def _pixels(points: Array, pictures: Array) -> Array:
    """The pixels (n, k, 2) that points lie in, column and row inside the pictures."""
    height, width = pictures.shape[1:3]
    return jnp.clip(jnp.floor(points).astype(jnp.int32), 0, jnp.array([width - 1, height - 1]))


def _patches(pictures: Array, pixels: Array, half: int) -> Array:
    """Squares around pixels (n, k, 2): (n, h, w, ..) -> (n, k, 2 half + 1, 2 half + 1, ..).

    Pictures go on as their border.
    """
    height, width = pictures.shape[1:3]
    steps = jnp.arange(-half, half + 1)
    columns = jnp.clip(pixels[..., :1] + steps, 0, width - 1)
    rows = jnp.clip(pixels[..., 1:] + steps, 0, height - 1)
    frame = jnp.arange(len(pictures))[:, None, None, None]
    return pictures[frame, rows[..., :, None], columns[..., None, :]]
