"""Pages of small pictures with words beside them, put together from blocks (host code).

Pictures and blocks are uint8 RGB, (h, w, 3). explain.py, whose sheets have columns, titles and a
legend of their own, shares only the colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels around pictures
PAPER, INK = (250, 250, 248), (30, 30, 34)
FONT = 12  # pixels


def enlarged(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (n, h, w, 3) whole times as large, until their longer side is about `side` pixels."""
    times = max(1, side // max(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def written(text: str, width: int, height: int) -> np.ndarray:
    """A line of text on paper, from the left and in the middle of the height."""
    box = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(box)
    pen.text((GAP, height // 2), text, INK, ImageFont.load_default(FONT), anchor="lm")
    return np.array(box)


def row(frames: np.ndarray, gap: int = GAP, *, before: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Blocks of the frames' height plus gap, then frames (n, h, w, 3) side by side with a gap of
    paper to the right of each and below."""
    n, h, w, _ = frames.shape
    spaced = np.empty((h + gap, n, w + gap, 3), np.uint8)
    spaced[:] = PAPER
    spaced[:h, :, :w] = frames.swapaxes(0, 1)
    return np.concatenate([*before, spaced.reshape(h + gap, n * (w + gap), 3)], axis=1)


def below(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Blocks below each other, paper to the right of the narrow ones."""
    page = np.empty((sum(map(len, blocks)), max(block.shape[1] for block in blocks), 3), np.uint8)
    page[:] = PAPER
    top = 0
    for block in blocks:
        page[top : top + len(block), : block.shape[1]] = block
        top += len(block)
    return page
