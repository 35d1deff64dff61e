"""Some clips to look at: truth, every arm and the copy, as a sheet and in motion (host code)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dispose_jax.evaluation.ablation.clips import SETS
from dispose_jax.evaluation.ablation.run import COPY, TRUTH, AblationResults
from dispose_jax.media import montage

PICTURE_SIDE = 128  # pixels that small pictures are enlarged to, about
LABEL = 200  # pixels: width of a row's name
TURNS = 4  # how often the video shows its clips, which are short


def sheet(results: AblationResults) -> np.ndarray:
    """Clips of both sets, one below the other: a line of frames for the truth, every arm and the
    copy. (rows, columns, 3) uint8."""
    blocks = []
    for kind, clip in _shown(results):
        blocks.append(_title(f"{kind}, clip {clip}"))
        for row in _pictured(results):
            frames = montage.enlarged(results.pictures[kind][row][clip], PICTURE_SIDE)
            blocks.append(montage.row(frames, before=[_name(row, frames.shape[1])]))
    return montage.below(blocks)


def movie(results: AblationResults) -> Iterator[np.ndarray]:
    """The same in motion, (1, rows, columns, 3) uint8 each: a line for every clip, beside each
    other the truth, every arm and the copy."""
    rows = _pictured(results)
    count = len(results.pictures[SETS[0]][TRUTH][0])
    for frame in list(range(count)) * TURNS:
        blocks = []
        for kind, clip in _shown(results):
            pictures = np.stack([results.pictures[kind][row][clip][frame] for row in rows])
            pictures = montage.enlarged(pictures, PICTURE_SIDE)
            if not blocks:
                width = pictures.shape[2] + montage.GAP
                heads = [_title(row, width) for row in rows]
                blocks.append(np.concatenate([_title("", LABEL), *heads], axis=1))
            name = _name(f"{kind}, clip {clip}", pictures.shape[1])
            blocks.append(montage.row(pictures, before=[name]))
        yield montage.below(blocks)[None]


def _shown(results: AblationResults) -> Iterator[tuple[str, int]]:
    """(set, clip) of the frames that were kept."""
    for kind in SETS:
        yield from ((kind, clip) for clip in range(len(results.pictures[kind][TRUTH])))


def _pictured(results: AblationResults) -> list[str]:
    """Rows with pictures: the truth, every variant, the copy."""
    variants = dict.fromkeys(arm.variant for arm in results.arms)
    return [TRUTH, *variants, COPY]


def _name(text: str, height: int) -> np.ndarray:
    """What stands to the left of pictures."""
    return montage.written(text, LABEL, height + montage.GAP)


def _title(text: str, width: int = 2 * LABEL) -> np.ndarray:
    """What stands above pictures."""
    return montage.written(text, width, 22)
