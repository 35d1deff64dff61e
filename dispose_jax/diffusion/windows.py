"""Overlapping windows over a long clip, and how their predictions are blended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """Which frames are denoised together."""

    frames: np.ndarray  # (windows, t) int32 frame numbers
    weights: np.ndarray  # (t,) float32 weight of each position in the blend


def anchored(num_frames: int, window: int, overlap: int) -> Windows:
    """Windows that all begin with frame 0, the reference, and overlap (MimicMotion's tiles).

    A window covers window - 1 other frames, so neighbours share overlap - 1. Weights rise and fall
    linearly over the window. A clip shorter than a window is one window of its own length.
    Raises ValueError unless 0 <= overlap < window, every frame is in a window (overlap 0 leaves
    gaps in longer clips) and there are two frames.
    """
    if num_frames < 2:
        raise ValueError(
            f"{num_frames} frames: the reference and at least one driving frame are needed"
        )
    if not 0 <= overlap < window:
        raise ValueError(
            f"sample.overlap is {overlap} and sample.window {window}: need 1 <= overlap < window"
        )
    length = min(window, num_frames)
    # With a clip shorter than the overlap there is one window, whatever the stride.
    starts = list(range(0, num_frames - length + 1, max(1, length - overlap)))
    rows = [[0, *range(s + 1, s + length)] for s in starts]
    if rows[-1][-1] < num_frames - 1:
        rows.append([0, *range(num_frames - length + 1, num_frames)])
    frames = np.array(rows, np.int32)
    if gaps := np.setdiff1d(np.arange(num_frames), frames).tolist():
        raise ValueError(
            f"sample.overlap is {overlap}: frame {gaps[0]} of {num_frames} is in no window of "
            f"{window} frames; need 1 <= overlap < window"
        )
    middle = (np.arange(length) + 0.5) * 2 / length
    weights = np.minimum(middle, 2 - middle)
    return Windows(frames, weights.astype(np.float32))


def uniform(
    num_frames: int,
    window: int,
    overlap: int,
    *,
    stride: int = 1,
    closed: bool = False,
) -> Windows:
    """Windows at even distances that all weigh the same (AnimateDiff's "uniform" contexts).

    The last ones go round to the first frames. stride: how many scales of them there are; those of
    the k-th take every 2^k-th frame. closed: as many more windows as make the clip a loop. A clip
    that is no longer than a window is one window. AnimateDiff can also shift them from step to
    step; the released pipelines do not, nor does this. Raises ValueError unless 0 <= overlap <
    window and there is a frame.
    """
    if num_frames < 1:
        raise ValueError(f"{num_frames} frames: at least one driving frame is needed")
    if not 0 <= overlap < window or stride < 1:
        raise ValueError(
            f"sample.overlap is {overlap}, sample.window {window} and the windows' stride "
            f"{stride}: need 0 <= overlap < window and stride 1 or more"
        )
    rows = [range(num_frames)]
    if num_frames > window:
        scales = min(stride, math.ceil(math.log2(num_frames / window)) + 1)
        end = num_frames if closed else num_frames - overlap
        rows = [
            [(start + every * i) % num_frames for i in range(window)]
            for every in (2**k for k in range(scales))
            for start in range(0, end, window * every - overlap)
        ]
    frames = np.array(rows, np.int32)
    return Windows(frames, np.ones(frames.shape[1], np.float32))


def blocks(frames: Sequence[int], rows: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """Consecutive frames in blocks of one shape: numbers (rows, length), and how many are new.

    The last block ends with repetitions of the last frame, so that one program serves all blocks of
    clips of any length.
    """
    size = rows * length
    for start in range(0, len(frames), size):
        part = list(frames[start : start + size])
        padded = part + part[-1:] * (size - len(part))
        yield np.array(padded, np.int32).reshape(rows, length), len(part)


def padded(num_frames: int, window: int, overlap: int) -> int:
    """The least length, num_frames or more, with which windows end with the clip.

    That is the window's plus or minus whole steps. MusePose repeats the last pose so often, instead
    of letting windows go round.
    """
    step = window - overlap
    return num_frames + (step - (num_frames - window) % step) % step


def total_weight(windows: Windows, num_frames: int) -> np.ndarray:
    """Sum of the weights that each frame receives, (f,) float32, all positive."""
    total = np.zeros(num_frames, np.float32)
    for row in windows.frames:
        np.add.at(total, row, windows.weights)
    return total
