"""Pages of pictures with words beside them, put together from blocks (host code).

Pictures and blocks are uint8 RGB, (h, w, 3). All sheets of this package are made here: those of
--explain, of training's previews, of the ablation, of a query for correspondences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels around pictures
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 34), (110, 110, 116)
FONT = 12  # pixels


def enlarged(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (n, h, w, 3) whole times as large, until their longer side is about `side` pixels."""
    times = max(1, side // max(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def empty(width: int, height: int) -> np.ndarray:
    """A block of paper."""
    return np.full((height, width, 3), PAPER, np.uint8)


def written(
    text: str,
    width: int,
    height: int,
    *,
    font: float = FONT,
    ink: tuple[int, int, int] = INK,
    align: str = "left",
) -> np.ndarray:
    """A line of text on paper in the middle of the height, at the "left", "middle" or "right"."""
    box = Image.new("RGB", (width, height), PAPER)
    left = {"left": GAP, "middle": width // 2, "right": width - GAP}[align]
    pen, letters = ImageDraw.Draw(box), ImageFont.load_default(font)
    pen.text((left, height // 2), text, ink, letters, anchor=f"{align[0]}m")
    return np.array(box)


def row(frames: np.ndarray, gap: int = GAP, *, before: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Blocks of the frames' height plus gap, then frames (n, h, w, 3) side by side with a gap of
    paper to the right of each and below."""
    n, h, w, _ = frames.shape
    spaced = np.full((h + gap, n, w + gap, 3), PAPER, np.uint8)
    spaced[:h, :, :w] = frames.swapaxes(0, 1)
    return np.concatenate([*before, spaced.reshape(h + gap, n * (w + gap), 3)], axis=1)


def below(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Blocks below each other, paper to the right of the narrow ones."""
    page = empty(max(block.shape[1] for block in blocks), sum(map(len, blocks)))
    top = 0
    for block in blocks:
        page[top : top + len(block), : block.shape[1]] = block
        top += len(block)
    return page
