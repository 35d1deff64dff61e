"""Some clips to look at: truth, every arm and the copy, as a sheet and in motion (host code)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dispose_jax.evaluation.ablation.clips import SETS
from dispose_jax.evaluation.ablation.run import COPY, TRUTH, Results

PICTURE_SIDE = 128  # pixels that small pictures are enlarged to, about
GAP, LABEL = 4, 200  # pixels: around pictures, width of a row's name
TURNS = 4  # how often the video shows its clips, which are short
PAPER, INK = (250, 250, 248), (30, 30, 34)


def sheet(results: Results) -> np.ndarray:
    """Clips of both sets, one below the other: a line of frames for the truth, every arm and the
    copy. (rows, columns, 3) uint8."""
    blocks = []
    for kind, clip in _shown(results):
        blocks.append(_title(f"{kind}, clip {clip}"))
        for row in _pictured(results):
            frames = _enlarged(results.pictures[kind][row][clip])
            blocks.append(np.concatenate([_name(row, frames.shape[1]), *_spaced(frames)], axis=1))
    return _page(blocks)


def movie(results: Results) -> Iterator[np.ndarray]:
    """The same in motion, (1, rows, columns, 3) uint8 each: a line for every clip, beside each
    other the truth, every arm and the copy."""
    rows = _pictured(results)
    count = len(results.pictures[SETS[0]][TRUTH][0])
    for frame in list(range(count)) * TURNS:
        blocks = []
        for kind, clip in _shown(results):
            pictures = np.stack([results.pictures[kind][row][clip][frame] for row in rows])
            pictures = _enlarged(pictures)
            if not blocks:
                width = pictures.shape[2] + GAP
                heads = [_title(row, width) for row in rows]
                blocks.append(np.concatenate([_title("", LABEL), *heads], axis=1))
            name = _name(f"{kind}, clip {clip}", pictures.shape[1])
            blocks.append(np.concatenate([name, *_spaced(pictures)], axis=1))
        yield _page(blocks)[None]


def _shown(results: Results) -> Iterator[tuple[str, int]]:
    """(set, clip) of the frames that were kept."""
    for kind in SETS:
        yield from ((kind, clip) for clip in range(len(results.pictures[kind][TRUTH])))


def _pictured(results: Results) -> list[str]:
    """Rows with pictures: the truth, every variant, the copy."""
    variants = dict.fromkeys(arm.variant for arm in results.arms)
    return [TRUTH, *variants, COPY]


def _enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames (n, h, w, 3) whole times as large."""
    times = max(1, PICTURE_SIDE // max(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def _spaced(frames: np.ndarray) -> list[np.ndarray]:
    """Frames with paper to the right of each and below."""
    paper = lambda frame: [
        np.pad(channel, [(0, GAP), (0, GAP)], constant_values=value)
        for channel, value in zip(np.moveaxis(frame, -1, 0), PAPER)
    ]
    return [np.stack(paper(frame), -1) for frame in frames]


def _name(text: str, height: int) -> np.ndarray:
    """What stands to the left of pictures."""
    return _written(text, LABEL, height + GAP)


def _title(text: str, width: int = 2 * LABEL) -> np.ndarray:
    """What stands above pictures."""
    return _written(text, width, 22)


def _written(text: str, width: int, height: int) -> np.ndarray:
    box = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(box).text((GAP, height // 2), text, INK, ImageFont.load_default(12), "lm")
    return np.array(box)


def _page(blocks: list[np.ndarray]) -> np.ndarray:
    """Blocks below each other on paper."""
    width = max(block.shape[1] for block in blocks)
    page = np.empty((sum(len(block) for block in blocks), width, 3), np.uint8)
    page[:] = PAPER
    top = 0
    for block in blocks:
        page[top : top + len(block), : block.shape[1]] = block
        top += len(block)
    return page
