"""Overlapping windows over a long clip, and how their predictions are blended."""

from __future__ import annotations

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


def total_weight(windows: Windows, num_frames: int) -> np.ndarray:
    """Sum of the weights that each frame receives, (f,) float32, all positive."""
    total = np.zeros(num_frames, np.float32)
    for row in windows.frames:
        np.add.at(total, row, windows.weights)
    return total
